//! Whiteouts: what they become, and back again.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use berth_unpack::{PackOptions, pack, strip_overlay_traces};

use crate::support::{Layer, Sandbox, describe, run};

fn is_whiteout(path: &Path) -> bool {
    let meta = std::fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 4];
    rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value).is_ok_and(|_| value[0] == b'y')
}

#[test]
fn whiteouts_take_overlay_form() {
    let sandbox = Sandbox::new();
    let layer = Layer::default()
        .folder("etc")
        .file("etc/.wh.passwd", "")
        .file("srv/.wh..wh..opq", "")
        .file("srv/new", "n")
        .file(".wh..wh.plnk", "");
    let unpacked = sandbox.unpack(&layer.finish()).unwrap();
    assert!(is_whiteout(&sandbox.root().join("etc/passwd")));
    assert!(is_opaque(&sandbox.root().join("srv")));
    assert_eq!(unpacked.implicit, [Path::new("srv")]);
    assert_eq!(std::fs::read_dir(sandbox.root()).unwrap().count(), 2);
}

#[test]
fn a_deleted_and_remade_folder_hides_the_old_one_in_either_order() {
    for layer in [
        Layer::default().file(".wh.d", "").folder("d").file("d/x", ""),
        Layer::default().folder("d").file("d/x", "").file(".wh.d", ""),
        Layer::default().file(".wh.d", "").file("d/x", ""),
    ] {
        let sandbox = Sandbox::new();
        sandbox.unpack(&layer.finish()).unwrap();
        assert!(is_opaque(&sandbox.root().join("d")));
        assert!(sandbox.root().join("d/x").is_file());
    }
}

#[test]
fn a_whiteout_does_not_remove_what_its_own_layer_brings() {
    let sandbox = Sandbox::new();
    sandbox.unpack(&Layer::default().file("x", "mine").file(".wh.x", "").finish()).unwrap();
    assert_eq!(std::fs::read_to_string(sandbox.root().join("x")).unwrap(), "mine");
}

#[test]
fn what_a_real_overlay_leaves_behind_survives_packing() {
    let sandbox = Sandbox::new();
    let base = sandbox.folder.path();
    // Everything in one private mount namespace, which takes the mount with it.
    let script = "cd \"$1\" && mkdir -p lower/gone lower/remade/old lower/kept upper work merged root2 && \
        echo 1 > lower/gone/a && echo 2 > lower/remade/old/b && echo 3 > lower/kept/c && echo 4 > lower/kept/d && \
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=off,metacopy=off merged && \
        rm -r merged/gone merged/remade && mkdir merged/remade && echo 5 > merged/remade/new && \
        rm merged/kept/c && chmod 600 merged/kept/d && ln merged/kept/d merged/kept/e";
    run(std::process::Command::new("unshare").args(["-m", "sh", "-euc", script, "-"]).arg(base));
    let upper = base.join("upper");
    strip_overlay_traces(&upper).unwrap();
    let mut blob = Vec::new();
    let packed = pack(&upper, &mut blob, &PackOptions::default()).unwrap();
    let unpacked = sandbox.unpack(&blob).unwrap();
    assert_eq!((unpacked.digest, unpacked.diff_id), (packed.digest, packed.diff_id));
    assert_eq!(unpacked.entries, packed.entries);
    let root = sandbox.root();
    assert!(is_whiteout(&root.join("gone")) && is_whiteout(&root.join("kept/c")));
    assert!(is_opaque(&root.join("remade")));
    let strip_marks = |tree: std::collections::BTreeMap<String, String>| {
        // A deletion mark carries no time or owner of its own.
        tree.into_iter().filter(|(_, what)| !what.starts_with("device 0")).collect::<Vec<_>>()
    };
    assert_eq!(strip_marks(describe(&root)), strip_marks(describe(&upper)));
}
