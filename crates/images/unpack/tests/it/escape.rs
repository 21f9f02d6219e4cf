//! Every known way out of the root, tried.

use berth_unpack::{PathError, TarError, UnpackError};
use tar::EntryType;

use crate::support::{Layer, Sandbox};

#[test]
fn refuses_paths_that_climb_out() {
    for name in ["../precious", "a/../../precious", "/../precious", "./..", "a/b/../../../x"] {
        let sandbox = Sandbox::new();
        let outcome = sandbox.unpack(&Layer::default().file(name, "stolen").finish());
        assert!(
            matches!(outcome, Err(UnpackError::Tar(TarError::Path(PathError::Escape(_))))),
            "{name}: {outcome:?}"
        );
        sandbox.assert_unharmed();
    }
}

#[test]
fn keeps_absolute_paths_inside() {
    let sandbox = Sandbox::new();
    sandbox.unpack(&Layer::default().file("/etc/berth-escape-test", "x").finish()).unwrap();
    assert!(sandbox.root().join("etc/berth-escape-test").exists());
    assert!(!std::path::Path::new("/etc/berth-escape-test").exists());
}

#[test]
fn follows_links_only_inside_the_root() {
    for target in ["..", "/", "../..", "/proc/self/cwd", "inner/../../../.."] {
        let sandbox = Sandbox::new();
        let layer = Layer::default().link("way", target).file("way/precious", "stolen").finish();
        // Either it lands inside the root or it is refused: a dangling link has no inside.
        let _outcome = sandbox.unpack(&layer);
        sandbox.assert_unharmed();
    }
}

#[test]
fn follows_a_link_to_a_folder_of_the_same_layer() {
    let sandbox = Sandbox::new();
    let layer = Layer::default().folder("usr/bin").link("bin", "usr/bin").file("bin/tool", "x");
    sandbox.unpack(&layer.finish()).unwrap();
    assert!(sandbox.root().join("usr/bin/tool").exists());
}

#[test]
fn writes_over_a_link_rather_than_through_it() {
    let sandbox = Sandbox::new();
    let target = sandbox.folder.path().join("precious");
    let layer =
        Layer::default().link("way", target.to_str().unwrap()).file("way", "replaced").finish();
    sandbox.unpack(&layer).unwrap();
    assert_eq!(std::fs::read_to_string(sandbox.root().join("way")).unwrap(), "replaced");
    sandbox.assert_unharmed();
}

#[test]
fn does_not_change_modes_through_a_link() {
    let sandbox = Sandbox::new();
    let layer = Layer::default().link("way", "../precious").raw(
        EntryType::Directory,
        "way",
        "",
        0o700,
        b"",
    );
    sandbox.unpack(&layer.finish()).unwrap();
    assert!(sandbox.root().join("way").is_dir());
    sandbox.assert_unharmed();
}

#[test]
fn a_cached_folder_is_forgotten_when_a_link_replaces_it() {
    let sandbox = Sandbox::new();
    let layer = Layer::default()
        .folder("a")
        .file("a/one", "1")
        .link("a", "..")
        .file("a/precious", "stolen")
        .finish();
    sandbox.unpack(&layer).unwrap();
    assert!(sandbox.root().join("precious").exists());
    sandbox.assert_unharmed();
}

#[test]
fn refuses_hard_links_to_the_outside() {
    for target in ["../precious", "/../precious"] {
        let sandbox = Sandbox::new();
        let outcome = sandbox.unpack(&Layer::default().hard_link("mine", target).finish());
        assert!(matches!(outcome, Err(UnpackError::Tar(TarError::Path(_)))), "{outcome:?}");
    }
    let sandbox = Sandbox::new();
    let layer = Layer::default().link("way", "..").hard_link("mine", "way/precious").finish();
    assert!(matches!(sandbox.unpack(&layer), Err(UnpackError::Write { .. })));
    sandbox.assert_unharmed();
}

#[test]
fn a_hard_link_to_a_link_does_not_follow_it() {
    let sandbox = Sandbox::new();
    let target = sandbox.folder.path().join("precious");
    let layer = Layer::default()
        .link("way", target.to_str().unwrap())
        .hard_link("mine", "way")
        .file("mine", "replaced")
        .finish();
    sandbox.unpack(&layer).unwrap();
    sandbox.assert_unharmed();
}

#[test]
fn the_root_itself_can_only_be_a_folder() {
    for kind in [EntryType::Symlink, EntryType::Regular, EntryType::Link] {
        let sandbox = Sandbox::new();
        let outcome =
            sandbox.unpack(&Layer::default().raw(kind, "./", "/etc", 0o777, b"").finish());
        // An old-style regular entry with a trailing slash is a folder.
        assert_eq!(outcome.is_ok(), kind == EntryType::Regular, "{kind:?}: {outcome:?}");
    }
}

#[test]
fn refuses_meaningless_whiteouts() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        let sandbox = Sandbox::new();
        let outcome = sandbox.unpack(&Layer::default().file(name, "").finish());
        assert!(matches!(outcome, Err(UnpackError::Whiteout(_))), "{name}: {outcome:?}");
        sandbox.assert_unharmed();
    }
}
