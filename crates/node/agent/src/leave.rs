//! The machine is about to go down: pods end in order, those of the system last, and no other is taken in.
//!
//! A server that merely stops leaves its containers running, so this is only done when somebody says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

use crate::agent::Shared;
use crate::roster::{Eviction, Member, Told};
use crate::settings::GRACE;

/// Upstream's words for it.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// What the kernel and we need beyond the time that containers have.
const SLACK: Duration = Duration::from_secs(2);

/// Ends the pods of the node within this time, of which those of the system have the last part. Returns what became of them.
pub(crate) async fn leave(shared: &Arc<Shared>, within: Duration, critical: Duration) -> Value {
    shared.roster.leave();
    info!(?within, ?critical, "the node goes down, its pods end");
    let begun = Instant::now();
    let first = within.saturating_sub(critical);
    let mut ended = end(shared, begun + first, |member| !member.critical).await;
    ended.append(&mut end(shared, begun + within, |_| true).await);
    let left: Vec<String> =
        shared.roster.members().iter().filter(|member| member.active).map(name).collect();
    json!({ "ended": ended, "left": left })
}

fn name(member: &Member) -> String {
    format!("{}/{}", member.pod.namespace().unwrap_or_default(), member.pod.name_any())
}

/// Ends those that are meant, and waits for it until a little after the deadline.
async fn end(
    shared: &Shared,
    deadline: Instant,
    is_meant: impl Fn(&Member) -> bool,
) -> BTreeSet<String> {
    let mut room = shared.roster.room();
    let (mut told, mut ended) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let members = shared.roster.members();
        let meant = members.iter().filter(|member| member.active && is_meant(member));
        let mut waiting = false;
        for member in meant {
            waiting = true;
            let uid = member.pod.uid().unwrap_or_default();
            if !member.over && !told.contains(&uid) {
                let own = member.pod.spec.as_ref();
                let own = own.and_then(|spec| spec.termination_grace_period_seconds);
                let most = SignedDuration::try_from(left).unwrap_or_default();
                let grace = SignedDuration::from_secs(own.unwrap_or(GRACE)).min(most);
                let message = MESSAGE.to_owned();
                // A busy worker is told at the next look.
                let eviction = Eviction::now(REASON, message, grace);
                if shared.roster.evict(&uid, eviction) == Told::Done {
                    ended.insert(name(member));
                    told.insert(uid);
                }
            }
        }
        if !waiting || left.is_zero() && Instant::now() >= deadline + SLACK {
            return ended;
        }
        let look = (Instant::now() + Duration::from_millis(200)).min(deadline + SLACK);
        // Either is a reason to look again.
        let _changed = tokio::time::timeout_at(look, room.changed()).await;
    }
}
