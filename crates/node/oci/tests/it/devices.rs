//! Devices: those that every container has, and those that are asked for.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Fixture, refused, said};

#[test]
fn every_container_has_the_standard_devices() {
    let seen =
        said("cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty", &json!({}));
    let wanted = "null character special file 1:3 666\nzero character special file 1:5 666\n\
        full character special file 1:7 666\nrandom character special file 1:8 666\n\
        urandom character special file 1:9 666\ntty character special file 5:0 666\n";
    assert_eq!(seen, wanted);
    assert_eq!(said("echo gone > /dev/null; head -c 3 /dev/zero | wc -c", &json!({})).trim(), "3");
}

#[test]
fn the_links_of_devices_are_there() {
    let seen = said(
        "cd /dev; for link in fd stdin stdout stderr ptmx; do readlink $link; done",
        &json!({}),
    );
    assert_eq!(
        seen,
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n"
    );
}

#[test]
fn devices_that_are_asked_for_are_there() {
    let devices = json!([
        {"type": "c", "path": "/dev/one/two", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"type": "b", "path": "/dev/block", "major": 7, "minor": 200},
        {"type": "u", "path": "/dev/unbuffered", "major": 1, "minor": 3},
        {"type": "p", "path": "/dev/pipe"},
        {"type": "c", "path": "/somewhere/else", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 5},
    ]);
    let line = "stat -c '%n %F %t:%T %a %u:%g' /dev/one/two /dev/block /dev/unbuffered /dev/pipe /somewhere/else; head -c 2 /dev/one/two | wc -c";
    let root = json!({"bounding": ["CAP_DAC_OVERRIDE"], "permitted": ["CAP_DAC_OVERRIDE"], "effective": ["CAP_DAC_OVERRIDE"]});
    let more = json!({"process": {"capabilities": root}, "linux": {"devices": devices}});
    let seen = said(line, &more);
    let wanted = "/dev/one/two character special file 1:5 640 3:4\n/dev/block block special file 7:c8 666 0:0\n\
        /dev/unbuffered character special file 1:3 666 0:0\n/dev/pipe fifo 0:0 666 0:0\n\
        /somewhere/else character special file 1:7 600 5:0\n2\n";
    assert_eq!(seen, wanted);
}

#[test]
fn a_device_where_something_else_is_is_an_error() {
    let with = |device: Value| json!({"linux": {"devices": [device]}});
    let same = with(json!({"type": "c", "path": "/dev/null", "major": 1, "minor": 3}));
    assert_eq!(said("echo in", &same), "in\n");
    let other = with(json!({"type": "c", "path": "/dev/null", "major": 1, "minor": 5}));
    assert!(refused(&other).contains("devices"));
    let file = with(json!({"type": "c", "path": "/bin/sh", "major": 1, "minor": 5}));
    assert!(refused(&file).contains("/bin/sh"));
    let relative = with(json!({"type": "c", "path": "dev/x", "major": 1, "minor": 5}));
    assert!(refused(&relative).contains("not absolute"));
    let through_a_link = with(json!({"type": "c", "path": "/dev/fd/9", "major": 1, "minor": 5}));
    assert!(refused(&through_a_link).contains("devices"));
}

#[test]
fn rules_on_devices_hold_in_the_listed_order() {
    let rules = json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"}]);
    let devices = json!([{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229},
        {"type": "c", "path": "/dev/port", "major": 1, "minor": 4}]);
    let line = "head -c 0 /dev/fuse && echo readable; echo > /dev/fuse || echo no-write; head -c 1 /dev/port || echo no-read; \
        head -c 1 /dev/zero | wc -c; echo gone > /dev/null && echo null";
    let seen = said(line, &json!({"linux": {"devices": devices, "resources": {"devices": rules}}}));
    for wanted in ["readable", "no-write", "no-read", "1", "null"] {
        assert!(seen.lines().any(|line| line == wanted), "{wanted}: {seen}");
    }
}

#[test]
fn devices_of_which_no_rule_speaks_are_forbidden() {
    let devices = json!([{"type": "c", "path": "/dev/port", "major": 1, "minor": 4},
        {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229}]);
    let line = "head -c 0 /dev/fuse || echo no-fuse; head -c 1 /dev/zero | wc -c";
    for resources in [json!({}), json!({"devices": []}), Value::Null] {
        let seen = said(line, &json!({"linux": {"devices": devices, "resources": resources}}));
        assert!(seen.contains("no-fuse"), "{resources}: {seen}");
        assert!(seen.lines().any(|line| line == "1"), "{resources}: {seen}");
    }
}

#[test]
fn the_device_directory_of_the_host_may_be_bound() {
    let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind", "rprivate"]}]);
    let devices = json!([{"type": "c", "path": "/dev/null", "major": 1, "minor": 3}]);
    let seen = said(
        "ls -d /dev/kmsg; ls -d /dev/null",
        &json!({"mounts": mounts, "linux": {"devices": devices}}),
    );
    assert_eq!(seen, "/dev/kmsg\n/dev/null\n");
    let absent =
        json!([{"type": "c", "path": "/dev/berth-no-such-device", "major": 1, "minor": 3}]);
    let said = refused(&json!({"mounts": mounts, "linux": {"devices": absent}}));
    assert!(said.contains("berth-no-such-device"), "{said}");
    assert!(
        !fs::exists("/dev/berth-no-such-device").unwrap(),
        "nothing is made among the host's devices"
    );
}

#[test]
fn what_the_bundle_says_of_its_device_directory_holds() {
    let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=0711", "size=100k"]}]);
    let seen =
        said("stat -c %a /dev; grep ' /dev ' /proc/self/mountinfo", &json!({"mounts": mounts}));
    assert!(
        seen.starts_with("711\n") && seen.contains("size=100k") && !seen.contains("noexec"),
        "{seen}"
    );
}

#[test]
fn all_that_is_said_of_the_device_directory_is_done() {
    let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "ro", "noatime", "shared"]},
        {"destination": "/dev/made/for/it", "type": "tmpfs", "source": "tmpfs"}]);
    let line = "grep ' /dev ' /proc/self/mountinfo; touch /dev/new; head -c 1 /dev/zero | wc -c; touch /dev/made/for/it/new";
    let seen = said(line, &json!({"mounts": mounts}));
    let first = seen.lines().next().unwrap();
    assert!(first.contains(" ro,nosuid,noexec,noatime shared:"), "{seen}");
    assert!(seen.contains("Read-only file system") && seen.ends_with("1\n"), "{seen}");
    let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nodev"]}]);
    let seen = said("head -c 1 /dev/zero; true", &json!({"mounts": mounts}));
    assert!(seen.contains("Permission denied"), "{seen}");
    let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "options": ["remount", "ro"]}]);
    let seen = said("touch /dev/new; true", &json!({"mounts": mounts}));
    assert!(seen.contains("Read-only file system"), "{seen}");
}

/// With version 2 rules are a program; here it is loaded in a cgroup of its own, whatever the host has besides.
#[test]
fn rules_on_devices_are_a_program_where_there_are_no_files() {
    use berth_runtime::cgroup::{Cgroup, Hierarchies};
    let mut hierarchies = Hierarchies::detect().unwrap();
    hierarchies.legacy.clear();
    let root =
        hierarchies.unified.clone().expect("this test needs a cgroup hierarchy of version 2");
    let own = root.join(format!("berth-test-devices-{}", std::process::id()));
    fs::create_dir(&own).unwrap();
    let cgroup = Cgroup::at(&hierarchies, own.strip_prefix(&root).unwrap());
    let rules = |text: Value| serde_json::from_value(json!({"devices": text})).unwrap();
    let ask = || {
        let line = format!(
            "echo 0 > {}/cgroup.procs; head -c 1 /dev/zero > /dev/null && echo zero; head -c 1 /dev/full > /dev/null && echo full; true",
            own.display()
        );
        let said = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    let before = ask();
    cgroup
        .limit(&rules(json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}])))
        .unwrap();
    let one = ask();
    cgroup
        .limit(&rules(
            json!([{"allow": false, "type": "c", "major": 1, "minor": 5, "access": "r"}]),
        ))
        .unwrap();
    let other = ask();
    fs::remove_dir(&own).unwrap();
    assert_eq!(
        (before.as_str(), one.as_str(), other.as_str()),
        ("zero\nfull\n", "zero\n", "full\n")
    );
}

#[test]
fn a_terminal_is_the_console_too() {
    let more = json!({"process": {"terminal": true}, "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}]});
    let fixture = Fixture::new("echo here > /dev/console; sleep 1000", &more);
    let path = fixture.path("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = path.display().to_string();
    fixture.good(&["create", "-b", &fixture.bundle(), "--console-socket", &socket, &fixture.name]);
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = [0_u8; 64];
    let (_, mut descriptors) = berth_sys::socket::receive(&stream, &mut bytes).unwrap();
    fixture.start();
    let mut terminal = fs::File::from(descriptors.pop().unwrap());
    let mut said = [0_u8; 6];
    std::io::Read::read_exact(&mut terminal, &mut said).unwrap();
    assert_eq!(&said, b"here\r\n");
}
