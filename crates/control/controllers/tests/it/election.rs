//! Several candidates for one lease, of whom one leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_client::{Candidate, Terms};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::Cluster;

const TERMS: Terms = Terms {
    lease: Duration::from_secs(2),
    renew: Duration::from_millis(1200),
    retry: Duration::from_millis(200),
};

fn leases(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.client.clone(), "kube-system")
}

/// Starts a candidate that says when it leads and no longer leads.
fn run(
    client: &Client,
    identity: &'static str,
    leading: &Arc<AtomicUsize>,
    says: &mpsc::UnboundedSender<(&'static str, bool)>,
) -> (CancellationToken, tokio::task::JoinHandle<Option<()>>) {
    let api = Api::namespaced(client.clone(), "kube-system");
    let candidate = Candidate::new(api, "test", identity, TERMS);
    let (stop, leading, says) = (CancellationToken::new(), leading.clone(), says.clone());
    let token = stop.clone();
    let work = move |term: CancellationToken| {
        let (leading, says) = (leading.clone(), says.clone());
        async move {
            assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead at once");
            says.send((identity, true)).unwrap();
            term.cancelled().await;
            leading.fetch_sub(1, Ordering::SeqCst);
            says.send((identity, false)).unwrap();
        }
    };
    (stop, tokio::spawn(async move { candidate.lead(&token, work).await }))
}

#[tokio::test]
async fn one_leads_and_the_next_follows_when_it_goes() {
    let cluster = Cluster::empty().await;
    let (says, mut said) = mpsc::unbounded_channel();
    let leading = Arc::new(AtomicUsize::new(0));
    let (stop_a, a) = run(&cluster.client, "a", &leading, &says);
    assert_eq!(said.recv().await, Some(("a", true)));
    let (stop_b, b) = run(&cluster.client, "b", &leading, &says);
    // It stays the first one's while that renews.
    let shown = async || leases(&cluster).get("test").await.unwrap().spec.unwrap();
    let first = shown().await;
    assert_eq!(first.holder_identity.as_deref(), Some("a"));
    let mut now = first.clone();
    while now.renew_time == first.renew_time {
        tokio::time::sleep(Duration::from_millis(50)).await;
        now = shown().await;
    }
    assert_eq!((now.acquire_time, now.lease_transitions), (first.acquire_time, Some(0)));
    // A foreign label is no reason to give up.
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let change = Patch::Merge(label);
    leases(&cluster).patch("test", &PatchParams::default(), &change).await.unwrap();
    // Who is told to stop gives it back, and the next need not wait.
    let began = Instant::now();
    stop_a.cancel();
    assert_eq!(said.recv().await, Some(("a", false)));
    assert_eq!(said.recv().await, Some(("b", true)));
    assert!(began.elapsed() < TERMS.lease / 2, "{:?}", began.elapsed());
    assert_eq!(a.await.unwrap(), Some(()));
    assert_eq!(shown().await.lease_transitions, Some(1));
    // A lease that somebody else has written is lost at once.
    let steal = json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 1}});
    let change = Patch::Merge(steal);
    leases(&cluster).patch("test", &PatchParams::default(), &change).await.unwrap();
    assert_eq!(said.recv().await, Some(("b", false)));
    // The thief does not renew.
    assert_eq!(said.recv().await, Some(("b", true)));
    assert_eq!(shown().await.lease_transitions, Some(2));
    stop_b.cancel();
    assert_eq!(b.await.unwrap(), Some(()));
    assert_eq!(shown().await.holder_identity.as_deref(), Some(""));
}

#[tokio::test]
async fn a_lease_whose_holder_vanished_is_taken_after_its_time() {
    let cluster = Cluster::empty().await;
    let (says, mut said) = mpsc::unbounded_channel();
    let (_, a) = run(&cluster.client, "a", &Arc::default(), &says);
    assert_eq!(said.recv().await, Some(("a", true)));
    // As by kill -9: nothing is given back.
    a.abort();
    let began = Instant::now();
    let (stop, b) = run(&cluster.client, "b", &Arc::default(), &says);
    assert_eq!(said.recv().await, Some(("b", true)));
    let waited = began.elapsed();
    assert!(waited + TERMS.retry >= TERMS.lease && waited < TERMS.lease * 2, "{waited:?}");
    // A restart of the same server goes on at once.
    b.abort();
    drop(stop);
    let began = Instant::now();
    let (stop, b) = run(&cluster.client, "b", &Arc::default(), &says);
    assert_eq!(said.recv().await, Some(("b", true)));
    assert!(began.elapsed() < TERMS.lease / 2, "{:?}", began.elapsed());
    stop.cancel();
    b.await.unwrap();
}
