//! A pod's place among the others of its node: being taken in, counted, and ended for their good.

use berth_client::demand::{self, Amounts, Quality};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tracing::{info, warn};

use super::{RETRY, Worker};
use crate::directory::Failed;
use crate::event::Severity;
use crate::pod::observe::View;
use crate::pod::plan::is_finished;
use crate::roster::{Eviction, Member, is_system};

impl Worker {
    /// The pod as those see it who look after all of them.
    pub(super) fn member(&self) -> Member {
        let goal = self.goal();
        let ended = is_finished(&goal, &self.record, &self.observed);
        // What has left the API is charged to nobody any more, though its end may take a moment.
        let charged = !ended && self.pod.borrow().is_some();
        let promised = if charged { demand::requests(&self.promised()) } else { Amounts::new() };
        let known = self.record.containers.iter();
        Member {
            pod: self.last.clone(),
            critical: self.is_static() || is_system(&self.last),
            promised,
            charged,
            // Until nothing of it is left, what it used is not free.
            active: !ended || self.observed.sandbox,
            over: ended && !goal.stopping && !self.observed.sandbox,
            containers: known.map(|(name, known)| (name.clone(), known.instance(name))).collect(),
        }
    }

    pub(super) async fn weigh(&self) {
        let quality = self.last.spec.as_ref().map_or(Quality::BestEffort, Quality::of);
        if let Err(cause) = self.workshop.weigh(quality).await {
            warn!(pod = %self.record.name, error = %cause, "the share of processors was not set");
        }
    }

    /// Lets go of devices that nobody uses any more. Before it is told that the pod has ended: another may come at once.
    pub(super) async fn release_devices(&mut self) {
        let running = self.observed.containers.values().any(View::is_running);
        if running
            || !self.shared().devices.has_any(&self.record.uid)
            || !is_finished(&self.goal(), &self.record, &self.observed)
        {
            return;
        }
        // Where the shim was killed it is only believed that nobody uses them.
        if let Err(cause) = self.workshop.end_rest(&self.record).await {
            warn!(pod = %self.record.name, error = %cause, "the pod's devices are not free yet");
            let soon = Timestamp::now() + RETRY;
            self.retry = Some(self.retry.map_or(soon, |known| known.min(soon)));
            return;
        }
        self.shared().devices.release(&self.record.uid);
    }

    pub(super) async fn join_roster(&self) {
        if self.shared().roster.set(self.member(), &self.evict) {
            self.weigh().await;
        }
    }

    pub(super) async fn leave_roster(&self) {
        self.shared().devices.release(&self.record.uid);
        self.shared().roster.remove(&self.record.uid);
        self.weigh().await;
    }

    /// Takes the pod in, or refuses it where the node is short of something.
    pub(super) async fn admit(&mut self) {
        if std::mem::replace(&mut self.admitted, true) || self.goal().deleting {
            return;
        }
        self.promise();
        let (shared, member) = (self.shared(), self.member());
        let refusal = shared
            .roster
            .refusal(&self.last, member.critical)
            .map(|(reason, message)| (reason.to_owned(), message));
        let all = &shared.capacity.allocatable;
        let refusal = refusal.or_else(|| shared.roster.enter(member, &self.evict, all).err());
        let refusal = match refusal {
            None => {
                let allotted = shared.devices.allot(&self.last, |uid| shared.is_here(uid)).await;
                allotted.err().map(|why| {
                    ("UnexpectedAdmissionError".to_owned(), format!("Pod was rejected: {why}"))
                })
            }
            refused => refused,
        };
        if let Some((reason, message)) = refusal {
            shared.tally.refused(&reason);
            self.event(Severity::Warning, &reason, message.clone());
            self.fail(Failed { reason, message, disrupted: false, by: None });
        } else {
            self.weigh().await;
        }
    }

    /// The node takes the room back that the pod has.
    pub(super) fn evicted(&mut self, eviction: Eviction) {
        if eviction.is_old() {
            return;
        }
        let Eviction { reason, message, grace, .. } = eviction;
        // Also where it is ending already: it may have given itself all the time of the world.
        let until = Timestamp::now() + grace;
        self.hurried = Some(self.hurried.map_or(until, |known| known.min(until)));
        let goal = self.goal();
        if goal.deleting || is_finished(&goal, &self.record, &self.observed) {
            return;
        }
        self.event(Severity::Warning, reason, message.clone());
        let by = Some(until);
        self.fail(Failed { reason: reason.to_owned(), message, disrupted: true, by });
    }

    /// Gives the pod up, also for an agent that comes after this one.
    pub(super) fn fail(&mut self, failed: Failed) {
        info!(pod = %self.record.name, namespace = %self.record.namespace, reason = %failed.reason, message = %failed.message, "pod failed");
        self.record.failed = Some(failed.clone());
        self.observed.failed = Some(failed);
        if self.workshop.directory.path().exists()
            && let Err(cause) = self.workshop.save(&self.record)
        {
            warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
        }
    }

    /// Of a container's instances the current one and the one before are told about; what is older goes.
    pub(super) fn forget_oldest(&self, name: &str) {
        let starts = self.record.containers.get(name).map_or(0, |known| known.starts);
        let Some(oldest) = starts.checked_sub(2).filter(|oldest| *oldest > 0) else { return };
        let instance = format!("{name}.{oldest}");
        if let Err(error) = self.workshop.directory.forget(&instance) {
            warn!(pod = %self.record.name, %instance, %error, "what is left of an old container was not removed");
        }
    }
}

/// Why a pod without a record was given up before: it was refused, or this node has lost what it knew.
pub(super) fn failed_before(pod: &Pod) -> Option<Failed> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    let reason = status.reason.clone().unwrap_or_else(|| "ContainerStatusUnknown".to_owned());
    let message = status.message.clone().unwrap_or_default();
    Some(Failed { reason, message, disrupted: false, by: None })
}
