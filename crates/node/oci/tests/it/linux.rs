//! What is particular to Linux: kernel parameters, paths that are hidden or protected, how mounts spread, personalities.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Fixture, refused, said};

fn linux(more: Value) -> Value {
    json!({"linux": more})
}

#[test]
fn kernel_parameters_are_the_containers_own() {
    let outside = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let more = linux(
        json!({"sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmni": "99", "fs.mqueue.msg_max": "12"}}),
    );
    let seen = said(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max",
        &more,
    );
    assert_eq!(seen, "1\n99\n12\n");
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), outside);
}

#[test]
fn kernel_parameters_of_the_host_are_refused() {
    for name in [
        "kernel.panic",
        "vm.swappiness",
        "kernel.core_pattern",
        "fs.file-max",
        "user.max_user_namespaces",
        "net/../kernel/panic",
    ] {
        let said = refused(&linux(json!({"sysctl": {name: "1"}})));
        assert!(said.contains("whole host") || said.contains("sysctls"), "{name}: {said}");
    }
    let shared = json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}]);
    for name in ["net.ipv4.ip_forward", "kernel.shmmni"] {
        let said = refused(&linux(json!({"namespaces": shared, "sysctl": {name: "1"}})));
        assert!(said.contains("namespace of its own"), "{name}: {said}");
    }
    for (kind, file, name) in
        [("network", "net", "net.ipv4.ip_forward"), ("ipc", "ipc", "kernel.shmmni")]
    {
        let link = format!("/proc/self/ns/{file}");
        let folder = tempfile::tempdir().unwrap();
        let bound = folder.path().join("bound");
        fs::write(&bound, "").unwrap();
        rustix::mount::mount_bind(&link, &bound).unwrap();
        for path in [Path::new(&link), &bound] {
            let ours = json!([{"type": "mount"}, {"type": "uts"}, {"type": kind, "path": path}]);
            let more = linux(json!({"namespaces": ours, "sysctl": {name: "1"}}));
            let said = Fixture::new("true", &more).refused();
            assert!(said.contains("namespace of its own"), "{}: {said}", path.display());
        }
        rustix::mount::unmount(&bound, rustix::mount::UnmountFlags::DETACH).unwrap();
        let other = Fixture::new("sleep 1000", &json!({}));
        other.create();
        let theirs = format!("/proc/{}/ns/{file}", other.state()["pid"]);
        let theirs = json!([{"type": "mount"}, {"type": kind, "path": theirs}]);
        let line = format!("cat /proc/sys/{}", name.replace('.', "/"));
        let more = json!({"hostname": "", "linux": {"namespaces": theirs, "sysctl": {name: "1"}}});
        assert_eq!(said(&line, &more), "1\n");
    }
}

#[test]
fn masked_paths_hold_nothing() {
    let more = linux(json!({"maskedPaths": ["/proc/uptime", "/secret", "/file", "/not/there"]}));
    let fixture = Fixture::writing(
        "cat /proc/uptime /file | wc -c; ls /secret | wc -l; touch /secret/x || echo read-only",
        &more,
    );
    fs::create_dir(fixture.path("bundle/rootfs/secret")).unwrap();
    fs::write(fixture.path("bundle/rootfs/secret/inside"), "x").unwrap();
    fs::write(fixture.path("bundle/rootfs/file"), "hidden").unwrap();
    let (_, seen) = fixture.probe();
    let seen: Vec<&str> = seen.lines().map(str::trim).collect();
    assert!(seen[..2] == ["0", "0"] && seen.last() == Some(&"read-only"), "{seen:?}");
    assert!(refused(&linux(json!({"maskedPaths": ["relative"]}))).contains("not absolute"));
}

#[test]
fn read_only_paths_are_not_written() {
    let more = linux(json!({"readonlyPaths": ["/proc/sys", "/kept", "/not/there"]}));
    let fixture = Fixture::writing(
        "cat /kept/file; echo x > /kept/file || echo one; echo x > /proc/sys/kernel/domainname || echo two",
        &more,
    );
    fs::create_dir(fixture.path("bundle/rootfs/kept")).unwrap();
    fs::write(fixture.path("bundle/rootfs/kept/file"), "kept\n").unwrap();
    let (_, seen) = fixture.probe();
    for wanted in ["kept", "one", "two"] {
        assert!(seen.lines().any(|line| line == wanted), "{wanted}: {seen}");
    }
    assert!(refused(&linux(json!({"readonlyPaths": ["relative"]}))).contains("not absolute"));
}

#[test]
fn mounts_spread_from_the_root_as_it_says() {
    let root = |more: Value| {
        let seen = said(
            "grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo | head -n 1",
            &more,
        );
        seen.lines().last().unwrap_or_default().split(" - ").next().unwrap().to_owned()
    };
    assert!(root(linux(json!({"rootfsPropagation": "shared"}))).contains("shared:"));
    assert!(root(linux(json!({"rootfsPropagation": "rshared"}))).contains("shared:"));
    assert!(root(linux(json!({"rootfsPropagation": "unbindable"}))).contains("unbindable"));
    for plain in [json!("private"), json!("rprivate"), json!(""), Value::Null] {
        let seen = root(linux(json!({"rootfsPropagation": plain})));
        assert!(!seen.contains("shared:") && !seen.contains("master:"), "{seen}");
    }
    assert!(refused(&linux(json!({"rootfsPropagation": "wide"}))).contains("spread"));
}

#[test]
fn a_root_that_follows_the_host_sees_its_mounts() {
    let folder = tempfile::tempdir().unwrap();
    let mount = |words: &[&str]| {
        assert!(std::process::Command::new("mount").args(words).status().unwrap().success());
    };
    let at = folder.path().display().to_string();
    mount(&["-t", "tmpfs", "tmpfs", &at]);
    mount(&["--make-shared", &at]);
    let fixture = Fixture::new(
        "while ! test -e /later/file; do sleep 0.02; done; echo seen > /out; sleep 1000",
        &linux(json!({"rootfsPropagation": "slave"})),
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
    fs::create_dir(root.join("later")).unwrap();
    let path = fixture.path("bundle/config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["root"]["path"] = json!(root);
    fs::write(&path, value.to_string()).unwrap();
    fixture.create();
    fixture.start();
    let later = root.join("later").display().to_string();
    mount(&["-t", "tmpfs", "tmpfs", &later]);
    fs::write(root.join("later/file"), "").unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !root.join("out").exists() && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    let seen = root.join("out").exists();
    fixture.good(&["delete", "--force", &fixture.name]);
    for place in [&later, &at] {
        assert!(
            std::process::Command::new("umount").arg("-l").arg(place).status().unwrap().success()
        );
    }
    assert!(seen, "a mount of the host shows in the container");
}

#[test]
fn a_personality_changes_what_the_machine_is() {
    assert_eq!(said("uname -m", &linux(json!({"personality": {"domain": "LINUX32"}}))), "i686\n");
    assert_eq!(said("uname -m", &linux(json!({"personality": {"domain": "LINUX"}}))), "x86_64\n");
    assert!(refused(&linux(json!({"personality": {"domain": "MULTICS"}}))).contains("config.json"));
}

#[test]
fn a_root_can_be_entered_without_being_swapped() {
    let fixture = Fixture::writing("ls / | head -n 1; ls /usr 2> /dev/null | wc -l", &json!({}));
    let bundle = fixture.bundle();
    let (code, _) = fixture.command(&["run", "--no-pivot", "--bundle", &bundle, &fixture.name]);
    let seen = fs::read_to_string(fixture.path("bundle/rootfs/out")).unwrap();
    assert_eq!((code, seen.as_str()), (0, "bin\n0\n"));
}

#[test]
fn default_file_systems_work_when_they_are_asked_for() {
    let mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=64k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}]);
    let seen = said("awk '{print $5}' /proc/self/mountinfo", &json!({"mounts": mounts}));
    for place in ["/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        assert!(seen.lines().any(|line| line == place), "{place}: {seen}");
    }
}

#[test]
fn memory_comes_from_where_it_is_told() {
    let policy = |mode: &str, more: Value| {
        let mut policy = json!({"mode": mode});
        if let (Some(policy), Some(more)) = (policy.as_object_mut(), more.as_object()) {
            policy.extend(more.clone());
        }
        linux(json!({"memoryPolicy": policy}))
    };
    let seen = |more: &Value| {
        said("head -n 1 /proc/self/numa_maps | cut -d' ' -f2", more).trim().to_owned()
    };
    for (mode, more, wanted) in [
        ("MPOL_DEFAULT", json!({}), "default"),
        ("MPOL_LOCAL", json!({}), "local"),
        ("MPOL_BIND", json!({"nodes": "0"}), "bind:0"),
        ("MPOL_BIND", json!({"nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0"),
        (
            "MPOL_INTERLEAVE",
            json!({"nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}),
            "interleave=relative:0",
        ),
        ("MPOL_PREFERRED", json!({"nodes": "0-0"}), "prefer:0"),
        ("MPOL_PREFERRED_MANY", json!({"nodes": "0"}), "prefer (many):0"),
        ("MPOL_WEIGHTED_INTERLEAVE", json!({"nodes": "0"}), "weighted interleave:0"),
    ] {
        let found = seen(&policy(mode, more));
        assert!(wanted.starts_with(&found) && !found.is_empty(), "{mode}: {found}");
    }
    assert!(refused(&policy("MPOL_BIND", json!({}))).contains("where memory comes from"));
    assert!(
        refused(&policy("MPOL_DEFAULT", json!({"nodes": "0"}))).contains("where memory comes from")
    );
    assert!(refused(&policy("MPOL_BIND", json!({"nodes": "5-2"}))).contains("memory nodes"));
    assert!(refused(&policy("MPOL_BEST", json!({}))).contains("config.json"));
}
