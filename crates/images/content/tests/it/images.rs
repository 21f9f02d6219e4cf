//! Adding, naming and finding images.

use berth_content::{ContentError, ContentStore, Digest};

use crate::support::{add, layer, reference, store};

#[test]
fn an_image_is_found_by_every_name_and_by_its_ids() {
    let fixture = store();
    let store = &fixture.store;
    let session = store.session().unwrap();
    let image =
        add(&session, &[layer("a", "1"), layer("b", "2")], &["app:1", "localhost:5000/app"]);
    for name in [
        "app:1",
        "docker.io/library/app:1",
        "localhost:5000/app:latest",
        &image.digest.to_string(),
        &image.digest.hex()[..12],
        &image.config_digest.hex()[..4],
    ] {
        assert_eq!(store.resolve(name).unwrap().digest, image.digest, "{name}");
    }
    assert!(matches!(store.resolve("app"), Err(ContentError::Unknown(_))));
    assert!(matches!(store.resolve("abc"), Err(ContentError::Unknown(_))));
    assert_eq!(image.docker.shell.as_deref(), Some(&["/bin/sh".to_owned()][..]));
    let images = store.images().unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].references, [reference("app:1"), reference("localhost:5000/app")]);
    assert_eq!(images[0].size, 2);
    let dirs = store.layer_dirs(&image).unwrap();
    assert_eq!(std::fs::read_to_string(dirs[0].join("a")).unwrap(), "1");
    assert_eq!(std::fs::read_to_string(dirs[1].join("b")).unwrap(), "2");
}

#[test]
fn a_layer_that_occurs_twice_is_mounted_once_and_above() {
    let fixture = store();
    let session = fixture.store.session().unwrap();
    let (one, two) = (layer("a", "1"), layer("b", "2"));
    let image = add(&session, &[one.clone(), two, one], &["twice"]);
    let dirs = fixture.store.layer_dirs(&image).unwrap();
    assert_eq!(dirs.len(), 2);
    assert!(dirs[1].join("a").exists());
}

#[test]
fn a_moved_tag_leaves_the_old_image_nameless() {
    let fixture = store();
    let session = fixture.store.session().unwrap();
    let old = add(&session, &[layer("a", "old")], &["app"]);
    let new = add(&session, &[layer("a", "new")], &["app"]);
    assert_ne!(old.digest, new.digest);
    assert_eq!(fixture.store.resolve("app").unwrap().digest, new.digest);
    assert_eq!(fixture.store.images().unwrap().len(), 1);
}

#[test]
fn a_failed_layer_leaves_nothing_to_see() {
    let fixture = store();
    let session = fixture.store.session().unwrap();
    let good = layer("a", "1");
    let expected =
        berth_content::LayerExpectation { digest: Some(Digest::of(b"else")), diff_id: None };
    assert!(session.add_layer(&good[..], expected).is_err());
    assert!(session.add_layer(&good[..600], expected).is_err());
    assert_eq!(fixture.store.usage().unwrap(), berth_content::Usage::default());
}

#[test]
fn a_damaged_manifest_is_noticed() {
    let fixture = store();
    let session = fixture.store.session().unwrap();
    let image = add(&session, &[layer("a", "1")], &["app"]);
    let path = fixture.store.root().join("blobs/sha256").join(image.digest.hex());
    std::fs::write(path, "{}").unwrap();
    assert!(matches!(fixture.store.resolve("app"), Err(ContentError::Damaged(_))));
}

#[test]
fn a_layer_of_another_boot_counts_only_when_it_was_settled() {
    let fixture = store();
    let session = fixture.store.session().unwrap();
    let image = add(&session, &[layer("a", "1")], &["app"]);
    let layer_id = image.layers[0];
    let folder = fixture.store.root().join("layers").join(layer_id.hex());
    let pretend_reboot = || {
        let facts = r#"{"bytes":1,"entries":1,"boot":"another"}"#;
        std::fs::write(folder.join("layer.json"), facts).unwrap();
    };
    fixture.store.settle().unwrap();
    pretend_reboot();
    assert!(fixture.store.has_layer(&layer_id));
    std::fs::remove_file(folder.join("durable")).unwrap();
    assert!(!fixture.store.has_layer(&layer_id));
    assert!(matches!(fixture.store.layer_dirs(&image), Err(ContentError::MissingLayer { .. })));
    // Adding it again replaces what cannot be believed.
    add(&session, &[layer("a", "1")], &["app"]);
    assert!(fixture.store.has_layer(&layer_id));
}

#[test]
fn several_processes_add_the_same_layer_at_once() {
    let fixture = store();
    let root = fixture.store.root().to_owned();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let root = root.clone();
            scope.spawn(move || {
                let store = ContentStore::open(root).unwrap();
                let store = store.with_durability(berth_content::Durability::ThisBoot);
                for round in 0..5 {
                    let session = store.session().unwrap();
                    let own = layer("own", &format!("{worker} {round}"));
                    add(&session, &[layer("a", "shared"), own], &[&format!("app:{worker}")]);
                    drop(session);
                    store.collect(berth_content::Retention::default()).unwrap();
                }
            });
        }
    });
    assert_eq!(fixture.store.images().unwrap().len(), 4);
    fixture.store.collect(berth_content::Retention::default()).unwrap();
    for summary in fixture.store.images().unwrap() {
        fixture.store.layer_dirs(&summary.image).unwrap();
    }
    // The shared layer and one per worker.
    assert_eq!(std::fs::read_dir(root.join("layers")).unwrap().count(), 5);
    assert_eq!(std::fs::read_dir(root.join("ingest")).unwrap().count(), 0);
}

#[test]
fn a_folder_a_layer_does_not_list_looks_as_it_does_below() {
    use std::os::unix::fs::MetadataExt as _;
    let fixture = store();
    let session = fixture.store.session().unwrap();
    let mut base = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o1777);
    header.set_uid(7);
    header.set_gid(8);
    header.set_cksum();
    base.append_data(&mut header, "tmp/", std::io::empty()).unwrap();
    let base = base.into_inner().unwrap();
    let image = add(&session, &[base, layer("tmp/x", "1")], &["app"]);
    let top = fixture.store.layer_dirs(&image).unwrap()[1].join("tmp");
    let meta = std::fs::metadata(top).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1777, 7, 8));
}
