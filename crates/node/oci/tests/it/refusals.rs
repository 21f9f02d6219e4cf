//! What is not done is refused, and leaves nothing behind.

use serde_json::{Value, json};

use crate::support::{Fixture, refused};

#[test]
fn bundles_that_ask_for_more_than_is_done() {
    for (more, wanted) in [
        (json!({"linux": {"cgroupsPath": "system.slice:a:b"}}), "of systemd"),
        (json!({"linux": {"cgroupsPath": "/a/../../b"}}), "the cgroup"),
        (json!({"linux": {"namespaces": [{"type": "pid"}]}}), "without mounts of its own"),
        (
            json!({"hostname": "", "linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}),
            "needs mappings",
        ),
        (json!({"process": {"env": 5}}), "config.json"),
    ] {
        let said = refused(&more);
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[test]
fn command_lines_that_mean_something_else() {
    // Of a container that runs, so that nothing but the words themselves can be what is refused.
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.start();
    let (name, other) = (fixture.name.clone(), format!("{}-other", fixture.name));
    let bundle = fixture.bundle();
    for (words, code, wanted) in [
        (&["--systemd-cgroup", "list"][..], 1, "--systemd-cgroup"),
        (&["--criu", "x", "list"], 1, "--criu"),
        (&["--rootless", "true", "list"], 1, "--rootless"),
        (&["create", "--bundle", &bundle, "--preserve-fds", "x", &other], 2, "--preserve-fds"),
        (&["create", "--preserve-fds", &name], 2, "is missing"),
        (&["create", "--bundle", &bundle, "a/b"], 1, "no name of a container"),
        (&["create", "--bundle", &bundle, ".."], 1, "no name of a container"),
        (&["create", "--bundle", &bundle, &name], 1, "exists already"),
        (&["ps", "--format", "xml", &name], 2, "xml"),
        (&["list", "x"], 2, "`x`"),
        (&["events", "--interval", "0s", &name], 2, "0s"),
        (&["events", "--interval", "5 parsecs", &name], 2, "5 parsecs"),
        (&["checkpoint", &name], 1, "checkpoint"),
        (&["restore", &name], 1, "restore"),
        (&["update", &name], 2, "update"),
        (&["state"], 2, "is missing"),
        (&["state", &other], 1, "does not exist"),
        (&["kill", &name, "NOTHING"], 2, "NOTHING"),
        (&[], 2, "a command is missing"),
    ] {
        let (found, output) = fixture.command(words);
        let said = fixture.logged();
        assert!(
            found == code && output.is_empty() && said.contains(wanted),
            "{words:?}: {found} {said} {output}"
        );
    }
    assert_eq!(fixture.state()["status"], "running");
    // No log is known then.
    assert_eq!(fixture.command(&["--nonsense", "list"]).0, 2);
    assert!(fixture.good(&["--version"]).contains("spec: 1."));
    for words in [&["help"][..], &["--help"], &["-h"]] {
        assert!(fixture.good(words).contains("Usage: berth oci"), "{words:?}");
    }
    let features: Value = serde_json::from_str(&fixture.good(&["features"])).unwrap();
    assert_eq!(features["linux"]["cgroup"]["systemd"], false);
}
