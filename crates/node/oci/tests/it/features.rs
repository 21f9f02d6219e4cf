//! What the runtime says of itself is so.

use serde_json::{Value, json};

use crate::support::{Fixture, said};

fn features() -> Value {
    let fixture = Fixture::new("true", &json!({}));
    serde_json::from_str(&fixture.good(&["features"])).unwrap()
}

#[test]
fn the_versions_that_are_named_are_taken() {
    let all = features();
    let (least, most) = (&all["ociVersionMin"], &all["ociVersionMax"]);
    for version in [least, most] {
        assert_eq!(said("echo in", &json!({"ociVersion": version})), "in\n");
    }
    let number = |version: &Value| -> Vec<u32> {
        version.as_str().unwrap().split('.').map(|part| part.parse().unwrap()).collect()
    };
    assert!(number(least) <= number(most));
}

#[test]
fn the_security_modules_that_are_named_are_the_kernels_and_take_labels() {
    let linux = features()["linux"].clone();
    // The list of the kernel itself, where it is in sight, is another source than the one we read.
    let listed = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    for (module, more) in [
        ("apparmor", json!({"process": {"apparmorProfile": "berth-no-such-profile"}})),
        ("selinux", json!({"process": {"selinuxLabel": "berth_no:such:label:s0"}})),
        ("selinux", json!({"linux": {"mountLabel": "berth_no:such:label:s0"}})),
    ] {
        let enabled = linux[module]["enabled"].as_bool().unwrap();
        if !listed.is_empty() && !enabled {
            assert!(!listed.split(',').any(|name| name.trim() == module), "{module}: {listed}");
        }
        // There is no such label in any kernel; where the module is not there, that is what is said.
        let said = crate::support::refused(&more);
        assert_eq!(!said.contains("in the kernel is not supported"), enabled, "{module}: {said}");
    }
}

#[test]
fn only_properties_of_the_specification_are_there() {
    let all = features();
    let known = [
        "ociVersionMin",
        "ociVersionMax",
        "hooks",
        "mountOptions",
        "linux",
        "annotations",
        "potentiallyUnsafeConfigAnnotations",
    ];
    assert!(all.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{all}");
    let linux = [
        "namespaces",
        "capabilities",
        "cgroup",
        "seccomp",
        "apparmor",
        "selinux",
        "intelRdt",
        "memoryPolicy",
        "mountExtensions",
        "netDevices",
    ];
    assert!(all["linux"].as_object().unwrap().keys().all(|key| linux.contains(&key.as_str())));
}

#[test]
fn the_hooks_that_are_named_are_called() {
    for kind in features()["hooks"].as_array().unwrap() {
        let hooks = json!({kind.as_str().unwrap(): [{"path": "/bin/false"}]});
        let fixture = Fixture::new("true", &json!({"hooks": hooks}));
        let bundle = fixture.bundle();
        let (code, _) = fixture.command(&["run", "--bundle", &bundle, &fixture.name]);
        assert!(fixture.log().contains(kind.as_str().unwrap()), "{kind}: {}", fixture.log());
        assert_eq!(code == 0, kind == "poststop");
    }
}

#[test]
fn the_namespaces_that_are_named_are_made() {
    for kind in features()["linux"]["namespaces"].as_array().unwrap() {
        let mut kinds =
            vec![json!({"type": "mount"}), json!({"type": "uts"}), json!({"type": "pid"})];
        kinds.retain(|it| it["type"] != *kind);
        kinds.push(json!({"type": kind}));
        let range = json!([{"containerID": 0, "hostID": 300_000, "size": 10}]);
        let mut more = json!({"linux": {"namespaces": kinds}});
        if kind == "user" {
            more["linux"]["uidMappings"] = range.clone();
            more["linux"]["gidMappings"] = range;
        }
        let fixture = Fixture::writing("echo in", &more);
        if kind == "user" {
            fixture.give_to(300_000);
        }
        assert_eq!(fixture.probe(), (0, "in\n".to_owned()), "{kind}: {}", fixture.log());
    }
}

#[test]
fn the_capabilities_that_are_named_are_known() {
    let all = features()["linux"]["capabilities"].clone();
    assert_eq!(all.as_array().unwrap().len(), 41);
    let fixture = Fixture::writing(
        "true",
        &json!({"process": {"capabilities": {"bounding": all, "permitted": all}}}),
    );
    assert_eq!(fixture.probe().0, 0);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let missing = 41 - u64::from_str_radix(bounding, 16).unwrap().count_ones();
    assert_eq!(
        fixture.log().matches("cannot be granted").count(),
        usize::try_from(missing).unwrap()
    );
}

#[test]
fn the_parts_of_filters_that_are_named_are_known() {
    let seccomp = &features()["linux"]["seccomp"];
    for action in seccomp["actions"].as_array().unwrap() {
        if action == "SCMP_ACT_NOTIFY" {
            continue; // Needs somebody who listens: see the tests of filters.
        }
        let rules = json!([{"names": ["reboot"], "action": action}]);
        let more =
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}}});
        assert_eq!(said("echo in", &more), "in\n", "{action}");
    }
    for operator in seccomp["operators"].as_array().unwrap() {
        let argument = json!({"index": 0, "value": 1, "valueTwo": 1, "op": operator});
        let rules = json!([{"names": ["reboot"], "action": "SCMP_ACT_ERRNO", "args": [argument]}]);
        let more =
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}}});
        assert_eq!(said("echo in", &more), "in\n", "{operator}");
    }
    let more = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": seccomp["archs"]}}});
    assert_eq!(said("echo in", &more), "in\n");
    assert_eq!(seccomp["knownFlags"], seccomp["supportedFlags"]);
}

#[test]
fn the_options_of_mounts_that_are_named_are_known() {
    let options = features()["mountOptions"].clone();
    assert!(options.as_array().unwrap().len() > 50, "{options}");
    for option in options.as_array().unwrap() {
        let kind = if option == "tmpcopyup" { "tmpfs" } else { "none" };
        let mut mount = json!({"destination": "/x", "type": kind, "source": "/tmp", "options": ["bind", option]});
        match option.as_str().unwrap() {
            "tmpcopyup" => mount["options"] = json!([option]),
            "remount" => mount["destination"] = json!("/proc"),
            "idmap" | "ridmap" => {
                mount["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
                mount["gidMappings"] = mount["uidMappings"].clone();
            }
            _ => {}
        }
        let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"}, mount]);
        let fixture = Fixture::writing("echo in", &json!({"mounts": mounts}));
        let (code, _) = fixture.probe();
        assert_eq!(code, 0, "{option}: {}", fixture.log());
    }
}
