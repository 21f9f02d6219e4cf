//! The configuration as a whole: versions, the root, annotations, and what is unknown or wrong.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Fixture, refused, said};

#[test]
fn versions_that_are_known_or_only_newer_are_taken() {
    for version in ["1.0.0", "1.0.2-dev", "1.2.0", "1.3.0", "1.99.0"] {
        assert_eq!(said("echo in", &json!({"ociVersion": version})), "in\n");
    }
    for version in ["", "1", "0.1.0", "2.0.0", "one", "1.0.0-?"] {
        assert!(refused(&json!({"ociVersion": version})).contains("no version"), "{version}");
    }
    assert!(refused(&json!({"ociVersion": Value::Null})).contains("no version"));
}

#[test]
fn a_bundle_has_a_configuration_of_its_name_and_a_root() {
    let fixture = Fixture::new("true", &json!({}));
    fs::rename(fixture.path("bundle/config.json"), fixture.path("bundle/other.json")).unwrap();
    assert!(fixture.refused().contains("config.json"));
    assert!(refused(&json!({"root": Value::Null})).contains("no root"));
    assert!(refused(&json!({"root": {"path": "nowhere"}})).contains("nowhere"));
    assert!(
        refused(&json!({"root": {"path": "rootfs/bin/sh"}})).contains("rootfs/bin/sh"),
        "a file is no root"
    );
}

#[test]
fn a_root_may_be_named_by_an_absolute_path() {
    let fixture = Fixture::writing("echo in", &json!({}));
    let path = fixture.path("bundle/config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["root"]["path"] = json!(fixture.path("bundle/rootfs"));
    fs::write(&path, value.to_string()).unwrap();
    assert_eq!(fixture.probe(), (0, "in\n".to_owned()));
}

#[test]
fn a_root_is_read_only_if_it_says_so() {
    let line = "touch /new 2> /dev/null && echo writable || echo read-only";
    let scratch = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}]);
    let fixture = Fixture::new(
        &format!(
            "{{ {line}; touch /scratch/new && echo work; }} > /dev/shm/out; cat /dev/shm/out > /kept/out"
        ),
        &json!({"root": {"path": "rootfs", "readonly": true}, "mounts": scratch}),
    );
    let kept = fixture.path("kept");
    fs::create_dir(&kept).unwrap();
    let path = fixture.path("bundle/config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/kept", "type": "bind", "source": kept, "options": ["bind", "rw"]}),
    );
    fs::write(&path, value.to_string()).unwrap();
    let bundle = fixture.bundle();
    assert_eq!(
        fixture.command(&["run", "--bundle", &bundle, &fixture.name]).0,
        0,
        "{}",
        fixture.log()
    );
    assert_eq!(fs::read_to_string(kept.join("out")).unwrap(), "read-only\nwork\n");
    assert_eq!(said(line, &json!({"root": {"path": "rootfs"}})), "writable\n");
}

#[test]
fn annotations_are_texts_with_names() {
    assert_eq!(
        said("echo in", &json!({"annotations": {"org.example.unknown": "x", "empty": ""}})),
        "in\n"
    );
    assert!(refused(&json!({"annotations": {"": "x"}})).contains("annotation"));
    for value in [json!(5), json!(["x"]), json!({"a": "b"})] {
        assert!(refused(&json!({"annotations": {"a": value}})).contains("config.json"), "{value}");
    }
}

#[test]
fn unknown_fields_are_passed_over() {
    let more = json!({"future": {"a": 1}, "process": {"future": true}, "linux": {"future": [1], "resources": {"future": 1}},
        "root": {"path": "rootfs", "future": "x"}});
    assert_eq!(said("echo in", &more), "in\n");
}

#[test]
fn values_that_are_wrong_are_errors() {
    for more in [
        json!({"process": {"terminal": "yes"}}),
        json!({"process": {"user": {"uid": -1, "gid": 0}}}),
        json!({"process": {"user": {"uid": "root", "gid": 0}}}),
        json!({"mounts": "all"}),
        json!({"linux": {"resources": {"memory": {"limit": "much"}}}}),
        json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_WHATEVER"}}}),
        json!({"linux": {"rootfsPropagation": "sideways"}}),
        json!({"linux": {"devices": [{"type": "q", "path": "/dev/x", "major": 1, "minor": 1}]}}),
        json!({"linux": {"resources": {"devices": [{"allow": "perhaps"}]}}}),
        json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 9}}}),
        json!({"process": {"scheduler": {"policy": "SCHED_BEST"}}}),
        json!({"linux": {"personality": {"domain": "WINDOWS"}}}),
    ] {
        let said = refused(&more);
        assert!(!said.is_empty(), "{more}");
    }
    let fixture = Fixture::new("true", &json!({}));
    fs::write(fixture.path("bundle/config.json"), "{ not JSON").unwrap();
    assert!(fixture.refused().contains("config.json"));
}

#[test]
fn configurations_of_other_platforms_are_refused() {
    for platform in ["windows", "solaris", "vm", "zos"] {
        assert!(refused(&json!({platform: {"x": 1}})).contains(platform));
    }
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    for (more, wanted) in [
        (json!({"linux": {"intelRdt": {"closID": "a"}}}), "intelRdt"),
        (json!({"linux": {"intelRdt": {}}}), "intelRdt"),
        (json!({"linux": {"netDevices": {"eth0": {}}}}), "netDevices"),
        (json!({"linux": {"mountLabel": "x"}}), "mountLabel"),
        (json!({"process": {"selinuxLabel": "x"}}), "selinuxLabel"),
        (json!({"process": {"apparmorProfile": "x"}}), "apparmorProfile"),
        (
            json!({"linux": {"personality": {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}}}),
            "personality",
        ),
    ] {
        let said = refused(&more);
        assert!(said.contains(wanted) && said.contains("not supported"), "{wanted}: {said}");
    }
}
