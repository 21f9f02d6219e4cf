//! Who of several servers does what only one may do: a Lease, with the meaning upstream's components give it.
//!
//! A candidate never compares its clock with another's. It takes a lease over when it has watched it for the lease's whole
//! duration without seeing it renewed; a holder stops by itself when it could not renew for a shorter time. So there is one
//! holder at most, provided that clocks run at about the same pace.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::follow::One;

/// The times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long a lease is left to a holder who does not renew it.
    pub lease: Duration,
    /// How long a holder goes on without having renewed. Shorter than `lease`: the difference is for its work to end.
    pub renew: Duration,
    /// How often it renews, and how soon what failed is tried again.
    pub retry: Duration,
}

impl Default for Terms {
    /// Upstream's.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), renew: seconds(10), retry: seconds(2) }
    }
}

/// One who wants to hold a lease.
#[derive(Clone)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    terms: Terms,
}

/// A lease as it was seen to become what it is.
struct Seen {
    lease: Lease,
    at: Instant,
}

/// What the state of a lease means for a candidate.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It may be taken.
    Free,
    /// It is the candidate's, from before.
    Own,
    /// It is another's until then, unless they renew.
    Taken { until: Instant },
}

fn standing(lease: &Lease, at: Instant, identity: &str, now: Instant) -> Standing {
    let Some(spec) = &lease.spec else { return Standing::Free };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() {
        return Standing::Free;
    }
    if holder == identity {
        return Standing::Own;
    }
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    let until = at + Duration::from_secs(seconds);
    if until <= now { Standing::Free } else { Standing::Taken { until } }
}

/// The lease held by `identity`: renewed, or taken over from another.
fn held(old: Option<&Lease>, name: &str, identity: &str, terms: Terms) -> Lease {
    let now = MicroTime(Timestamp::now());
    let seconds = i32::try_from(terms.lease.as_secs()).unwrap_or(i32::MAX);
    let mut lease = old.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let before = lease.spec.take().unwrap_or_default();
    let same = before.holder_identity.as_deref() == Some(identity);
    let transitions = before.lease_transitions.unwrap_or(0);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(seconds),
        acquire_time: if same { before.acquire_time.clone() } else { Some(now.clone()) },
        renew_time: Some(now),
        // The first holder of all is no change.
        lease_transitions: Some(transitions + i32::from(old.is_some() && !same)),
        ..before
    });
    lease
}

impl Candidate {
    /// A candidate of this name, which is its alone and stays over a restart.
    #[must_use]
    pub fn new(api: Api<Lease>, name: &str, identity: &str, terms: Terms) -> Self {
        Self { api, name: name.to_owned(), identity: identity.to_owned(), terms }
    }

    /// Does `work` whenever the lease is ours, until told to stop; then the lease is given back. The token that `work` gets is
    /// cancelled when the lease is lost, and what has not ended soon after is dropped. Work that ends on its own ends this,
    /// with what it returned.
    pub async fn lead<T, W: Future<Output = T>>(
        &self,
        stop: &CancellationToken,
        work: impl Fn(CancellationToken) -> W,
    ) -> Option<T> {
        loop {
            let lease = stop.run_until_cancelled(self.win()).await?;
            info!(lease = self.name, "leading");
            let term = stop.child_token();
            let mut working = std::pin::pin!(work(term.clone()));
            let mut holding = std::pin::pin!(self.hold(lease));
            let lease = tokio::select! {
                outcome = &mut working => {
                    self.resign().await;
                    return Some(outcome);
                }
                () = stop.cancelled() => None,
                () = &mut holding => Some(()),
            };
            term.cancel();
            let left = self.terms.lease.saturating_sub(self.terms.renew) / 2;
            if lease.is_none() {
                // It goes on being renewed while the work ends.
                let outcome = tokio::select! {
                    outcome = &mut working => Some(outcome),
                    () = &mut holding => None,
                };
                self.resign().await;
                return outcome;
            }
            warn!(lease = self.name, "no longer leading");
            if timeout(left, &mut working).await.is_err() {
                warn!(lease = self.name, "the work did not end in time and is dropped");
            }
        }
    }

    /// Waits until the lease is ours.
    async fn win(&self) -> (Lease, Instant) {
        let mut seen: Option<Seen> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(Some(won)) => return won,
                Ok(None) => {}
                Err(error) => {
                    debug!(lease = self.name, %error, "the lease cannot be had yet");
                    sleep(self.terms.retry).await;
                }
            }
        }
    }

    /// One look at the lease, and what follows from it: it is taken, or the next change of it is waited for.
    async fn attempt(
        &self,
        seen: &mut Option<Seen>,
    ) -> Result<Option<(Lease, Instant)>, kube::Error> {
        let now = Instant::now();
        let Some(found) = self.api.get_opt(&self.name).await? else {
            let lease = held(None, &self.name, &self.identity, self.terms);
            return Ok(Some((self.api.create(&PostParams::default(), &lease).await?, now)));
        };
        let unchanged = |seen: &&mut Seen| {
            seen.lease.metadata.resource_version == found.metadata.resource_version
        };
        let at = seen.as_mut().filter(unchanged).map_or(Instant::now(), |seen| seen.at);
        let known = seen.insert(Seen { lease: found, at });
        match standing(&known.lease, known.at, &self.identity, Instant::now()) {
            Standing::Free | Standing::Own => {
                let now = Instant::now();
                Ok(Some((self.write(&known.lease).await?, now)))
            }
            Standing::Taken { until } => {
                let mut changes = One::after(self.api.clone(), &known.lease);
                tokio::select! {
                    // Whatever it is, it is looked at again.
                    changed = changes.next() => {
                        if let Err(error) = changed {
                            debug!(lease = self.name, %error, "cannot watch the lease");
                            sleep(self.terms.retry).await;
                        }
                    }
                    () = sleep_until(until) => {}
                }
                Ok(None)
            }
        }
    }

    async fn write(&self, old: &Lease) -> Result<Lease, kube::Error> {
        let lease = held(Some(old), &self.name, &self.identity, self.terms);
        self.api.replace(&self.name, &PostParams::default(), &lease).await
    }

    /// Renews, and returns when that has failed for too long or another has the lease.
    async fn hold(&self, (mut lease, mut renewed): (Lease, Instant)) {
        loop {
            let end = renewed + self.terms.renew;
            sleep_until((renewed + self.terms.retry).min(end)).await;
            loop {
                let began = Instant::now();
                if began >= end {
                    return;
                }
                match timeout(end - began, self.renew(&lease)).await {
                    Ok(Ok(Some(newer))) => {
                        (lease, renewed) = (newer, began);
                        break;
                    }
                    Ok(Ok(None)) => return,
                    Ok(Err(error)) => warn!(lease = self.name, %error, "the lease was not renewed"),
                    Err(_) => return,
                }
                sleep_until((Instant::now() + self.terms.retry).min(end)).await;
            }
        }
    }

    /// Renews once; none if it is another's.
    async fn renew(&self, lease: &Lease) -> Result<Option<Lease>, kube::Error> {
        match self.write(lease).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            other => return other.map(Some),
        }
        // Somebody wrote to it: perhaps a person, who only looked after a label.
        let found = match self.api.get_opt(&self.name).await? {
            Some(found) => found,
            None => return Ok(None),
        };
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(&self.identity) {
            return Ok(None);
        }
        self.write(&found).await.map(Some)
    }

    /// Gives the lease back, so that the next need not wait.
    async fn resign(&self) {
        let given = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            let Some(spec) = &mut lease.spec else { return Ok(()) };
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        match timeout(self.terms.retry, given).await {
            Ok(Ok(())) => {}
            Ok(Err::<(), kube::Error>(error)) => {
                debug!(lease = self.name, %error, "the lease was not given back");
            }
            Err(_) => debug!(lease = self.name, "the lease was not given back in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> Lease {
        held(None, "l", holder, Terms::default())
    }

    #[tokio::test]
    async fn a_lease_is_left_to_its_holder_for_its_duration_after_it_was_seen() {
        let at = Instant::now();
        let theirs = lease("a");
        let until = at + Duration::from_secs(15);
        let at_end = |now| standing(&theirs, at, "b", now);
        assert_eq!(at_end(at), Standing::Taken { until });
        assert_eq!(at_end(until), Standing::Free);
        assert_eq!(standing(&theirs, at, "a", at), Standing::Own);
        assert_eq!(standing(&lease(""), at, "b", at), Standing::Free);
        assert_eq!(standing(&Lease::default(), at, "b", at), Standing::Free);
    }

    #[test]
    fn transitions_count_changes_of_the_holder() {
        let first = lease("a");
        let spec = |lease: &Lease| lease.spec.clone().unwrap();
        assert_eq!(spec(&first).lease_transitions, Some(0));
        let renewed = held(Some(&first), "l", "a", Terms::default());
        assert_eq!(spec(&renewed).lease_transitions, Some(0));
        assert_eq!(spec(&renewed).acquire_time, spec(&first).acquire_time);
        let taken = held(Some(&renewed), "l", "b", Terms::default());
        assert_eq!(spec(&taken).lease_transitions, Some(1));
        assert_ne!(spec(&taken).acquire_time, spec(&first).acquire_time);
        assert_eq!(spec(&taken).lease_duration_seconds, Some(15));
    }
}
