//! What goes and what stays.

use std::time::Duration;

use berth_content::{CachedLayer, CachedStep, ContentError, Digest, LeaseName, Retention};

use crate::support::{add, layer, store};

const NOTHING_KEPT: Retention = Retention { grace: Duration::ZERO, cache: Duration::ZERO };

#[test]
fn removing_an_image_frees_what_no_other_image_needs() {
    let fixture = store();
    let store = &fixture.store;
    let session = store.session().unwrap();
    let kept = add(&session, &[layer("base", "b"), layer("x", "1")], &["kept"]);
    let gone = add(&session, &[layer("base", "b"), layer("y", "22")], &["gone"]);
    drop(session);
    let collected = store.remove("gone", false).unwrap();
    assert_eq!((collected.blobs, collected.layers), (3, 1));
    assert!(store.layer_dirs(&kept).is_ok());
    assert!(store.layer_dirs(&gone).is_err());
    assert_eq!(store.usage().unwrap().reclaimable, 0);
}

#[test]
fn removing_one_of_two_names_keeps_the_image() {
    let fixture = store();
    let session = fixture.store.session().unwrap();
    let image = add(&session, &[layer("x", "1")], &["one", "two"]);
    drop(session);
    fixture.store.remove("one", false).unwrap();
    assert_eq!(fixture.store.resolve("two").unwrap().digest, image.digest);
    fixture.store.remove(&image.digest.hex(), false).unwrap();
    assert!(matches!(fixture.store.resolve("two"), Err(ContentError::Unknown(_))));
}

#[test]
fn layers_of_running_pods_stay() {
    let fixture = store();
    let store = &fixture.store;
    let session = store.session().unwrap();
    let image = add(&session, &[layer("x", "1")], &["app"]);
    drop(session);
    let pod = LeaseName::parse("pod-1").unwrap();
    store.lease(&pod, &[&image]).unwrap();
    assert!(matches!(store.remove("app", false), Err(ContentError::InUse { .. })));
    store.remove("app", true).unwrap();
    assert!(store.layer_dirs(&image).is_ok());
    store.release(&pod).unwrap();
    store.collect(Retention::default()).unwrap();
    assert!(store.layer_dirs(&image).is_err());
    assert!(matches!(store.lease(&pod, &[&image]), Err(ContentError::MissingLayer { .. })));
}

#[test]
fn a_session_protects_what_it_adds_and_what_it_wants() {
    let fixture = store();
    let store = &fixture.store;
    let earlier = store.session().unwrap();
    let image = add(&earlier, &[layer("x", "1")], &[]);
    drop(earlier);
    let session = store.session().unwrap();
    assert!(session.want_layer(&image.layers[0]).unwrap());
    let added = session.put_blob(b"added").unwrap();
    store.collect(NOTHING_KEPT).unwrap();
    assert!(store.has_layer(&image.layers[0]));
    assert!(store.blob_size(&added).is_some());
    // The manifest was older than the session and not wanted by it.
    assert!(store.blob_size(&image.digest).is_none());
    drop(session);
    store.collect(NOTHING_KEPT).unwrap();
    assert!(!store.has_layer(&image.layers[0]));
}

#[test]
fn a_session_of_a_dead_process_is_swept() {
    let fixture = store();
    let folder = fixture.store.root().join("ingest/dead");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("lock"), "").unwrap();
    std::fs::write(folder.join("half a layer"), "").unwrap();
    let collected = fixture.store.collect(Retention::default()).unwrap();
    assert_eq!(collected.sessions, 1);
    assert!(!folder.exists());
}

#[test]
fn remembered_steps_keep_their_layers_for_a_while() {
    let fixture = store();
    let store = &fixture.store;
    let session = store.session().unwrap();
    let image = add(&session, &[layer("x", "1")], &[]);
    let blob = &image.blobs[0];
    let cached = CachedLayer { diff_id: image.layers[0], digest: blob.digest, size: blob.size };
    let step = CachedStep { layer: cached, created: "2026-01-01T00:00:00Z".into() };
    let key = Digest::of(b"RUN true");
    store.cache_step(&key, &step).unwrap();
    drop(session);
    store.collect(Retention::default()).unwrap();
    assert_eq!(store.cached_step(&key), Some(step));
    assert!(store.has_layer(&image.layers[0]));
    assert_eq!(store.collect(NOTHING_KEPT).unwrap().steps, 1);
    assert_eq!(store.cached_step(&key), None);
    assert!(!store.has_layer(&image.layers[0]));
}

#[test]
fn a_lease_that_was_being_written_as_the_power_failed_holds_nothing() {
    let fixture = store();
    let lease = fixture.store.root().join("leases/pod");
    std::fs::write(&lease, "{\"images\":[").unwrap();
    let file = std::fs::File::options().write(true).open(&lease).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(fixture.store.leases().unwrap(), []);
    fixture.store.collect(Retention::default()).unwrap();
    fixture.store.release(&LeaseName::parse("pod").unwrap()).unwrap();
}

#[test]
fn an_unreadable_lease_stops_collection() {
    let fixture = store();
    std::fs::write(fixture.store.root().join("leases/pod"), "{").unwrap();
    assert!(fixture.store.collect(Retention::default()).is_err());
    for bad in ["", ".hidden", "a/b", "a b"] {
        assert!(LeaseName::parse(bad).is_err(), "{bad}");
    }
}
