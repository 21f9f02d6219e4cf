//! Random histories against the simplest thing that could be right: a list of whole maps, one per revision.

use std::collections::BTreeMap;

use berth_store::{
    Disk, DiskOptions, Event, Expect, Memory, Operation, Range, Revision, Store, StoreError,
};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;

type Map = BTreeMap<Bytes, (Bytes, Revision)>;

#[derive(Debug, Clone)]
enum Act {
    Commit(Vec<(u8, Option<u8>, u8)>),
    Compact(u8),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let operation = (0..6_u8, proptest::option::of(any::<u8>()), 0..4_u8);
    prop_oneof![
        8 => proptest::collection::vec(operation, 1..4).prop_map(Act::Commit),
        1 => any::<u8>().prop_map(Act::Compact),
        1 => Just(Act::Reopen),
    ]
}

fn operations(parts: &[(u8, Option<u8>, u8)], head: &Map) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (key, value, expectation) in parts {
        let key = Bytes::from(format!("k{key}"));
        let expect = match (expectation, head.get(&key)) {
            (0, _) => Expect::Absent,
            (1, Some((_, revision))) => Expect::Revision(*revision),
            (2, _) => Expect::Revision(Revision(1)),
            _ => Expect::Any,
        };
        operations.push(match value {
            Some(value) => Operation::Put { key, value: vec![*value].into(), expect },
            None => Operation::Delete { key, expect },
        });
    }
    operations
}

/// The next map, or nothing if the commit must be refused.
fn apply(operations: &[Operation], head: &Map, revision: Revision) -> Option<Map> {
    let mut next = head.clone();
    let mut seen = Vec::new();
    for operation in operations {
        let (key, value, expect) = match operation {
            Operation::Put { key, value, expect } => (key, Some(value), expect),
            Operation::Delete { key, expect } => (key, None, expect),
        };
        let actual = head.get(key).map(|(_, revision)| *revision);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => actual.is_none(),
            Expect::Revision(wanted) => actual == Some(*wanted),
        };
        if !holds || seen.contains(&key) {
            return None;
        }
        seen.push(key);
        match value {
            Some(value) => drop(next.insert(key.clone(), (value.clone(), revision))),
            None => drop(next.remove(key)),
        }
    }
    Some(next)
}

async fn agrees(store: &dyn Store, maps: &[Map]) {
    let compacted = store.compacted().0;
    for (at, map) in (0_u64..).zip(maps) {
        let range = Range { at: Some(Revision(at)), ..Range::default() };
        match store.range(range).await {
            Ok(page) => {
                let found: Map =
                    page.records.into_iter().map(|r| (r.key, (r.value, r.revision))).collect();
                assert_eq!(&found, map, "at revision {at}");
                assert!(at >= compacted);
            }
            Err(StoreError::Compacted { .. }) => assert!(at < compacted),
            Err(other) => panic!("{other}"),
        }
    }
    let mut seen = maps[usize::try_from(compacted).unwrap()].clone();
    let mut events = store.watch(Bytes::new(), Revision(compacted)).await.unwrap();
    loop {
        match events.next().await.unwrap() {
            Event::Put { record, previous } => {
                let before = seen.insert(record.key, (record.value, record.revision));
                assert_eq!(before, previous.map(|p| (p.value, p.revision)));
            }
            Event::Delete { previous, .. } => {
                let before = seen.remove(&previous.key);
                assert_eq!(before, Some((previous.value, previous.revision)));
            }
            Event::Progress(revision) => {
                assert_eq!(revision, store.current());
                break;
            }
            Event::Compacted(_) => panic!("the watch began where it may"),
        }
    }
    assert_eq!(&seen, maps.last().unwrap(), "the watch leads to the same end");
}

async fn run(acts: Vec<Act>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let memory = Memory::default();
    let mut disk = Disk::open(&path, DiskOptions::default()).unwrap();
    let mut maps = vec![Map::new()];
    for act in acts {
        match act {
            Act::Commit(parts) => {
                let head = maps.last().unwrap();
                let operations = operations(&parts, head);
                let wanted = apply(&operations, head, Revision(maps.len() as u64));
                let answers =
                    [memory.commit(operations.clone()).await, disk.commit(operations).await];
                for answer in &answers {
                    assert_eq!(answer.is_ok(), wanted.is_some(), "{answer:?}");
                }
                maps.extend(wanted.filter(|next| next != head));
                for answer in answers.into_iter().flatten() {
                    assert_eq!(answer.0, maps.len() as u64 - 1);
                }
            }
            Act::Compact(part) => {
                let revision = Revision(u64::from(part) * memory.current().0 / 255);
                memory.compact(revision).await.unwrap();
                disk.compact(revision).await.unwrap();
            }
            Act::Reopen => {
                drop(disk);
                disk = Disk::open(&path, DiskOptions::default()).unwrap();
            }
        }
        assert_eq!(memory.compacted(), disk.compacted());
    }
    agrees(&memory, &maps).await;
    agrees(&disk, &maps).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_list_of_maps(acts in proptest::collection::vec(act(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts));
    }
}
