//! Namespaces: new ones, those of others, and those of the caller.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Fixture, refused, said};

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

fn listed(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({"type": kind})).collect()
}

/// Names in `/proc/self/ns` and in configurations.
const KINDS: [(&str, &str); 6] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mnt", "mount"),
    ("net", "network"),
    ("pid", "pid"),
    ("uts", "uts"),
];

#[test]
fn namespaces_that_are_listed_are_new_and_others_the_callers() {
    let line =
        "for kind in cgroup ipc mnt net pid time user uts; do readlink /proc/self/ns/$kind; done";
    let all: Vec<&str> = KINDS.iter().map(|(_, kind)| *kind).chain(["time"]).collect();
    let new = said(line, &json!({"linux": {"namespaces": listed(&all)}}));
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "uts"] {
        assert!(!new.contains(&own(kind)), "{kind}: {new}");
    }
    assert!(new.contains(&own("user")), "{new}");
    let few = said(line, &json!({"hostname": "", "linux": {"namespaces": listed(&["mount"])}}));
    for kind in ["cgroup", "ipc", "net", "pid", "time", "user", "uts"] {
        assert!(few.contains(&own(kind)), "{kind}: {few}");
    }
}

#[test]
fn namespaces_of_others_are_joined_by_their_paths() {
    let first = Fixture::new(
        "sleep 1000",
        &json!({"hostname": "first",
        "linux": {"namespaces": listed(&["mount", "pid", "ipc", "uts", "network", "cgroup", "time"])}}),
    );
    first.create();
    first.start();
    let pid = first.state()["pid"].clone();
    let path = |name: &str| format!("/proc/{pid}/ns/{name}");
    let joined: Vec<Value> = [
        ("ipc", "ipc"),
        ("net", "network"),
        ("pid", "pid"),
        ("uts", "uts"),
        ("cgroup", "cgroup"),
        ("time", "time"),
    ]
    .iter()
    .map(|(name, kind)| json!({"type": kind, "path": path(name)}))
    .chain([json!({"type": "mount"})])
    .collect();
    let line =
        "hostname; for kind in cgroup ipc net pid time uts; do readlink /proc/self/ns/$kind; done";
    let second = said(line, &json!({"hostname": "", "linux": {"namespaces": joined}}));
    assert!(second.starts_with("first\n"), "{second}");
    for name in ["cgroup", "ipc", "net", "pid", "time", "uts"] {
        let theirs = fs::read_link(path(name)).unwrap().display().to_string();
        assert!(second.contains(&theirs), "{name}: {second}");
    }
}

#[test]
fn a_path_that_is_no_such_namespace_is_an_error() {
    let with = |path: &str| json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": path}]}});
    assert!(refused(&with("/proc/self/ns/uts")).contains("namespaces"));
    assert!(refused(&with("/etc/passwd")).contains("namespaces"));
    assert!(refused(&with("/no/such/namespace")).contains("cannot open"));
    assert!(refused(&with("proc/self/ns/net")).contains("not absolute"));
}

#[test]
fn a_namespace_that_is_listed_twice_is_an_error() {
    let twice = json!({"linux": {"namespaces": listed(&["mount", "uts", "ipc", "ipc"])}});
    assert!(refused(&twice).contains("listed twice"));
    assert!(
        refused(&json!({"linux": {"namespaces": listed(&["mount", "weather"])}}))
            .contains("config.json")
    );
}

/// A container in a user namespace.
fn mapped(line: &str, more: &Value) -> Fixture {
    let mut base = json!({"linux": {
        "namespaces": listed(&["mount", "pid", "ipc", "uts", "network", "user"]),
        "uidMappings": [{"containerID": 0, "hostID": 300_000, "size": 1000}, {"containerID": 1000, "hostID": 500_000, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 400_000, "size": 2000}]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]}]});
    if let (Some(base), Some(more)) = (base.as_object_mut(), more.as_object()) {
        base.extend(more.clone());
    }
    let fixture = Fixture::writing(line, &base);
    std::os::unix::fs::chown(fixture.path("bundle/rootfs"), Some(300_000), Some(400_000)).unwrap();
    fixture
}

#[test]
fn ids_are_mapped_in_a_user_namespace() {
    let line = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map; hostname; stat -c %u:%g /dev/null /dev/pts";
    let fixture = mapped(line, &json!({}));
    let (code, said) = fixture.probe();
    let said: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(code, 0, "{said:?} {}", fixture.log());
    assert_eq!(said[..2], ["0", "0"]);
    assert_eq!(said[2..5], ["0 300000 1000", "1000 500000 1", "0 400000 2000"]);
    assert_eq!(said[5..], ["harbour", "0:0", "0:0"]);
    use std::os::unix::fs::MetadataExt;
    let written = fs::metadata(fixture.path("bundle/rootfs/out")).unwrap();
    assert_eq!((written.uid(), written.gid()), (300_000, 400_000));
}

#[test]
fn a_user_namespace_holds_for_further_processes_too() {
    let fixture = mapped("sleep 1000", &json!({}));
    fixture.create();
    fixture.start();
    let exec = [
        "exec",
        "--user",
        "1000:3",
        &fixture.name,
        "sh",
        "-c",
        "id -u; id -g; cat /proc/self/uid_map",
    ];
    let path = fixture.path("bundle/rootfs/more");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let line = "{ id -u; id -g; } > /more";
    fixture.good(&[&exec[..5], &["-c", line]].concat());
    assert_eq!(fs::read_to_string(path).unwrap(), "1000\n3\n");
}

#[test]
fn mappings_and_user_namespaces_go_together() {
    let names = |kinds: &[&str]| listed(&[&["mount", "uts"], kinds].concat());
    let range = json!([{"containerID": 0, "hostID": 300_000, "size": 10}]);
    let users = json!({"linux": {"namespaces": names(&["user"]), "uidMappings": range}});
    assert!(refused(&users).contains("needs mappings"));
    let alone =
        json!({"linux": {"namespaces": names(&[]), "uidMappings": range, "gidMappings": range}});
    assert!(refused(&alone).contains("no user namespace"));
    let twice = json!([{"containerID": 0, "hostID": 1, "size": 10}, {"containerID": 5, "hostID": 100, "size": 10}]);
    let overlapping = json!({"linux": {"namespaces": names(&["user"]), "uidMappings": twice, "gidMappings": range}});
    assert!(refused(&overlapping).contains("cannot map"));
}

#[test]
fn the_user_namespace_of_another_is_joined() {
    let first = mapped("sleep 1000", &json!({}));
    first.create();
    first.start();
    let pid = first.state()["pid"].clone();
    let user = json!({"type": "user", "path": format!("/proc/{pid}/ns/user")});
    let more = json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}, user]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]});
    let second =
        Fixture::writing("cat /proc/self/uid_map | head -n 1; stat -c %u /dev/null", &more);
    std::os::unix::fs::chown(second.path("bundle/rootfs"), Some(300_000), Some(400_000)).unwrap();
    let (code, said) = second.probe();
    let said: Vec<&str> = said.split_whitespace().collect();
    assert_eq!((code, &said[..]), (0, &["0", "300000", "1000", "0"][..]), "{}", second.log());
}

#[test]
fn clocks_are_set_in_a_time_namespace() {
    let more = json!({"linux": {"namespaces": listed(&["mount", "pid", "uts", "time"]),
        "timeOffsets": {"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 2_000_000}}}});
    let seen = said("cat /proc/uptime /proc/self/timens_offsets", &more);
    let uptime: f64 = seen.split_whitespace().next().unwrap().parse().unwrap();
    assert!(uptime > 1_000_000.0, "{seen}");
    assert!(seen.contains("2000000"), "{seen}");
    let alone = json!({"linux": {"timeOffsets": {"boottime": {"secs": 5}}}});
    assert!(refused(&alone).contains("no time namespace"));
    let both = json!({"linux": {
        "namespaces": listed(&["mount", "pid", "uts", "network", "user", "time"]),
        "timeOffsets": {"boottime": {"secs": 3_000_000}}}});
    let fixture = mapped("cat /proc/uptime", &json!({}));
    let path = fixture.path("bundle/config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["linux"]["namespaces"] = both["linux"]["namespaces"].clone();
    value["linux"]["timeOffsets"] = both["linux"]["timeOffsets"].clone();
    fs::write(&path, value.to_string()).unwrap();
    let (code, said) = fixture.probe();
    assert!(code == 0 && said.starts_with('3'), "{said} {}", fixture.log());
}

#[test]
fn names_of_hosts_need_a_namespace_of_their_own() {
    assert_eq!(
        said("hostname; cat /proc/sys/kernel/domainname", &json!({"domainname": "sea.example"})),
        "harbour\nsea.example\n"
    );
    let without = json!({"linux": {"namespaces": listed(&["mount", "pid"])}});
    assert!(refused(&without).contains("host name"));
    let domain = json!({"hostname": "", "domainname": "x", "linux": {"namespaces": listed(&["mount", "pid"])}});
    assert!(refused(&domain).contains("domain name"));
}
