//! A cluster that is lost with its machine, and comes back from a file.

use std::fs;
use std::time::Duration;

use super::etcd::Etcd;
use crate::support::{Berth, until};

const SHORT: Duration = Duration::from_secs(20);

#[test]
fn a_backup_brings_a_cluster_back_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.backup");
    let (path, passphrase) = (file.to_str().unwrap(), folder.path().join("passphrase"));
    fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    let passphrase = ["--passphrase-file", passphrase.to_str().unwrap()];

    let mut one = Berth::new("bkone", 184);
    let secret = "a-word-that-is-nowhere-else";
    one.kubectl(&["create", "secret", "generic", "s", "--from-literal", &format!("k={secret}")])
        .good();
    one.kubectl(&["create", "configmap", "early"]).good();
    let back_up =
        |berth: &Berth| berth.berth(&[&["system", "backup", path], &passphrase[..]].concat());
    let said = back_up(&one).good();
    assert!(said.contains("as of revision"), "{said}");
    assert!(back_up(&one).bad(1).contains("exists already"));
    let bytes = fs::read(&file).unwrap();
    assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
    one.kubectl(&["create", "configmap", "late"]).good();
    let before = one.get(&["configmap", "late"])["metadata"]["resourceVersion"].clone();
    let admin = fs::read(one.data.join("kubeconfig")).unwrap();

    // A server that runs is left alone, and so is what one has left; a damaged file changes nothing.
    let restore = |berth: &Berth, extra: &[&str]| {
        berth.berth(&[&["system", "restore", path], &passphrase[..], extra].concat())
    };
    assert!(restore(&one, &[]).bad(1).contains("already runs"));
    one.kill_server();
    assert!(restore(&one, &[]).bad(1).contains("--force"));
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    fs::write(&file, damaged).unwrap();
    let said = restore(&one, &["--force"]).bad(1);
    assert!(said.contains("damaged"), "{said}");
    fs::write(&file, &bytes).unwrap();
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "wrong").unwrap();
    let wrong =
        ["system", "restore", path, "--force", "--passphrase-file", wrong.to_str().unwrap()];
    assert!(one.berth(&wrong).bad(1).contains("passphrase is wrong"));
    one.start();
    one.kubectl(&["get", "configmap", "late"]).good();

    // Back to where it was.
    one.kill_server();
    restore(&one, &["--force"]).good();
    one.start();
    assert!(one.kubectl(&["get", "configmap", "late"]).bad(1).contains("not found"));
    let read = ["get", "secret", "s", "-o", "go-template={{.data.k | base64decode}}"];
    assert_eq!(one.kubectl(&read).good(), secret);
    // Who watched from a later revision is not left waiting for it.
    one.kubectl(&["create", "configmap", "after"]).good();
    let after = one.get(&["configmap", "after"])["metadata"]["resourceVersion"].clone();
    let number = |value: serde_json::Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let (before, after) = (number(before), number(after));
    assert!(after > before, "{after} comes after {before}");
    let raw = format!("/api/v1/configmaps?watch=true&resourceVersion={before}&timeoutSeconds=5");
    let said = one.kubectl(&["get", "--raw", &raw]);
    assert!(format!("{}{}", said.output, said.errors).contains("too old"), "{}", said.errors);
    drop(one);

    // On another machine, in etcd: the same cluster, with the same authority.
    let etcd = Etcd::start();
    let store = format!("etcd={}", etcd.url());
    let mut two = Berth::with("bktwo", 186, &["--store", &store]);
    assert!(two.kubectl(&read).bad(1).contains("not found"));
    two.kill_server();
    let into = ["--store", store.as_str()];
    assert!(restore(&two, &into).bad(1).contains("--force"));
    restore(&two, &[&into[..], &["--force"]].concat()).good();
    two.start();
    until("the restored cluster answers", SHORT, || two.kubectl(&read).code == 0);
    assert_eq!(two.kubectl(&read).good(), secret);
    let authority = |config: &[u8]| {
        let text = String::from_utf8_lossy(config).into_owned();
        text.lines().find(|line| line.contains("certificate-authority-data")).unwrap().to_owned()
    };
    assert_eq!(authority(&admin), authority(&fs::read(two.data.join("kubeconfig")).unwrap()));
    drop(two);
}
