//! The same bundles with Debian's runc and crun, and with the library libcontainer: what a program sees and how it ends is the same.
//!
//! Where it is not, the difference is listed in `docs/reference/oci.md` and the case here leaves it out. crun takes no host that has both
//! versions of cgroups, so it runs where the newer one is out of sight.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::Fixture;

const RUNTIMES: [(&str, &str); 3] = [
    ("runc", "exec runc \"$@\""),
    ("libcontainer", "exec \"$LIBCONTAINER\" \"$@\""),
    (
        "crun",
        "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec crun \"$@\"",
    ),
];

/// The program of `examples/libcontainer.rs`, which lies beside the tests.
fn libcontainer() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().with_file_name("examples").join("libcontainer");
    let why = "is missing: `cargo nextest run --package berth-oci` builds it";
    assert!(program.exists(), "{} {why}", program.display());
    program
}

/// Runs a bundle with another runtime: the exit code and what was written.
fn other(fixture: &Fixture, line: &str) -> (i32, String) {
    let out = fixture.path("bundle/rootfs/out");
    let _not_there = fs::remove_file(&out);
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| root.path().join(name).display().to_string();
    let output = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            line,
            "sh",
            "--root",
            &place("state"),
            "run",
            "--bundle",
            &fixture.bundle(),
        ])
        .arg(format!("{}-other", fixture.name))
        .env("LIBCONTAINER", libcontainer())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = fs::read_to_string(&out).unwrap_or_default();
    let code = output.status.code().unwrap_or(-1);
    assert!(
        code < 126 || !said.is_empty() || code > 128,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (code, said)
}

/// What every runtime makes of a line in a container with these changes.
#[track_caller]
fn same(line: &str, more: &Value) {
    same_but(&[], line, more);
}

/// The same without those that cannot do what it takes.
#[track_caller]
fn same_but(unable: &[&str], line: &str, more: &Value) {
    let mut base = json!({
        "ociVersion": "1.0.2",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
    });
    if let (Some(base), Some(more)) = (base.as_object_mut(), more.as_object()) {
        for (name, value) in more {
            if name == "mounts" {
                let all = base["mounts"].as_array_mut().unwrap();
                all.extend(value.as_array().unwrap().iter().cloned());
            } else {
                base.insert(name.clone(), value.clone());
            }
        }
    }
    let fixture = Fixture::writing(line, &base);
    if let Some(id) = more.pointer("/linux/uidMappings/0/hostID").and_then(Value::as_u64) {
        fixture.give_to(u32::try_from(id).unwrap());
    }
    let (code, said) = fixture.probe();
    for (name, program) in RUNTIMES.into_iter().filter(|(name, _)| !unable.contains(name)) {
        let (their_code, theirs) = other(&fixture, program);
        assert_eq!(
            (i32::from(code), &said),
            (their_code, &theirs),
            "left is ours, right is of {name}: {line}"
        );
    }
}

#[test]
fn runtimes_agree_on_how_a_program_ends() {
    same("exit 0", &json!({}));
    same("exit 7", &json!({}));
    same("kill -9 $$", &json!({}));
    same("kill -TERM $$; sleep 0.1; exit 3", &json!({}));
}

#[test]
fn runtimes_agree_on_who_a_program_is() {
    let line = "id -u; id -g; pwd; env | grep -v ^HOME= | sort; hostname; echo $$";
    same(line, &json!({}));
    // For a user who may not write to the root, what it writes is made beforehand by nobody: it only ends.
    same(
        "test $(id -u) = 0 && test \"$(pwd)\" = /bin",
        &json!({"process": {"user": {"uid": 0, "gid": 3, "additionalGids": [5, 6]},
        "args": ["sh", "-c", "{ id -g; id -G; pwd; umask; } > /out"], "cwd": "/bin", "env": ["PATH=/bin", "A=b"]}}),
    );
}

#[test]
fn runtimes_agree_on_privileges() {
    let line = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|Umask)' /proc/self/status";
    let process = |capabilities: Value, no_new: bool| {
        json!({"process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": no_new,
            "capabilities": capabilities, "args": ["sh", "-c", format!("{{ {line}; }} > /out 2>&1")]}})
    };
    let set = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    same(line, &process(json!({"bounding": set, "permitted": set, "effective": set}), true));
    same(
        line,
        &process(
            json!({"bounding": set, "permitted": set, "effective": set, "inheritable": set, "ambient": set}),
            false,
        ),
    );
}

#[test]
fn runtimes_agree_on_limits() {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 100, "hard": 200}]);
    let line = "cat /proc/self/limits /proc/self/oom_score_adj";
    same(
        line,
        &json!({"process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "rlimits": limits, "oomScoreAdj": 77,
        "args": ["sh", "-c", format!("{{ {line}; }} > /out 2>&1")]}}),
    );
}

#[test]
fn runtimes_agree_on_devices() {
    same(
        "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty pts; for it in fd stdin stdout stderr ptmx; do readlink $it; done",
        &json!({}),
    );
    let devices = json!([{"type": "c", "path": "/dev/more", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 2, "gid": 3}]);
    same(
        "stat -c '%n %F %t:%T %a %u:%g' /dev/more",
        &json!({"linux": {"devices": devices,
        "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}]}}),
    );
}

#[test]
fn runtimes_agree_on_mounts() {
    let source = tempfile::tempdir().unwrap();
    for options in [
        &["rw", "mode=0711"][..],
        &["ro", "nosuid", "nodev", "mode=0711"],
        &["noexec", "noatime", "mode=0711"],
        &["ro", "size=64k", "mode=0700"],
    ] {
        let mount =
            json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": options});
        same("awk '$5 == \"/x\" {print $6}' /proc/self/mountinfo", &json!({"mounts": [mount]}));
    }
    fs::write(source.path().join("file"), "bound\n").unwrap();
    for options in [&["bind", "ro"][..], &["rbind", "nosuid", "noexec"], &["rbind", "rw"]] {
        let mount = json!({"destination": "/deep/x", "type": "bind", "source": source.path(), "options": options});
        same(
            "awk '$5 == \"/deep/x\" {print $6}' /proc/self/mountinfo; cat /deep/x/file",
            &json!({"mounts": [mount]}),
        );
    }
}

#[test]
fn runtimes_agree_on_what_is_hidden_and_protected() {
    let linux = json!({"maskedPaths": ["/proc/uptime", "/proc/acpi", "/proc/none"], "readonlyPaths": ["/proc/sys", "/proc/irq"],
        "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}],
        "sysctl": {"net.ipv4.ip_forward": "1"}});
    same(
        "wc -c < /proc/uptime; ls /proc/acpi | wc -l; echo x > /proc/sys/kernel/domainname || echo refused; cat /proc/sys/net/ipv4/ip_forward",
        &json!({"linux": linux}),
    );
    same("touch /new || echo refused; ls -d /proc /dev", &json!({}));
}

#[test]
fn runtimes_agree_on_filters() {
    let rules = |action: &str, code: Option<u32>| {
        let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
        if let Some(code) = code {
            rule["errnoRet"] = code.into();
        }
        json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]},
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}]}})
    };
    for (action, code) in [
        ("SCMP_ACT_ERRNO", None),
        ("SCMP_ACT_ERRNO", Some(28)),
        ("SCMP_ACT_KILL_PROCESS", None),
        ("SCMP_ACT_LOG", None),
    ] {
        // libcontainer filters with a library in C, without which it is built here.
        let line = "mkdir /made; echo $?; rm -rf /made";
        same_but(&["libcontainer"], line, &rules(action, code));
    }
}

#[test]
fn runtimes_agree_on_user_namespaces() {
    let linux = json!({"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "user"}],
        "uidMappings": [{"containerID": 0, "hostID": 300_000, "size": 65_536}],
        "gidMappings": [{"containerID": 0, "hostID": 300_000, "size": 65_536}]});
    same(
        "id -u; id -g; awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; hostname",
        &json!({"linux": linux}),
    );
}
