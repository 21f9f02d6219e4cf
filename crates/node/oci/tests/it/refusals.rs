//! What is not done is refused, and leaves nothing behind.

use serde_json::{Value, json};

use crate::support::Fixture;

fn refused(more: &Value) -> String {
    let fixture = Fixture::new("exit 0", more);
    let bundle = fixture.path("bundle").display().to_string();
    let said = fixture.bad(&["create", "--bundle", &bundle, &fixture.name]);
    assert_eq!(fixture.good(&["list"]).trim(), "[]", "nothing is left");
    said
}

#[test]
fn bundles_that_ask_for_more_than_is_done() {
    for (more, wanted) in [
        (json!({"hooks": {"prestart": [{"path": "/bin/true"}]}}), "hooks/prestart"),
        (json!({"process": {"apparmorProfile": "x"}}), "apparmorProfile"),
        (json!({"domainname": "x"}), "domainname"),
        (json!({"linux": {"rootfsPropagation": "shared"}}), "shared"),
        (json!({"linux": {"cgroupsPath": "system.slice:a:b"}}), "of systemd"),
        (json!({"linux": {"cgroupsPath": "/a/../../b"}}), "the cgroup"),
        (json!({"linux": {"namespaces": [{"type": "pid"}]}}), "without mounts of its own"),
        (json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}), "user"),
        (json!({"process": {"args": ["/bin/none"], "cwd": 5}}), "config.json"),
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
        &["create", "--no-pivot", &name],
        &["create", "--preserve-fds", "2", &name],
        &["create", "--preserve-fds", &name],
        &["create", "a/b"],
        &["create", ".."],
        &["events", &name],
        &["ps", &name],
        &["update", &name],
        &["state"],
        &["kill", &name, "NOTHING"],
        &[],
    ] {
        let (code, output) = fixture.command(words);
        assert!(code != 0 && output.is_empty(), "{words:?}: {output}");
    }
    assert!(fixture.good(&["--version"]).contains("spec: 1."));
    let features: Value = serde_json::from_str(&fixture.good(&["features"])).unwrap();
    assert_eq!(features["linux"]["cgroup"]["systemd"], false);
}
