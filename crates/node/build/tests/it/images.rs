//! What instructions do to the image.

use berth_build::BuildRequest;

use crate::support::{args, project};

#[test]
fn run_leaves_its_changes_in_the_image() {
    let project = project(&[]);
    let image = project.build(
        "FROM busybox\nRUN echo one > /one && rm /etc/group\nRUN [\"sh\", \"-c\", \"cat /one; echo two > /two\"]\n",
    );
    assert_eq!(
        project.inside(&image, "cat /one /two; ls /etc/passwd /etc/group 2>/dev/null; true"),
        "one\ntwo\n/etc/passwd\n"
    );
    assert!(project.seen.output.lock().unwrap().contains("one"));
    assert_eq!(image.layers.len(), 3);
    // Mount points of the container are no part of the layer.
    let top = &project.store.layer_dirs(&image).unwrap()[2];
    let names: Vec<_> = std::fs::read_dir(top).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn here_documents_run_and_copy() {
    let project = project(&[]);
    let image = project.build(
        "FROM busybox\nARG who=world\nRUN <<EOF\nset -e\necho a > /a\necho $who >> /a\nEOF\n\
         RUN cat <<ONE > /b && true \\\n  && cat <<\"TWO\" >> /b  \nb $who\nONE\nc $who\nTWO\nRUN <<ONE cat >> /b\nd\nONE\n\
         COPY <<\"plain\" <<filled /docs/\nkeep $who\nplain\nhello $who\nfilled\n",
    );
    let text = project.inside(&image, "cat /a /b /docs/plain /docs/filled");
    assert_eq!(text, "a\nworld\nb world\nc $who\nd\nkeep $who\nhello world\n");
}

#[test]
fn settings_reach_the_configuration() {
    let project = project(&[]);
    let image = project.build(
        "FROM busybox\nENV A=1 B=\"two words\"\nENV C=$A-${B:-x}\nLABEL l=\"$A\" m=n\nUSER 1000:1000\nEXPOSE 80 53/udp\n\
         VOLUME /data [\"/more\"]\nVOLUME [\"/json\"]\nENTRYPOINT [\"/bin/x\"]\nCMD y \\\n  # note\n  z\nSTOPSIGNAL SIGINT\n\
         HEALTHCHECK --interval=5s --retries=2 CMD wget -q localhost\nWORKDIR /a\nWORKDIR b\nMAINTAINER somebody\n",
    );
    let config = image.config.config().clone().unwrap();
    assert!(config.env().as_ref().unwrap().contains(&"C=1-two words".to_owned()));
    assert_eq!(config.labels().as_ref().unwrap()["l"], "1");
    assert_eq!(config.user().as_deref(), Some("1000:1000"));
    let mut ports = config.exposed_ports().clone().unwrap();
    ports.sort();
    assert_eq!(ports, ["53/udp", "80/tcp"]);
    assert!(config.volumes().as_ref().unwrap().contains(&"/json".to_owned()));
    assert_eq!(config.entrypoint().as_deref(), Some(&["/bin/x".to_owned()][..]));
    assert_eq!(config.cmd().as_ref().unwrap()[..2], ["/bin/sh", "-c"]);
    assert_eq!(config.working_dir().as_deref(), Some("/a/b"));
    assert_eq!(config.stop_signal().as_deref(), Some("SIGINT"));
    let check = image.docker.healthcheck.clone().unwrap();
    assert_eq!((check.interval, check.retries), (5_000_000_000, 2));
    assert_eq!(check.test, ["CMD-SHELL", "wget -q localhost"]);
    assert_eq!(image.config.author().as_deref(), Some("somebody"));
    let history = image.config.history().clone().unwrap();
    let layers = history.iter().filter(|one| one.empty_layer() != Some(true)).count();
    assert_eq!(layers, image.layers.len());
}

#[test]
fn an_entrypoint_forgets_the_command_of_the_base() {
    let project = project(&[]);
    let image = project.build("FROM busybox\nENTRYPOINT [\"a\"]\n");
    assert_eq!(image.config.config().as_ref().unwrap().cmd(), &None);
    let image = project.build("FROM busybox\nCMD [\"b\"]\nENTRYPOINT [\"a\"]\n");
    assert_eq!(
        image.config.config().as_ref().unwrap().cmd().as_deref(),
        Some(&["b".to_owned()][..])
    );
}

#[test]
fn arguments_are_scoped_as_docker_scopes_them() {
    let project = project(&[]);
    project.write(
        "Dockerfile",
        "ARG base=busybox\nARG shared=global\nFROM $base AS one\nRUN echo \"[$shared][$own][$TARGETARCH]\" > /one\n\
         FROM one\nARG shared\nARG own=default\nARG TARGETARCH\nENV own=env\nRUN echo \"[$shared][$own][$TARGETARCH]\" > /two\n",
    );
    let request =
        BuildRequest { args: args(&[("own", "given"), ("stray", "1")]), ..project.request() };
    let image = project.try_build(&request).unwrap();
    assert_eq!(project.inside(&image, "cat /one /two"), "[][][]\n[global][env][amd64]\n");
    assert!(
        project
            .seen
            .take()
            .contains(&"warning: build argument `stray` is declared by no ARG".to_owned())
    );
}

#[test]
fn the_shell_and_the_user_and_the_directory_count_for_run() {
    let project = project(&[]);
    let image = project.build(
        "FROM busybox\nWORKDIR /tmp/w\nRUN chmod 777 .\nUSER nobody\nRUN id -u > who && pwd >> who\n\
         USER root\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN false || true; echo $- > /flags\n",
    );
    let text = project.inside(&image, "cat /tmp/w/who /flags");
    assert!(text.starts_with("65534\n/tmp/w\n") && text.contains('e'), "{text}");
}

#[test]
fn an_image_from_scratch_has_only_what_was_copied() {
    let project = project(&[("hello", "hi")]);
    let image = project.build("FROM scratch\nCOPY hello /\n");
    let dirs = project.store.layer_dirs(&image).unwrap();
    assert_eq!(dirs.len(), 1);
    assert_eq!(std::fs::read_to_string(dirs[0].join("hello")).unwrap(), "hi");
}

#[test]
fn mounts_of_a_step_are_no_part_of_the_layer() {
    let project = project(&[
        ("data/x", "from context"),
        (".dockerignore", "data/secret"),
        ("data/secret", "s"),
    ]);
    let dockerfile = |n: u32| {
        format!(
            "FROM busybox AS other\nRUN echo other > /o\nFROM busybox\n\
             RUN --mount=type=bind,source=data,target=/in --mount=type=cache,target=/cache \
             --mount=type=bind,from=other,source=/o,target=/other --mount=type=tmpfs,target=/mem \
             echo {n} >> /cache/runs && cat /in/x /other > /out && ls /in >> /out && cat /cache/runs >> /out && \
             echo m > /mem/m && ! touch /in/y\n"
        )
    };
    project.build(&dockerfile(1));
    let image = project.build(&dockerfile(2));
    assert_eq!(project.inside(&image, "cat /out"), "from contextother\nx\n1\n2\n");
    assert_eq!(project.inside(&image, "ls /mem /in /cache 2>/dev/null | wc -w; ls /in"), "3\n");
}

#[test]
fn a_network_of_none_has_no_way_out() {
    let project = project(&[]);
    let image = project.build("FROM busybox\nRUN --network=none ip -o link | wc -l > /links\n");
    assert_eq!(project.inside(&image, "cat /links").trim(), "1");
}
