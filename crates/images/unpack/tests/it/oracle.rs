//! GNU tar as the judge: it writes what we unpack, and unpacks what we write.

use std::process::Command;

use berth_unpack::{PackOptions, pack};

use crate::support::{Sandbox, describe, run};

/// A tree with everything that image layers contain, sparse files and awkward names included.
const TREE: &str = r#"
    mkdir -p usr/bin etc tmp var/empty; chmod 1777 tmp; chmod 555 var/empty
    cp /usr/bin/busybox usr/bin/busybox; ln usr/bin/busybox usr/bin/sh; ln -s busybox usr/bin/ls; ln -s usr/bin bin
    echo secret > etc/shadow; chmod 640 etc/shadow; chown 0:42 etc/shadow
    chmod 4755 usr/bin/busybox; chown 1000:1000 etc; touch -d @1234567890 etc; touch -h -d @1234567 usr/bin/ls
    mkfifo pipe; mknod null c 1 3; mknod disk b 8 1
    long=$(printf 'n%.0s' $(seq 200)); mkdir $long; echo x > $long/$long; ln -s $long/$long/$long way; ln $long/$long $long/again
    echo x > 'ünï cödé "quoted" \back'; : > empty
    echo old > before-epoch; touch -d @-86400 before-epoch
    chown 3000000:4000000 empty
    setfattr -n user.note -v "$(printf 'line\nline')" empty 2>/dev/null || python3 -c 'import os; os.setxattr("empty", "user.note", b"line\nline\0x")'
    truncate -s 3M sparse
    for at in 0 300 1000 2500; do printf data | dd of=sparse bs=1024 seek=$at conv=notrunc status=none; done
    truncate -s 40M many-holes
    for at in $(seq 0 900 36000); do printf "$at" | dd of=many-holes bs=1024 seek=$at conv=notrunc status=none; done
"#;

fn tree(sandbox: &Sandbox) -> std::path::PathBuf {
    let tree = sandbox.folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    run(Command::new("bash").args(["-euc", TREE]).current_dir(&tree));
    tree
}

#[test]
fn unpacks_every_dialect_as_gnu_tar_does() {
    for dialect in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--xattrs"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0", "--xattrs"],
    ] {
        let sandbox = Sandbox::new();
        let tree = tree(&sandbox);
        let archive = sandbox.folder.path().join("layer.tar");
        run(Command::new("tar")
            .args(dialect)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&tree)
            .arg("."));
        let oracle = sandbox.folder.path().join("oracle");
        std::fs::create_dir(&oracle).unwrap();
        run(Command::new("tar")
            .args(["--xattrs", "--numeric-owner", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(&oracle));
        let unpacked = sandbox.unpack(&std::fs::read(&archive).unwrap()).unwrap();
        assert!(unpacked.dropped.is_empty(), "{:?}", unpacked.dropped);
        assert_eq!(describe(&sandbox.root()), describe(&oracle), "{dialect:?}");
    }
}

#[test]
fn gnu_tar_unpacks_what_we_pack() {
    let sandbox = Sandbox::new();
    let tree = tree(&sandbox);
    let archive = sandbox.folder.path().join("layer.tar.gz");
    let file = std::fs::File::create(&archive).unwrap();
    pack(&tree, file, &PackOptions::default()).unwrap();
    run(Command::new("tar")
        .args(["--xattrs", "--numeric-owner", "-xpzf"])
        .arg(&archive)
        .arg("-C")
        .arg(sandbox.root()));
    assert_eq!(describe(&sandbox.root()), describe(&tree));
}

#[test]
fn packing_is_deterministic_and_ours_unpacks_too() {
    let sandbox = Sandbox::new();
    let tree = tree(&sandbox);
    let copy = sandbox.folder.path().join("copy");
    run(Command::new("cp").args(["-a", "--sparse=always"]).arg(&tree).arg(&copy));
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let packed = pack(&tree, &mut one, &PackOptions::default()).unwrap();
    assert_eq!(packed, pack(&copy, &mut two, &PackOptions::default()).unwrap());
    assert_eq!(one, two);
    let unpacked = sandbox.unpack(&one).unwrap();
    assert_eq!((unpacked.digest, unpacked.diff_id), (packed.digest, packed.diff_id));
    assert_eq!(describe(&sandbox.root()), describe(&tree));
}

#[test]
fn times_can_be_held_back() {
    let sandbox = Sandbox::new();
    let tree = tree(&sandbox);
    let mut blob = Vec::new();
    let options = PackOptions { plain: true, latest: Some(1000) };
    pack(&tree, &mut blob, &options).unwrap();
    sandbox.unpack(&blob).unwrap();
    for (path, what) in describe(&sandbox.root()) {
        assert!(what.contains(" 1000 ") || path == "before-epoch", "{path}: {what}");
    }
}

#[test]
fn unpacks_a_real_tree_as_gnu_tar_does() {
    let sandbox = Sandbox::new();
    let archive = sandbox.folder.path().join("layer.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).args([
        "-C",
        "/",
        "usr/sbin",
        "usr/share/zoneinfo",
        "etc/alternatives",
        "etc/ssl",
        "bin/busybox",
        "var/log",
    ]));
    let oracle = sandbox.folder.path().join("oracle");
    std::fs::create_dir(&oracle).unwrap();
    run(Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(&archive).arg("-C").arg(&oracle));
    let unpacked = sandbox.unpack(&std::fs::read(&archive).unwrap()).unwrap();
    assert!(unpacked.entries > 1000, "{unpacked:?}");
    let implicit = |path: &String| unpacked.implicit.iter().any(|one| one.to_str() == Some(path));
    // Folders that the archive does not list are the unpacker's own affair.
    let listed = |root: &std::path::Path| {
        describe(root).into_iter().filter(|(path, _)| !implicit(path)).collect::<Vec<_>>()
    };
    assert_eq!(listed(&sandbox.root()), listed(&oracle));
}
