//! A full disk fails the commit at hand and nothing else.

use std::path::PathBuf;

use berth_store::{Disk, DiskOptions, Expect, Store, StoreError};
use bytes::Bytes;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::contract::put;

/// A small file system that goes away with the value.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
            .expect("this test mounts a tmpfs and needs CAP_SYS_ADMIN");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.folder.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_fails_one_commit_and_not_the_store() {
    let disk = SmallDisk::new("4m");
    let store = Disk::open(&disk.path("store"), DiskOptions::default()).unwrap();
    store.commit(vec![put("first", "1", Expect::Absent)]).await.unwrap();
    let ballast = disk.path("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();

    let large = "x".repeat(100 << 10);
    let mut accepted = 0;
    let error = loop {
        match store.commit(vec![put(&format!("large/{accepted}"), &large, Expect::Absent)]).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100, "the disk is smaller than this");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let failed = Bytes::from(format!("large/{accepted}"));
    assert!(store.get(failed.clone(), None).await.unwrap().record.is_none());
    let before = store.current();

    std::fs::remove_file(&ballast).unwrap();
    store.commit(vec![put("last", "1", Expect::Absent)]).await.expect("there is room again");
    assert_eq!(store.current().0, before.0 + 1);
    drop(store);

    let store = Disk::open(&disk.path("store"), DiskOptions::default()).unwrap();
    for name in ["first", "last"] {
        assert!(store.get(name.into(), None).await.unwrap().record.is_some(), "{name}");
    }
    assert!(store.get(failed, None).await.unwrap().record.is_none());
}
