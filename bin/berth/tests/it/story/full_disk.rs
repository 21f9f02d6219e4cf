//! A full disk is an error with a name, not a broken server.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Berth, until};

const SHORT: Duration = Duration::from_secs(20);

/// A small disk in memory, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(name: &str, megabytes: u32) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        let mut disk = Self(path);
        disk.unmount();
        let size = format!("size={megabytes}m,mode=755");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&disk.0)
            .status()
            .unwrap();
        assert!(done.success());
        disk
    }

    /// Ends mounts an earlier run may have left, too.
    fn unmount(&mut self) {
        while Command::new("mountpoint").arg("-q").arg(&self.0).status().unwrap().success() {
            assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
        }
    }

    /// Takes all the room there is.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[test]
fn a_full_disk_is_said_and_harms_nothing() {
    let disk = Disk::mount("full", 64);
    // More than the room that is given up at last. Once there is room again, there is room for new containers.
    let file = disk.0.with_extension("node.json");
    let fields = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                  evictionPressureTransitionPeriod: 0s\n\
                  evictionHard: {nodefs.available: 12Mi}\n";
    fs::write(&file, fields).unwrap();
    let mut berth = Berth::with("full", 174, &["--node-config", file.to_str().unwrap()]);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.berth(&["run", "-d", "--name", "stays", "busybox", "sleep", "600"]).good();
    berth.kubectl(&["create", "configmap", "before", "--from-literal=a=b"]).good();

    // A container that takes all the room only hurts itself, its exit is known, and its room comes back. What it says last
    // has no room in the log.
    let greedy = ["run", "--rm", "busybox", "dd", "if=/dev/zero", "of=/fill", "bs=1M"];
    berth.berth(&greedy).bad(1);
    until("its room is back", SHORT, || {
        rustix::fs::statvfs(&disk.0).unwrap().f_bavail * 4096 > 20 << 20
    });

    // The room that is kept for bad times may have been given up meanwhile, and is taken again.
    until("room is kept", SHORT, || disk.0.join("ballast").exists());

    let filler = disk.fill();
    let big = format!("--from-literal=a={}", "x".repeat(100_000));
    let said = berth.kubectl(&["create", "configmap", "refused", &big]).bad(1);
    assert!(said.to_lowercase().contains("no space left"), "{said}");
    let said = berth.berth(&["run", "--name", "refused", "busybox", "true"]).bad(125);
    assert!(said.to_lowercase().contains("no space left"), "{said}");
    assert!(berth.pods("berth-run", None).len() == 1, "nothing of it is left");
    // The node says so, and ends nobody who could not help it.
    until("the node says that its disk is short", SHORT, || {
        let node = berth.get(&["node", "node"]);
        let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|it| it["type"] == "DiskPressure" && it["status"] == "True")
    });
    // What was there is still there, and can be looked at.
    berth.kubectl(&["get", "configmap", "before"]).good();
    assert!(berth.berth(&["ps"]).good().contains("stays"));
    assert_eq!(berth.berth(&["exec", "stays", "--", "hostname"]).good(), "stays\n");

    // A server that dies on the full disk comes back.
    berth.kill_server();
    berth.start();
    berth.kubectl(&["get", "configmap", "before"]).good();
    assert!(berth.berth(&["ps"]).good().contains("stays"));

    // Deletions still work, and are how room is made.
    berth.kubectl(&["delete", "configmap", "before"]).good();
    fs::remove_file(filler).unwrap();
    berth.kubectl(&["create", "configmap", "after", &big]).good();
    assert_eq!(berth.berth(&["run", "--rm", "busybox", "echo", "well"]).good(), "well\n");
    drop(berth);
    drop(disk);
}
