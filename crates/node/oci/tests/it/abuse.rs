//! Images and bundles that are made to lead the runtime astray while it makes a container.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::support::Fixture;

fn proc() -> Value {
    json!({"destination": "/proc", "type": "proc", "source": "proc"})
}

/// A path of the host, as a link in the image would name it.
fn outwards(path: &std::path::Path) -> String {
    format!("../../../../../../../..{}", path.display())
}

/// CVE-2026-41579: what is made in `/dev` would be made where the link leads.
#[test]
fn a_link_in_the_place_of_dev_leads_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    for link in [outwards(outside.path()), outside.path().display().to_string()] {
        let fixture = Fixture::writing("ls -l /dev", &json!({"mounts": [proc()]}));
        symlink(&link, fixture.path("bundle/rootfs/dev")).unwrap();
        // Within the root there may be such a place, or none.
        let (code, said) = fixture.probe();
        assert!(code != 0 || said.contains("null"), "{said}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{link}");
    }
}

/// CVE-2025-31133: a masked path would show what the link in the null device's place leads to.
#[test]
fn what_masks_a_path_is_the_null_device_and_no_link_of_the_image() {
    let more = json!({
        "mounts": [proc()],
        "linux": {"maskedPaths": ["/proc/timer_list", "/masked"]},
    });
    let line = "cat /masked /proc/timer_list; stat -c %F,%t,%T /masked";
    let fixture = Fixture::writing(line, &more);
    let dev = fixture.path("bundle/rootfs/dev");
    fs::create_dir(&dev).unwrap();
    fs::write(fixture.path("bundle/rootfs/secret"), "shown\n").unwrap();
    fs::write(fixture.path("bundle/rootfs/masked"), "unmasked\n").unwrap();
    symlink("/secret", dev.join("null")).unwrap();
    assert_eq!(fixture.probe(), (0, "character special file,1,3\n".to_owned()));
}

/// The same where the devices are the bundle's own: there is nothing to mask with, so nothing runs.
#[test]
fn without_a_null_device_nothing_is_left_unmasked() {
    let evil = tempfile::tempdir().unwrap();
    symlink("/secret", evil.path().join("null")).unwrap();
    let mounts = json!([proc(),
        {"destination": "/dev", "type": "bind", "source": evil.path(), "options": ["rbind"]}]);
    let more = json!({"mounts": mounts, "linux": {"maskedPaths": ["/masked"]}});
    let fixture = Fixture::new("true", &more);
    fs::write(fixture.path("bundle/rootfs/secret"), "").unwrap();
    fs::write(fixture.path("bundle/rootfs/masked"), "").unwrap();
    let said = fixture.refused();
    assert!(said.contains("mask"), "{said}");
}

/// CVE-2025-52565: a container's console would be laid over what the link leads to, and its terminal be somebody else's.
#[test]
fn a_terminal_is_neither_taken_from_nor_laid_over_what_the_image_says() {
    // A terminal of whoever makes the container, which its child still has open.
    let theirs = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
    let theirs_at = format!("/proc/self/fd/{}", theirs.as_raw_fd());
    let cases =
        [("/elsewhere", "/victim"), (&theirs_at, "/victim"), ("pts-own", "/proc/self/fd/1")];
    for (pts, console) in cases {
        let evil = tempfile::tempdir().unwrap();
        symlink(console, evil.path().join("console")).unwrap();
        let mut mounts = json!([proc(),
            {"destination": "/dev", "type": "bind", "source": evil.path(), "options": ["rbind"]}]);
        if pts == "pts-own" {
            fs::create_dir(evil.path().join("pts")).unwrap();
            let own = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"]});
            mounts.as_array_mut().unwrap().push(own);
        } else {
            fs::create_dir(evil.path().join("pts")).unwrap();
            symlink(pts, evil.path().join("pts/ptmx")).unwrap();
        }
        let more = json!({"process": {"terminal": true}, "mounts": mounts});
        let fixture = Fixture::new("true", &more);
        fs::write(fixture.path("bundle/rootfs/victim"), "whole").unwrap();
        fs::write(fixture.path("bundle/rootfs/elsewhere"), "").unwrap();
        let path = fixture.path("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let socket = path.display().to_string();
        let words = ["create", "-b", &fixture.bundle(), "--console-socket", &socket, &fixture.name];
        let said = fixture.bad(&words);
        assert!(said.contains("terminal"), "{pts}, {console}: {said}");
        let victim = fs::read_to_string(fixture.path("bundle/rootfs/victim")).unwrap();
        assert_eq!(victim, "whole");
    }
}

/// CVE-2024-21626, by a further process.
#[test]
fn a_further_process_begins_nowhere_outside() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    let marker = fixture.path("marker");
    fs::write(&marker, "host\n").unwrap();
    let path = outwards(&marker);
    fixture.create();
    fixture.start();
    let kept = fs::File::open(fixture.folder.path()).unwrap();
    for number in 3..32 {
        let folder = format!("/proc/self/fd/{number}");
        let line = format!("cat {path} > /out");
        let words = ["exec", "--cwd", &folder, &fixture.name, "sh", "-c", &line];
        let (code, _) = fixture.command(&words);
        let said = fs::read_to_string(fixture.path("bundle/rootfs/out")).unwrap_or_default();
        assert!(code != 0 && said.is_empty(), "{folder}: {said}");
    }
    drop(kept);
    fixture.kill();
}
