//! COPY and ADD.

use std::process::Command;

use crate::support::project;

#[test]
fn copies_files_and_folders_as_docker_does() {
    let project = project(&[
        ("a", "a"),
        ("dir/b", "b"),
        ("dir/sub/c", "c"),
        ("x1.txt", "1"),
        ("x2.txt", "2"),
        ("y.md", "y"),
    ]);
    std::os::unix::fs::symlink("b", project.context().join("dir/link")).unwrap();
    let image = project.build(
        "FROM busybox\nWORKDIR /w\nCOPY a renamed\nCOPY a .\nCOPY dir /d\nCOPY dir/ /d2/\nCOPY *.txt /txt/\n\
         COPY a dir/b /many/\nCOPY [\"dir/sub/c\", \"/with space/\"]\n",
    );
    let text =
        project.inside(&image, "cd /; find w d d2 txt many 'with space' -type f -o -type l | sort");
    let expected = "d/b d/link d/sub/c d2/b d2/link d2/sub/c many/a many/b txt/x1.txt txt/x2.txt w/a w/renamed with space/c";
    assert_eq!(text.trim().replace('\n', " "), expected);
    assert_eq!(project.inside(&image, "readlink /d/link; stat -c '%u:%g' /d/b"), "b\n0:0\n");
}

#[test]
fn ignored_files_are_not_there() {
    let project = project(&[
        ("keep", ""),
        ("drop.log", ""),
        ("node_modules/x/y", ""),
        ("docs/a", ""),
        ("docs/README", ""),
        (".dockerignore", "*.log\nnode_modules\ndocs\n!docs/README\n"),
    ]);
    let image = project.build("FROM busybox\nCOPY . /all/\n");
    let text = project.inside(&image, "cd /all; find . -type f | sort");
    assert_eq!(text, "./.dockerignore\n./Dockerfile\n./docs/README\n./keep\n");
    assert!(
        project.build_error("FROM busybox\nCOPY drop.log /\n").contains("`drop.log` is not there")
    );
    project.write("Dockerfile.dockerignore", "keep\n");
    assert!(project.build_error("FROM busybox\nCOPY keep /\n").contains("`keep` is not there"));
}

#[test]
fn owners_and_modes_can_be_given() {
    let project = project(&[("f", "")]);
    let image = project.build(
        "FROM busybox\nRUN echo app:x:1234:1234::/:/bin/sh >> /etc/passwd\nCOPY --chown=app --chmod=600 f /one\nCOPY --chown=5:6 f /new/two\nCOPY f /three\n",
    );
    let text = project.inside(&image, "stat -c '%u:%g %a' /one /new/two /new /three");
    assert_eq!(text, "1234:1234 600\n5:6 644\n5:6 755\n0:0 644\n");
}

#[test]
fn stages_and_images_give_their_files_with_owners() {
    let project = project(&[]);
    let image = project.build(
        "FROM busybox AS make\nRUN mkdir /out && echo o > /out/f && chown 7:8 /out/f && rm -r /home && mkdir /home && echo n > /home/new\n\
         FROM busybox\nCOPY --from=make /out /got\nCOPY --from=0 /home /home2\nCOPY --from=busybox /etc/passwd /pw\nCOPY --from=make --chown=1 /out/f /mine\n",
    );
    let text = project.inside(&image, "stat -c '%u:%g' /got/f /mine; ls /home2; head -c 4 /pw");
    assert_eq!(text, "7:8\n1:1\nnew\nroot");
}

#[test]
fn links_in_the_image_are_followed_inside_it() {
    let project = project(&[("f", "x"), ("d/g", "g")]);
    let image = project.build(
        "FROM busybox\nRUN mkdir /real && chmod 700 /real && ln -s real /way && ln -s /../../real /abs\nCOPY f /way/\nCOPY d /abs\n",
    );
    assert_eq!(
        project.inside(&image, "ls /real; stat -c %a /real; readlink /way"),
        "f\ng\n700\nreal\n"
    );
}

#[test]
fn nothing_outside_the_context_can_be_copied() {
    let project = project(&[("d/x", "")]);
    std::fs::write(project.folder.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink("../secret", project.context().join("way")).unwrap();
    std::os::unix::fs::symlink("/etc", project.context().join("d/etc")).unwrap();
    for source in ["../secret", "way", "d/etc/passwd", "/../secret"] {
        let error = project.build_error(&format!("FROM busybox\nCOPY {source} /\n"));
        assert!(error.starts_with("/Dockerfile:2: COPY"), "{error}");
    }
}

#[test]
fn add_extracts_archives_and_copy_does_not() {
    let project = project(&[("src/in", "inside"), ("plain.gz", "not really")]);
    let run = |args: &[&str]| {
        let status =
            Command::new("tar").args(args).current_dir(project.context()).status().unwrap();
        assert!(status.success());
    };
    run(&["-czf", "a.tar.gz", "src"]);
    run(&["-cJf", "a.tar.xz", "src"]);
    let image =
        project.build("FROM busybox\nADD a.tar.gz /x/\nCOPY a.tar.gz /y/\nADD plain.gz /y/\n");
    assert_eq!(project.inside(&image, "cat /x/src/in; ls /y"), "insidea.tar.gz\nplain.gz\n");
    let error = project.build_error("FROM busybox\nADD a.tar.xz /x/\n");
    assert!(error.contains("not supported yet"), "{error}");
}
