//! What is not done is refused, and leaves nothing behind.

use serde_json::{Value, json};

use crate::support::{Fixture, refused};

#[test]
fn bundles_that_ask_for_more_than_is_done() {
    for (more, wanted) in [
        (json!({"process": {"apparmorProfile": "x"}}), "apparmorProfile"),
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
    let fixture = Fixture::new("exit 0", &json!({}));
    let name = fixture.name.clone();
    for words in [
        &["--systemd-cgroup", "list"][..],
        &["--nonsense", "list"],
        &["--criu", "x", "list"],
        &["--rootless", "true", "list"],
        &["create", "--preserve-fds", "2", &name],
        &["create", "--preserve-fds", &name],
        &["create", "a/b"],
        &["create", ".."],
        &["events", &name],
        &["ps", &name],
        &["ps", "--format", "xml", &name],
        &["list", "x"],
        &["events", "--interval", "0s", &name],
        &["events", "--interval", "5 parsecs", &name],
        &["checkpoint", &name],
        &["restore", &name],
        &["update", &name],
        &["state"],
        &["kill", &name, "NOTHING"],
        &[],
    ] {
        let (code, output) = fixture.command(words);
        assert!(code != 0 && output.is_empty(), "{words:?}: {output}");
    }
    assert!(fixture.good(&["--version"]).contains("spec: 1."));
    for words in [&["help"][..], &["--help"], &["-h"]] {
        assert!(fixture.good(words).contains("Usage: berth oci"), "{words:?}");
    }
    let features: Value = serde_json::from_str(&fixture.good(&["features"])).unwrap();
    assert_eq!(features["linux"]["cgroup"]["systemd"], false);
}
