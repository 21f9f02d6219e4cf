//! Mounts: their order, places, sources and every option.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::{Value, json};

use crate::support::{Fixture, refused, said};

fn proc() -> Value {
    json!({"destination": "/proc", "type": "proc", "source": "proc"})
}

/// What the kernel says of the mount at `/x` with these options.
fn line(kind: &str, source: &str, options: &[&str]) -> String {
    let mount = json!({"destination": "/x", "type": kind, "source": source, "options": options});
    said("grep ' /x ' /proc/self/mountinfo", &json!({"mounts": [proc(), mount]}))
}

#[test]
fn mounts_are_made_in_the_listed_order() {
    let mounts = json!([proc(),
        {"destination": "/a", "type": "tmpfs", "source": "first"},
        {"destination": "/a/b", "type": "tmpfs", "source": "second"},
        {"destination": "/a/b", "type": "tmpfs", "source": "third"}]);
    let seen = said(
        "awk '/ - tmpfs (first|second|third) /' /proc/self/mountinfo",
        &json!({"mounts": mounts}),
    );
    let order: Vec<&str> =
        seen.lines().filter_map(|line| line.split(" - tmpfs ").nth(1)?.split(' ').next()).collect();
    assert_eq!(order, ["first", "second", "third"], "{seen}");
}

#[test]
fn a_relative_place_is_below_the_root() {
    let mounts = json!([proc(), {"destination": "deep/er", "type": "tmpfs", "source": "tmpfs"}]);
    let seen = said("grep -c ' /deep/er ' /proc/self/mountinfo", &json!({"mounts": mounts}));
    assert_eq!(seen, "1\n");
    let up = json!([{"destination": "/a/../../b", "type": "tmpfs", "source": "tmpfs"}]);
    assert!(refused(&json!({"mounts": up})).contains("not allowed"));
    let kernel = json!([proc(), {"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}]);
    assert!(refused(&json!({"mounts": kernel})).contains("not allowed"));
}

#[test]
fn a_relative_source_is_below_the_bundle() {
    let mounts = json!([proc(), {"destination": "/x", "type": "none", "source": "data/file", "options": ["bind", "ro"]}]);
    let fixture = Fixture::writing("cat /x", &json!({"mounts": mounts}));
    fs::create_dir(fixture.path("bundle/data")).unwrap();
    fs::write(fixture.path("bundle/data/file"), "beside\n").unwrap();
    assert_eq!(fixture.probe(), (0, "beside\n".to_owned()));
    let none = json!([{"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}]);
    assert!(refused(&json!({"mounts": none})).contains("/no/such/source"));
}

#[test]
fn links_of_the_image_do_not_lead_out() {
    let mounts = json!([proc(), {"destination": "/link/x", "type": "tmpfs", "source": "tmpfs"}]);
    let fixture =
        Fixture::writing("grep -o ' /target/x ' /proc/self/mountinfo", &json!({"mounts": mounts}));
    fs::create_dir(fixture.path("bundle/rootfs/target")).unwrap();
    symlink("/../../target", fixture.path("bundle/rootfs/link")).unwrap();
    assert_eq!(fixture.probe(), (0, " /target/x \n".to_owned()));
}

#[test]
fn options_of_a_file_system_are_what_the_kernel_shows() {
    for (options, wanted) in [
        (&["ro"][..], "ro"),
        (&["ro", "rw"], "rw"),
        (&["nosuid"], "nosuid"),
        (&["nodev"], "nodev"),
        (&["noexec"], "noexec"),
        (&["noatime"], "noatime"),
        (&["nodiratime"], "nodiratime"),
        (&["relatime"], "relatime"),
        (&["noatime", "atime"], "relatime"),
        (&["strictatime", "nostrictatime"], "relatime"),
        (&["norelatime"], "relatime"),
        (&["nosymfollow"], "nosymfollow"),
        (&["size=64k"], "size=64k"),
        (&["mode=0700"], "mode=700"),
        (&["sync"], "sync"),
        (&["dirsync"], "dirsync"),
        (&["lazytime"], "lazytime"),
    ] {
        let seen = line("tmpfs", "tmpfs", options);
        let words: Vec<&str> = seen.split([' ', ',', '\n']).collect();
        assert!(words.contains(&wanted), "{options:?}: {seen}");
    }
    let plain =
        line("tmpfs", "tmpfs", &["strictatime", "suid", "dev", "exec", "diratime", "symfollow"]);
    for without in ["atime", "nosuid", "nodev", "noexec", "nosymfollow", " ro"] {
        assert!(!plain.split(" - ").next().unwrap().contains(without), "{without}: {plain}");
    }
    let more = ["defaults", "async", "silent", "loud", "iversion", "noiversion", "nolazytime"];
    let seen = line("tmpfs", "tmpfs", &more);
    assert!(seen.contains("rw,relatime"), "{seen}");
}

#[test]
fn options_a_file_system_does_not_know_are_errors() {
    let mount =
        json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["certainly"]});
    assert!(refused(&json!({"mounts": [mount]})).contains("`/x`"));
}

/// A directory with a mount in it, which ends with the value.
struct Nested(tempfile::TempDir);

impl Nested {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["outer", "outer/inner"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            let status = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "tmpfs"])
                .arg(&path)
                .status();
            assert!(status.unwrap().success());
        }
        Self(folder)
    }

    fn seen(&self, options: &[&str]) -> (String, String) {
        let mount = json!({"destination": "/x", "type": "none", "source": self.0.path().join("outer"), "options": options});
        let seen =
            said("grep ' /x' /proc/self/mountinfo; true", &json!({"mounts": [proc(), mount]}));
        let line = |place: &str| {
            seen.lines().find(|line| line.contains(place)).unwrap_or_default().to_owned()
        };
        (line(" /x "), line(" /x/inner "))
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        for name in ["outer/inner", "outer"] {
            let _gone = std::process::Command::new("umount").arg(self.0.path().join(name)).status();
        }
    }
}

#[test]
fn what_is_bound_recursively_brings_what_is_below() {
    let nested = Nested::new();
    assert_eq!(nested.seen(&["bind"]).1, "");
    assert!(!nested.seen(&["rbind"]).1.is_empty());
}

#[test]
fn recursive_options_hold_below_too() {
    let nested = Nested::new();
    for (option, wanted) in [
        ("rro", "ro,"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ] {
        let (outer, inner) = nested.seen(&["rbind", option]);
        assert!(outer.contains(wanted) && inner.contains(wanted), "{option}: {outer} {inner}");
    }
    let opposites = [
        "rrw",
        "rsuid",
        "rdev",
        "rexec",
        "rdiratime",
        "rsymfollow",
        "rrelatime",
        "ratime",
        "rnostrictatime",
        "rnorelatime",
    ];
    for option in opposites {
        let (_, inner) = nested.seen(&["rbind", option]);
        assert!(inner.contains("rw,relatime"), "{option}: {inner}");
    }
    let (_, inner) = nested.seen(&["rbind", "rstrictatime"]);
    assert!(!inner.contains("atime"), "{inner}");
}

#[test]
fn what_is_allowed_again_is_not_allowed_below() {
    let nested = Nested::new();
    let inner = nested.0.path().join("outer/inner");
    let status =
        std::process::Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&inner).status();
    assert!(status.unwrap().success());
    let (outer, inner) = nested.seen(&["rbind", "rw"]);
    assert!(outer.contains(" rw,") && inner.contains(" ro,"), "{outer} {inner}");
}

#[test]
fn mounts_spread_as_they_are_told() {
    let nested = Nested::new();
    let make = std::process::Command::new("mount")
        .arg("--make-rshared")
        .arg(nested.0.path().join("outer"))
        .status();
    assert!(make.unwrap().success());
    for (options, wanted, absent) in [
        (&["rbind"][..], "", "shared:"),
        (&["rbind", "private"], "", "shared:"),
        (&["rbind", "rprivate"], "", "shared:"),
        (&["rbind", "rslave"], "master:", "shared:"),
        (&["bind", "slave"], "master:", "shared:"),
        (&["rbind", "rshared"], "shared:", "master:"),
        (&["bind", "shared"], "shared:", "master:"),
        (&["bind", "unbindable"], "unbindable", "shared:"),
        (&["rbind", "runbindable"], "unbindable", "shared:"),
    ] {
        let (outer, _) = nested.seen(options);
        assert!(outer.contains(wanted) && !outer.contains(absent), "{options:?}: {outer}");
    }
    assert!(line("tmpfs", "tmpfs", &["shared"]).contains("shared:"));
}

#[test]
fn a_mount_that_is_there_is_changed() {
    let mounts = json!([proc(), {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["noexec"]},
        {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "nosuid"]}]);
    let seen = said("grep ' /x ' /proc/self/mountinfo", &json!({"mounts": mounts}));
    assert_eq!(seen.lines().count(), 1, "{seen}");
    assert!(seen.contains("ro,nosuid,noexec"), "{seen}");
}

#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    let mounts = json!([proc(), {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}]);
    let fixture = Fixture::writing(
        "cat /x/file /x/deep/er /x/link; stat -c %a:%u /x/file; touch /x/new",
        &json!({"mounts": mounts}),
    );
    let at = fixture.path("bundle/rootfs/x");
    fs::create_dir_all(at.join("deep")).unwrap();
    fs::write(at.join("file"), "one\n").unwrap();
    fs::write(at.join("deep/er"), "two\n").unwrap();
    symlink("file", at.join("link")).unwrap();
    symlink("/etc", at.join("outside")).unwrap();
    fs::set_permissions(at.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();
    std::os::unix::fs::chown(at.join("file"), Some(12), Some(13)).unwrap();
    fs::set_permissions(at.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();
    assert_eq!(fixture.probe(), (0, "one\ntwo\none\n4755:12\n".to_owned()), "{}", fixture.log());
    assert!(!at.join("new").exists());
    let wrong =
        json!([{"destination": "/x", "type": "proc", "source": "proc", "options": ["tmpcopyup"]}]);
    assert!(refused(&json!({"mounts": wrong})).contains("is for a tmpfs"));
}

/// A file of which hardly anything is written.
fn sparse(path: &std::path::Path, length: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(length).unwrap();
    file.write_all_at(b"deep", length / 2).unwrap();
}

#[test]
fn holes_are_not_copied_and_neither_is_more_than_fits() {
    let mounts = |options: Value| json!([proc(), {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": options}]);
    let all = mounts(json!(["tmpcopyup", "ro"]));
    let fixture = Fixture::writing(
        "stat -c %s /x/file; [ $(stat -c %b /x/file) -lt 100 ] && echo holes; dd if=/x/file bs=1M skip=524288 count=1 2> /dev/null | head -c 4; touch /x/new",
        &json!({"mounts": all}),
    );
    fs::create_dir(fixture.path("bundle/rootfs/x")).unwrap();
    sparse(&fixture.path("bundle/rootfs/x/file"), 1 << 40);
    let (code, said) = fixture.probe();
    assert!(said.starts_with("1099511627776\nholes\ndeep"), "{code} {said} {}", fixture.log());
    assert!(said.contains("Read-only file system"), "{said}");
    let small = Fixture::new("true", &json!({"mounts": mounts(json!(["tmpcopyup", "size=64k"]))}));
    fs::create_dir(small.path("bundle/rootfs/x")).unwrap();
    fs::write(small.path("bundle/rootfs/x/file"), [7; 100_000]).unwrap();
    assert!(small.refused().contains("copy what lies at `/x`"));
}

#[test]
fn what_is_copied_counts_for_the_container() {
    let mounts = json!([proc(), {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}]);
    let limits = json!({"memory": {"limit": 8 << 20}});
    let fixture = Fixture::new("true", &json!({"mounts": mounts, "linux": {"resources": limits}}));
    fs::create_dir(fixture.path("bundle/rootfs/x")).unwrap();
    fs::write(fixture.path("bundle/rootfs/x/file"), vec![7; 64 << 20]).unwrap();
    let said = fixture.refused();
    assert!(said.contains("killed") || said.contains("copy what lies at"), "{said}");
}

#[test]
fn options_that_would_change_nothing_are_refused() {
    let bind = |option: &str| json!({"destination": "/x", "type": "none", "source": "/tmp", "options": ["bind", option]});
    for (mounts, wanted) in [
        (json!([bind("certainly")]), "`certainly`"),
        (json!([bind("size=1m")]), "`size=1m`"),
        (json!([bind("tmpcopyup")]), "`tmpcopyup`"),
        (
            json!([proc(), {"destination": "/proc", "options": ["remount", "certainly"]}]),
            "`certainly`",
        ),
        (json!([{"destination": "/dev", "type": "tmpfs", "options": ["certainly"]}]), "devices"),
        (
            json!([{"destination": "/dev", "type": "tmpfs", "options": ["tmpcopyup"]}]),
            "`tmpcopyup`",
        ),
        (json!([{"destination": "/dev", "type": "devtmpfs"}]), "`devtmpfs`"),
        (
            json!([{"destination": "/dev", "type": "tmpfs"}, {"destination": "/dev", "type": "tmpfs"}]),
            "mounted twice",
        ),
    ] {
        let said = refused(&json!({"mounts": mounts}));
        assert!(said.contains(wanted), "{mounts}: {said}");
    }
}

#[test]
fn the_kernels_file_systems_are_where_they_are_said_to_be() {
    for place in ["proc", "sys"] {
        let kind = if place == "sys" { "sysfs" } else { "proc" };
        let mounts = json!([{"destination": format!("/{place}"), "type": kind, "source": kind}]);
        let fixture = Fixture::new("true", &json!({"mounts": mounts}));
        fs::create_dir(fixture.path("bundle/rootfs/data")).unwrap();
        symlink("/data", fixture.path("bundle/rootfs").join(place)).unwrap();
        let said = fixture.refused();
        assert!(said.contains(&format!("`/{place}`")), "{said}");
    }
}

#[test]
fn ids_of_a_mount_are_mapped() {
    let source = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(source.path())
        .status();
    assert!(status.unwrap().success());
    fs::write(source.path().join("file"), "").unwrap();
    std::os::unix::fs::chown(source.path().join("file"), Some(7), Some(8)).unwrap();
    let ranges = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 100}]);
    let mount = |options: &[&str], mapped: bool| {
        let mut mount = json!({"destination": "/x", "type": "none", "source": source.path(), "options": options});
        if mapped {
            mount["uidMappings"] = ranges(1000);
            mount["gidMappings"] = ranges(2000);
        }
        json!({"mounts": [proc(), mount]})
    };
    let line = "stat -c %u:%g /x/file";
    let seen: Vec<String> = [&["bind", "idmap"][..], &["rbind", "ridmap"], &["bind"]]
        .iter()
        .map(|options| Fixture::writing(line, &mount(options, true)).probe().1)
        .collect();
    let without = Fixture::new("true", &mount(&["bind", "idmap"], false)).refused();
    let mut half = mount(&["bind", "idmap"], true);
    half["mounts"][1]["gidMappings"] = Value::Null;
    let half = Fixture::new("true", &half).refused();
    let mut inside = mount(&["bind", "idmap"], false);
    inside["linux"] = json!({"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "user"}],
        "uidMappings": ranges(300_000), "gidMappings": ranges(300_000)});
    let inside = Fixture::writing(line, &inside);
    inside.give_to(300_000);
    let inside = inside.probe();
    assert!(std::process::Command::new("umount").arg(source.path()).status().unwrap().success());
    assert_eq!(seen, ["1007:2008\n"; 3]);
    assert!(without.contains("which"), "{without}");
    assert!(half.contains("alone"), "{half}");
    assert_eq!(inside, (0, "7:8\n".to_owned()), "by the container's own ranges");
}

#[test]
fn cgroups_are_the_containers_own() {
    let seen = said(
        "ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2> /dev/null; \
        touch /sys/fs/cgroup/pids/x 2> /dev/null || echo read-only",
        &json!({}),
    );
    assert!(seen.contains("\n64\n") && seen.ends_with("read-only\n"), "{seen}");
}

#[test]
fn a_root_on_a_shared_mount_shares_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mount = |words: &[&str]| {
        assert!(
            std::process::Command::new("mount")
                .args(words)
                .arg(folder.path())
                .status()
                .unwrap()
                .success()
        );
    };
    mount(&["-t", "tmpfs", "tmpfs"]);
    mount(&["--make-shared"]);
    let fixture = Fixture::writing(
        "mount -t tmpfs tmpfs /added; sleep 0.1; true",
        &json!({"process": {"capabilities": {
        "bounding": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"]}}}),
    );
    let root = folder.path().join("root");
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(fixture.path("bundle/rootfs"))
            .arg(&root)
            .status()
            .unwrap()
            .success()
    );
    fs::create_dir(root.join("added")).unwrap();
    let path = fixture.path("bundle/config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["root"]["path"] = json!(root);
    value["process"]["args"] =
        json!(["sh", "-c", "mount -t tmpfs tmpfs /added && echo mounted > /out; sleep 1000"]);
    fs::write(&path, value.to_string()).unwrap();
    fixture.create();
    fixture.start();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !root.join("out").exists() && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    let outside = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let said = fs::read_to_string(root.join("out"));
    fixture.kill();
    fixture.good(&["delete", &fixture.name]);
    assert!(
        std::process::Command::new("umount")
            .arg("-l")
            .arg(folder.path())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(said.unwrap(), "mounted\n");
    let leaked: Vec<&str> =
        outside.lines().filter(|line| line.contains(&root.display().to_string())).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn a_file_is_bound_onto_a_file() {
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(source.path(), "bound\n").unwrap();
    let mount = json!({"destination": "/etc/deep/file", "type": "bind", "source": source.path(), "options": ["rbind", "ro"]});
    let seen = said(
        "cat /etc/deep/file; echo x > /etc/deep/file || echo read-only",
        &json!({"mounts": [proc(), mount]}),
    );
    assert!(seen.starts_with("bound\n") && seen.ends_with("read-only\n"), "{seen}");
    assert_eq!(fs::metadata(source.path()).unwrap().size(), 6);
}
