//! Every failure names its place.

use berth_build::{BuildRequest, Pull};

use crate::support::{chain, project};

#[test]
fn a_failing_command_reports_its_code_and_last_lines() {
    let project = project(&[]);
    let error = project.build_error(
        "FROM busybox\n\n# comment\nRUN for i in $(seq 100); do echo line $i; done; echo oh no >&2; exit 7\n",
    );
    assert!(error.starts_with("/Dockerfile:4: RUN for i"), "{error}");
    assert!(error.contains("exited with code 7"), "{error}");
    assert!(error.ends_with("line 100\noh no"), "{error}");
    assert!(!error.contains("line 80\n"), "{error}");
    assert!(project.store.resolve("result").is_err());
}

#[test]
fn mistakes_are_found_with_their_line() {
    let project = project(&[("f", "")]);
    for (text, expected) in [
        ("RUN true\n", "/Dockerfile:1"),
        ("FROM busybox\nRUNN true\n", "/Dockerfile:2"),
        ("FROM busybox\nCOPY missing /\n", "/Dockerfile:2: COPY missing /: `missing` is not there"),
        (
            "FROM busybox\nCOPY --from=nosuch:1 /a /\n",
            "/Dockerfile:2: COPY --from=nosuch:1 /a /: cannot get image `nosuch:1`",
        ),
        ("FROM busybox\nCOPY --from=7 /a /\n", "there is no stage 7"),
        ("FROM nosuch\n", "/Dockerfile:1: FROM nosuch: cannot get image `nosuch:latest`"),
        ("FROM Bad\n", "/Dockerfile:1: FROM Bad: image name"),
        ("FROM --platform=linux/arm64 busybox\n", "--platform=linux/arm64"),
        (
            "FROM busybox\nRUN --mount=type=secret,id=x true\n",
            "/Dockerfile:2: RUN --mount=type=secret,id=x true: RUN --mount=type=secret is not supported yet",
        ),
        ("FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked true\n", "`sharing`"),
        ("FROM busybox\nRUN --security=insecure true\n", "--security is not supported yet"),
        ("FROM busybox\nCOPY --parents f /\n", "--parents is not supported yet"),
        ("FROM busybox\nADD https://example.org/x /\n", "from the network is not supported yet"),
        (
            "FROM busybox\nONBUILD RUN true\n",
            "/Dockerfile:2: ONBUILD RUN true: ONBUILD is not supported yet",
        ),
        ("FROM busybox\nENV a\n", "/Dockerfile:2: ENV a: `a` has no value"),
        ("FROM busybox\nENV a=${b:?must be set}\n", "variable `b` is not set: must be set"),
        ("FROM busybox\nEXPOSE x\n", "`x` is not a port"),
        ("FROM busybox\nCOPY --chown=nobody2 f /\n", "the image has no user `nobody2`"),
        ("FROM busybox\nHEALTHCHECK --interval=5 CMD true\n", "`5` is not a duration"),
    ] {
        let error = project.build_error(text);
        assert!(error.contains(expected), "{text}\n{error}");
    }
}

#[test]
fn images_are_not_pulled_when_they_must_not_be() {
    let project = project(&[("Dockerfile", "FROM nosuch\n")]);
    let request = BuildRequest { pull: Pull::Never, ..project.request() };
    let error = chain(&project.try_build(&request).unwrap_err());
    assert!(error.contains("must not be pulled"), "{error}");
}
