//! What a container must not see or do.

use std::os::unix::fs::MetadataExt;

use berth_runtime::Processes;
use serde_json::json;

use crate::support::{Fixture, MAPPING, captured, finish, spec, value, wait};

#[test]
fn root_of_a_pod_is_nobody_on_the_host_but_owns_its_files() {
    let fixture = Fixture::new(Some(MAPPING));
    let (code, output) = fixture.shell(
        "cat /proc/self/uid_map; stat -c %u /bin/busybox; touch /tmp/mine; stat -c %u:%g /tmp/mine",
    );
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!((code, words.as_slice()), (0, ["0", "200000", "65536", "0", "0:0"].as_slice()));
    // The shared layer keeps the image's ids; only the container's own writable layer carries the mapped ones.
    let written = fixture.scratch().join("upper/tmp/mine");
    assert_eq!(std::fs::metadata(written).unwrap().uid(), MAPPING.host);
    let shared = fixture.directory.path().join("layer/bin/busybox");
    assert_eq!(std::fs::metadata(shared).unwrap().uid(), 0);
}

#[test]
fn volumes_keep_their_ids_across_the_mapping() {
    let fixture = Fixture::new(Some(MAPPING));
    let volume = fixture.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut config =
        value(&["sh", "-c", "touch /data/new && stat -c %u /data/new /data; touch /locked/x"]);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rw"] }));
    mounts.push(json!({ "destination": "/locked", "type": "bind", "source": volume, "options": ["rbind", "ro"] }));
    let (code, output) = fixture.run(&serde_json::from_value(config).unwrap(), None);
    assert_ne!(code, 0);
    assert!(output.starts_with("0\n0\n") && output.contains("Read-only file system"), "{output}");
    assert_eq!(std::fs::metadata(volume.join("new")).unwrap().uid(), 0);
}

#[test]
fn the_kernels_doors_are_shut() {
    for mapping in [None, Some(MAPPING)] {
        let fixture = Fixture::new(mapping);
        let deny = |line: &str| {
            let (code, output) = fixture.shell(line);
            assert_ne!(code, 0, "`{line}` went through: {output}");
        };
        deny("echo 1 > /proc/sys/kernel/panic");
        deny("echo b > /proc/sysrq-trigger");
        deny("mount -t tmpfs none /tmp");
        deny("touch /sys/x");
        deny("[ -s /proc/timer_list ]");
        deny("ls /host-must-not-exist");
        let (_, mounts) = fixture.shell("cat /proc/self/mountinfo");
        let host: Vec<&str> = mounts.lines().filter(|line| line.contains(" - ext4 ")).collect();
        assert!(host.is_empty(), "{host:?}");
        let (code, _) = fixture.shell("for fd in /proc/self/fd/*; do case $fd in */[012]|*/[0-9]*) ;; esac; done; [ ! -e /proc/1/fd/5 ]");
        assert_eq!(code, 0, "descriptors of the engine leak into the container");
    }
}

#[test]
fn a_read_only_root_stays_so() {
    let fixture = Fixture::new(Some(MAPPING));
    let mut config = value(&["touch", "/etc/new"]);
    config["root"]["readonly"] = json!(true);
    let (code, output) = fixture.run(&serde_json::from_value(config).unwrap(), None);
    assert!(code == 1 && output.contains("Read-only file system"), "{code} {output}");
}

#[test]
fn a_named_user_runs_without_capabilities() {
    let fixture = Fixture::new(Some(MAPPING));
    let (code, output) = fixture
        .run(&spec(&["sh", "-c", "id -u; id -g; echo $HOME; cat /proc/self/status"]), Some("app"));
    assert_eq!(code, 0);
    assert!(output.starts_with("70\n70\n/srv\n"), "{output}");
    for line in
        ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(output.contains(line), "no `{line}` in {output}");
    }
}

#[test]
fn links_in_the_image_cannot_lead_a_mount_outside() {
    let fixture = Fixture::new(None);
    let layer = fixture.directory.path().join("layer");
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        format!("../../../../../../../..{}", outside.path().display()),
        layer.join("trap"),
    )
    .unwrap();
    let mut config = value(&["true"]);
    config["mounts"].as_array_mut().unwrap().push(json!(
        { "destination": "/trap/inside", "type": "tmpfs", "source": "tmpfs", "options": [] }
    ));
    // The link dangles inside the container, so the mount point cannot be made; nothing may appear outside.
    let outcome =
        fixture.start(&serde_json::from_value(config).unwrap(), None, crate::support::captured().0);
    assert!(outcome.is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// An image may link to the descriptors of whoever makes the container, the host's root once among them.
#[test]
fn no_link_of_an_image_leads_to_what_the_runtime_has_open() {
    let fixture = Fixture::new(None);
    let layer = fixture.directory.path().join("layer");
    let outside = tempfile::tempdir().unwrap();
    // A directory of the host that is open and inherited, as a careless engine would leave it.
    let open = std::fs::File::open(outside.path()).unwrap();
    let careless = rustix::io::dup(&open).unwrap();
    for number in 3..64 {
        let link = layer.join(format!("trap{number}"));
        std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), link).unwrap();
    }
    let path = outside.path().display().to_string();
    for number in 3..64 {
        // What is open itself, and what the host's root would lead to.
        for (inside, kind) in [("made", "tmpfs"), (&path.as_str()[1..], "tmpfs")] {
            let mut config = value(&["true"]);
            config["mounts"].as_array_mut().unwrap().push(json!({
                "destination": format!("/trap{number}/{inside}/deep"), "type": kind, "source": "x"
            }));
            config["process"]["cwd"] = json!(format!("/trap{number}/made/cwd"));
            let config = serde_json::from_value(config).unwrap();
            let made = fixture.start(&config, None, captured().0);
            assert!(made.is_err(), "{number}: {inside}");
        }
    }
    drop(careless);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// CVE-2024-21626: a working directory that is a descriptor of the host's, which the engine has open.
#[test]
fn no_working_directory_leads_to_the_host() {
    for mapping in [None, Some(MAPPING)] {
        let fixture = Fixture::new(mapping);
        let marker = fixture.directory.path().join("marker");
        std::fs::write(&marker, "host").unwrap();
        let path = format!("../../../../../../../..{}", marker.display());
        for number in 3..40 {
            let mut config = value(&["cat", &path]);
            config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            let (stdio, output) = captured();
            let config = serde_json::from_value(config).unwrap();
            let Ok(container) = fixture.start(&config, None, stdio) else { continue };
            let (code, said) = finish(&container, output);
            assert!(code != 0 && !said.contains("host\n") && said != "host", "{number}: {said}");
        }
    }
}

/// CVE-2017-1002101 and CVE-2021-25741: a volume's path is a directory when it is looked at and a link when it is mounted.
#[test]
fn a_link_that_comes_and_goes_leads_no_mount_out_of_its_volume() {
    let fixture = Fixture::new(None);
    let directory = fixture.directory.path();
    let (volume, outside) = (directory.join("volume"), directory.join("outside"));
    std::fs::create_dir_all(volume.join("good")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("stolen"), "").unwrap();
    std::os::unix::fs::symlink("../outside", volume.join("bad")).unwrap();
    std::fs::create_dir(volume.join("sub")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut mounted = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = |other: &str| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (one, other) = (volume.join("sub"), volume.join(other));
                rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &other, flags)
                    .unwrap();
            };
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                exchange("bad");
                exchange("bad");
            }
        });
        let mut config = value(&["ls", "/data"]);
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "destination": "/data", "type": "bind",
            "source": volume, "options": ["rbind", format!("{}sub", berth_runtime::SUB_PATH)] }));
        let config = serde_json::from_value(config).unwrap();
        for _ in 0..100 {
            let (stdio, output) = captured();
            // Where the link is just there, the container does not start.
            let Ok(container) = fixture.start(&config, None, stdio) else { continue };
            let (_, said) = finish(&container, output);
            assert!(!said.contains("stolen"), "the volume was left");
            mounted += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(mounted > 0, "the directory was there at times");
}

/// What the first process of a shared pid namespace shows of the host: nothing, whoever looks.
#[test]
fn containers_that_share_processes_see_each_other_and_not_the_host() {
    for mapping in [None, Some(MAPPING)] {
        let fixture = Fixture::with_processes(mapping, true);
        let (stdio, output) = captured();
        let first = fixture.start(&spec(&["sleep", "1000"]), None, stdio).unwrap();
        let (code, seen) = fixture.shell(
            "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; for p in /proc/[0-9]*; do \
             [ \"$(cat $p/comm)\" = sleep ] && ls $p/root/ && kill ${p#/proc/}; done; \
             ls /proc/1/root/ /proc/1/fd/; readlink /proc/1/exe; true",
        );
        assert_eq!(code, 0, "{seen}");
        assert!(seen.contains("pause") && seen.contains("sleep 1000"), "{seen}");
        // Nor does it show with which arguments its caller runs, which would tell the host's paths.
        let program = std::env::current_exe().unwrap();
        assert!(!seen.contains(program.file_name().unwrap().to_str().unwrap()), "{seen}");
        // The other's root is the image, that of the namespace's first process is out of reach.
        assert!(seen.contains("bin"), "{seen}");
        assert!(!seen.contains("home") && !seen.contains("target"), "{seen}");
        assert_eq!(finish(&first, output).0, 128 + 15, "the signal went through: {seen}");
    }
}

#[test]
fn orphans_of_shared_processes_are_reaped() {
    let fixture = Fixture::with_processes(Some(MAPPING), true);
    let (stdio, _output) = captured();
    let first = fixture.start(&spec(&["sleep", "1000"]), None, stdio).unwrap();
    let line = "(sleep 0.05 & sleep 0.05 &); while [ \"$(cat /proc/[0-9]*/stat | grep -c '(sleep)')\" != 1 ]; \
                do :; done 2>/dev/null; cat /proc/[0-9]*/stat 2>/dev/null | grep -c ' Z '; true";
    assert_eq!(fixture.shell(line), (0, "0\n".to_owned()));
    rustix::process::pidfd_send_signal(&first.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait(&first), 137);
}

#[test]
fn a_container_among_the_hosts_processes_sees_them() {
    let fixture = Fixture::new(None);
    let (stdio, output) = captured();
    let spec = spec(&["sh", "-c", &format!("cat /proc/{}/comm; echo $$", std::process::id())]);
    let container = fixture.start_among(Processes::Host, &spec, None, stdio).unwrap();
    let pid = container.pid.as_raw_nonzero().get();
    let (code, text) = finish(&container, output);
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!((code, text), (0, format!("{own}{pid}\n")));
}

#[test]
fn groups_of_the_pod_and_of_the_image_come_together() {
    let fixture = Fixture::new(Some(MAPPING));
    let group = fixture.directory.path().join("layer/etc/group");
    std::fs::write(group, "root:x:0:\napp:x:70:\nstaff:x:50:app\nothers:x:51:root\n").unwrap();
    let ids = |user: Option<&str>, name: Option<&str>| {
        let mut config = value(&["sh", "-c", "id -u; id -g; id -G"]);
        config["process"]["user"]["additionalGids"] = json!([2000, 50]);
        if let Some(name) = name {
            config["process"]["user"]["username"] = json!(name);
        }
        let (code, text) = fixture.run(&serde_json::from_value(config).unwrap(), user);
        assert_eq!(code, 0, "{text}");
        text.lines().collect::<Vec<_>>().join(" / ")
    };
    assert_eq!(ids(None, None), "0 / 0 / 0 50 2000");
    assert_eq!(ids(Some("app"), None), "70 / 70 / 70 50 2000");
    assert_eq!(ids(Some("70"), None), "70 / 70 / 70 50 2000");
    assert_eq!(ids(Some(""), None), "0 / 0 / 0 50 51 2000");
    // As `-u` of docker has it, a group given drops those of the image, unless they are asked for.
    assert_eq!(ids(Some("0:7"), None), "0 / 7 / 7 50 2000");
    assert_eq!(ids(Some("0:7"), Some("0")), "0 / 7 / 7 50 51 2000");
    assert_eq!(ids(Some("12345:7"), Some("12345")), "12345 / 7 / 7 50 2000");
}
