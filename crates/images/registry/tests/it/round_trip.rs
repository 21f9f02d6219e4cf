//! What is pushed comes back the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use berth_content::Digest;
use berth_registry::{
    LayerProgress, PullOptions, PullPolicy, PushOptions, RegistryError, pull, push,
};

use crate::support::{Registry, client, cutting_proxy, image, noise, store};

#[derive(Default)]
struct Counting(Mutex<HashMap<Digest, u64>>, Mutex<usize>);

impl LayerProgress for Counting {
    fn started(&self, _: &Digest, _: u64) {}

    fn advanced(&self, layer: &Digest, bytes: u64) {
        self.0.lock().unwrap().insert(*layer, bytes);
    }

    fn finished(&self, _: &Digest) {
        *self.1.lock().unwrap() += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_back_with_its_digest_and_files() {
    let registry = Registry::start().await;
    let name = registry.reference("team/app:1");
    let from = store();
    let big = noise(3 << 20);
    let original = image(&from.store, &[("a", b"1"), ("big", &big)], &name);
    let counting = Arc::new(Counting::default());
    let options = PushOptions { progress: counting.clone(), ..PushOptions::new(client()) };
    let digest = push(&from.store, &original, &name, &options).await.unwrap();
    assert_eq!(digest, original.digest);
    assert_eq!(counting.0.lock().unwrap()[&original.blobs[1].digest], original.blobs[1].size);

    let to = store();
    let counting = Arc::new(Counting::default());
    let options = PullOptions { progress: counting.clone(), ..PullOptions::new(client()) };
    let pulled = pull(&to.store, &name, &options).await.unwrap();
    assert_eq!(pulled.digest, original.digest);
    assert!(to.store.is_pulled(&name).unwrap() && !from.store.is_pulled(&name).unwrap());
    let dirs = to.store.layer_dirs(&pulled).unwrap();
    assert_eq!(std::fs::read(dirs[1].join("big")).unwrap(), big);
    for blob in &original.blobs {
        assert_eq!(counting.0.lock().unwrap()[&blob.digest], blob.size);
    }
    assert_eq!(*counting.1.lock().unwrap(), 2);
    // By digest, too; and what is here is not fetched again.
    let again = Arc::new(Counting::default());
    let options = PullOptions { progress: again.clone(), ..PullOptions::new(client()) };
    let pinned = pull(&to.store, &name.at(original.digest), &options).await.unwrap();
    assert_eq!(pinned.digest, original.digest);
    assert!(again.0.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_decide_whether_the_registry_is_asked() {
    let registry = Registry::start().await;
    let name = registry.reference("app");
    let (from, to) = (store(), store());
    let old = image(&from.store, &[("a", b"old")], &name);
    push(&from.store, &old, &name, &PushOptions::new(client())).await.unwrap();
    let with = |policy| PullOptions { policy, ..PullOptions::new(client()) };
    let outcome = pull(&to.store, &name, &with(PullPolicy::Never)).await;
    assert!(matches!(outcome, Err(RegistryError::NeverPulled(_))));
    pull(&to.store, &name, &with(PullPolicy::IfNotPresent)).await.unwrap();
    let new = image(&from.store, &[("a", b"new")], &name);
    push(&from.store, &new, &name, &PushOptions::new(client())).await.unwrap();
    let same = pull(&to.store, &name, &with(PullPolicy::IfNotPresent)).await.unwrap();
    assert_eq!(same.digest, old.digest);
    assert_eq!(pull(&to.store, &name, &with(PullPolicy::Always)).await.unwrap().digest, new.digest);
    drop(registry);
    assert!(pull(&to.store, &name, &with(PullPolicy::Never)).await.is_ok());
    let outcome = pull(&to.store, &name, &with(PullPolicy::Always)).await;
    assert!(matches!(outcome, Err(RegistryError::Unreachable { .. })), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_the_connection_broke() {
    let registry = Registry::start().await;
    let from = store();
    let big = noise(2 << 20);
    let name = registry.reference("app");
    let original = image(&from.store, &[("big", &big)], &name);
    push(&from.store, &original, &name, &PushOptions::new(client())).await.unwrap();
    // Each connection dies after 300 kB: seven attempts at least, more than are allowed without progress.
    let proxy = cutting_proxy(registry.address, 300_000).await;
    let to = store();
    let through = crate::support::at(proxy, "app");
    let pulled = pull(&to.store, &through, &PullOptions::new(client())).await.unwrap();
    assert_eq!(pulled.digest, original.digest);
    let dirs = to.store.layer_dirs(&pulled).unwrap();
    assert_eq!(std::fs::read(dirs[0].join("big")).unwrap(), big);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_gives_nothing_is_given_up() {
    let registry = Registry::start().await;
    let proxy = cutting_proxy(registry.address, 0).await;
    let to = store();
    let name = crate::support::at(proxy, "app");
    let outcome = pull(&to.store, &name, &PullOptions::new(client())).await;
    assert!(matches!(outcome, Err(RegistryError::Unreachable { .. })), "{outcome:?}");
    assert_eq!(to.store.usage().unwrap(), berth_content::Usage::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_base_are_mounted_from_its_repository() {
    let registry = Registry::start().await;
    let from = store();
    let (base, app) = (registry.reference("base"), registry.reference("app"));
    let original = image(&from.store, &[("big", &noise(1 << 20))], &base);
    push(&from.store, &original, &base, &PushOptions::new(client())).await.unwrap();
    let counting = Arc::new(Counting::default());
    let options = PushOptions {
        mount_from: vec!["nothing".to_owned(), "base".to_owned()],
        progress: counting.clone(),
        ..PushOptions::new(client())
    };
    push(&from.store, &original, &app, &options).await.unwrap();
    assert!(!counting.0.lock().unwrap().contains_key(&original.blobs[0].digest));
    pull(&store().store, &app, &PullOptions::new(client())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_not_found() {
    let registry = Registry::start().await;
    let name = registry.reference("no/such:tag");
    let outcome = pull(&store().store, &name, &PullOptions::new(client())).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }));
    let address = registry.address;
    assert_eq!(
        error.to_string(),
        format!(
            "registry {address} has no image `{address}/no/such:tag`; check the name and the tag"
        )
    );
    client().ping(&name).await.unwrap();
}
