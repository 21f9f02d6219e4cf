//! The sealed store as its users see it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use berth_secrets::{SealedStore, UnsealError};
use berth_store::{Disk, DiskOptions, Event, Expect, Memory, Operation, Range, Revision, Store};
use bytes::Bytes;
use futures::StreamExt;

const SECRETS: &str = "/registry/core/secrets/";
const PLACE: &str = "/registry/core/secrets/default/db";
const HIDDEN: &str = "correct-horse-battery-staple";

fn put(key: &str, value: &str) -> Vec<Operation> {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    vec![Operation::Put { key, value, expect: Expect::Any }]
}

async fn read(store: &dyn Store, key: &str) -> Bytes {
    store.get(Bytes::from(key.to_owned()), None).await.unwrap().record.unwrap().value
}

async fn seal(inner: Arc<dyn Store>, keys: &Path) -> Result<SealedStore, UnsealError> {
    SealedStore::open(inner, keys, &[SECRETS]).await
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Whether the text is in any file of a directory.
fn grep(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    })
}

#[tokio::test]
async fn no_file_holds_a_secret_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (data, keys) = (folder.path().join("data"), folder.path().join("keys"));
    std::fs::create_dir(&data).unwrap();
    let disk = || Arc::new(Disk::open(&data.join("store"), DiskOptions::default()).unwrap());
    {
        let store = seal(disk(), &keys).await.unwrap();
        store.commit(put(PLACE, HIDDEN)).await.unwrap();
        store.commit(put(PLACE, &format!("{HIDDEN} changed"))).await.unwrap();
        store.commit(put("/registry/core/configmaps/default/a", "open words")).await.unwrap();
        let mut backup = Vec::new();
        store.snapshot(&mut backup).unwrap();
        std::fs::write(data.join("backup"), backup).unwrap();
    }
    assert!(!grep(&data, HIDDEN));
    assert!(grep(&data, "open words"), "the test looks where values are");
    let store = seal(disk(), &keys).await.unwrap();
    assert_eq!(read(&store, PLACE).await, format!("{HIDDEN} changed"));
}

#[tokio::test]
async fn values_in_the_clear_are_sealed_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let inner = Arc::new(Memory::default());
    inner.commit(put(PLACE, HIDDEN)).await.unwrap();
    let store = seal(inner.clone(), &folder.path().join("keys")).await.unwrap();
    assert!(read(&*inner, PLACE).await.starts_with(b"k8s:enc:berth:v1:"));
    assert_eq!(read(&store, PLACE).await, HIDDEN);
}

#[tokio::test]
async fn a_lost_or_wrong_key_is_told_and_damages_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, other) = (folder.path().join("keys"), folder.path().join("other"));
    let inner = Arc::new(Memory::default());
    seal(inner.clone(), &keys).await.unwrap().commit(put(PLACE, HIDDEN)).await.unwrap();
    let before = (inner.current(), read(&*inner, PLACE).await);

    let lost = seal(inner.clone(), &other).await.err().unwrap();
    assert!(lost.to_string().contains("holds 1 sealed values") && !other.exists(), "{lost}");
    seal(Arc::new(Memory::default()), &other).await.unwrap();
    let unknown = seal(inner.clone(), &other).await.err().unwrap();
    assert!(chain(&unknown).contains("which the key file does not have"), "{}", chain(&unknown));
    // Another key of the same name.
    let id = std::fs::read_to_string(&keys).unwrap().split(' ').next().unwrap().to_owned();
    let text = std::fs::read_to_string(&other).unwrap();
    std::fs::write(&other, format!("{id} {}", text.split(' ').nth(1).unwrap())).unwrap();
    let wrong = seal(inner.clone(), &other).await.err().unwrap();
    assert!(chain(&wrong).contains("the key is wrong"), "{}", chain(&wrong));

    assert_eq!((inner.current(), read(&*inner, PLACE).await), before);
    let store = seal(inner, &keys).await.unwrap();
    assert_eq!(read(&store, PLACE).await, HIDDEN);
}

#[tokio::test]
async fn keys_change_under_load_and_no_reader_notices() {
    let folder = tempfile::tempdir().unwrap();
    let inner = Arc::new(Memory::default());
    let store = seal(inner.clone(), &folder.path().join("keys")).await.unwrap();
    let place = |number: usize| format!("{SECRETS}default/s{number}");
    for number in 0..50 {
        store.commit(put(&place(number), &format!("{HIDDEN} {number}"))).await.unwrap();
    }
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0..200 {
                let place = format!("{SECRETS}default/s{}", round % 50);
                let found = store.get(place.clone().into(), None).await.unwrap().record.unwrap();
                assert!(found.value.starts_with(HIDDEN.as_bytes()));
                store.commit(put(&place, &format!("{HIDDEN} again"))).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..3 {
        store.rotate().await.unwrap();
    }
    writer.await.unwrap();
    store.rotate().await.unwrap();
    let newest = store.keyring().ids()[0].clone();
    for number in 0..50 {
        let raw = read(&*inner, &place(number)).await;
        assert!(raw.starts_with(format!("k8s:enc:berth:v1:{newest}:").as_bytes()));
    }
    let page = store.range(Range { prefix: SECRETS.into(), ..Range::default() }).await.unwrap();
    assert!(page.records.iter().all(|record| record.value.starts_with(HIDDEN.as_bytes())));
}

#[tokio::test]
async fn watches_tell_values_in_the_clear_and_end_with_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let inner: Arc<dyn Store> = Arc::new(Memory::default());
    let store = seal(inner.clone(), &folder.path().join("keys")).await.unwrap();
    let mut events = store.watch(SECRETS.into(), Revision(0)).await.unwrap();
    store.commit(put(PLACE, HIDDEN)).await.unwrap();
    store.commit(put(PLACE, "next")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let Event::Put { record, previous } = events.next().await.unwrap() {
            seen.push((record.value, previous.map(|previous| previous.value)));
        }
    }
    assert_eq!(seen[0], (Bytes::from(HIDDEN), None));
    assert_eq!(seen[1], (Bytes::from("next"), Some(Bytes::from(HIDDEN))));
}

#[tokio::test]
async fn a_new_key_is_told_to_the_other_servers_of_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let inner = Arc::new(Memory::default());
    let one = seal(inner.clone(), &file("one")).await.unwrap();
    one.commit(put(PLACE, HIDDEN)).await.unwrap();
    std::fs::copy(file("one"), file("two")).unwrap();
    std::fs::copy(file("one"), file("three")).unwrap();
    let two = seal(inner.clone(), &file("two")).await.unwrap();
    let mut events = two.watch(SECRETS.into(), two.current()).await.unwrap();
    assert!(matches!(events.next().await, Some(Event::Progress(_))));
    assert_eq!(one.rotate_with_others().await.unwrap(), 1);
    // What is sealed anew is opened by the other, also on its watch, and the key is kept.
    assert_eq!(read(&two, PLACE).await, HIDDEN);
    let Some(Event::Put { record, .. }) = events.next().await else { panic!("a change") };
    assert_eq!(record.value, HIDDEN);
    assert_eq!(two.keyring().ids(), one.keyring().ids());
    two.rotate_with_others().await.unwrap();
    one.commit(put(PLACE, "changed")).await.unwrap();
    let all = two.range(Range { prefix: SECRETS.into(), ..Range::default() }).await.unwrap();
    assert_eq!(all.records[0].value, "changed");
    assert_eq!(read(&one, PLACE).await, "changed");
    // One that was away learns both, from the key it has.
    let three = seal(inner.clone(), &file("three")).await.unwrap();
    assert_eq!(read(&three, PLACE).await, "changed");
    assert_eq!(three.keyring().ids().len(), 3);
    // A stranger learns nothing.
    let stranger = seal(Arc::new(Memory::default()), &file("four")).await.unwrap();
    drop(stranger);
    assert!(matches!(seal(inner, &file("four")).await.err(), Some(UnsealError::Unfit(_))));
}
