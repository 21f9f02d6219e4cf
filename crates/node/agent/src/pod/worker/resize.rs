//! Giving a pod that runs another size.
//!
//! What is asked for becomes a promise once it fits, and the promise is written down before any cgroup is changed, so that an
//! agent that comes after goes on where this one stopped.

use berth_client::demand;
use berth_runtime::cgroup::Cgroup;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tracing::{info, warn};

use super::Worker;
use crate::config::Cause;
use crate::event::Severity;
use crate::groups;
use crate::pod::resize::{
    Progress, Size, Sizes, Verdict, between, lasting, memory_limit, promised, restarts,
};
use crate::status::chain;

/// The pause before what could not be applied is tried again.
const AGAIN: SignedDuration = SignedDuration::from_secs(3);

impl Worker {
    /// The pod's specification with what is promised to its containers.
    pub(super) fn promised(&self) -> PodSpec {
        promised(&self.last.spec.clone().unwrap_or_default(), &self.record.sizes)
    }

    /// A new pod is promised what it asks for. A container that an earlier agent started is promised what that said it has:
    /// another size may have been asked for since.
    pub(super) fn promise(&mut self) {
        let before = self.record.sizes.len();
        add_sizes(&self.last, &mut self.record.sizes);
        if self.record.sizes.len() > before
            && self.workshop.directory.path().exists()
            && let Err(cause) = self.workshop.save(&self.record)
        {
            warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
        }
    }

    /// Takes a new size in, if there is one, and applies what is promised. Returns when to look again.
    pub(super) async fn resize(&mut self) -> Option<Timestamp> {
        let goal = self.goal();
        if goal.deleting || goal.stopping || self.observed.failed.is_some() {
            // Nobody need wait for it any more.
            self.observed.resize = Progress::default();
            return None;
        }
        self.promise();
        let before = self.observed.resize.clone();
        let generation = self.last.metadata.generation;
        let (pending, accepted) = self.consider();
        if accepted {
            self.weigh().await;
        }
        let due = self.record.sizes.values().any(|size| size.promised != size.applied);
        let under_way = self.apply_sizes().await;
        if due && under_way.is_none() && pending.is_none() {
            self.event(Severity::Normal, "ResizeCompleted", "Pod resize completed".to_owned());
        }
        let again = under_way.as_ref().is_some_and(|why| why.is_some());
        let some = pending.is_some() || under_way.is_some();
        let generation = generation.filter(|_| some);
        let after = Progress { pending, under_way, generation };
        self.tell(&before, &after);
        self.observed.resize = after;
        again.then(|| Timestamp::now() + AGAIN)
    }

    /// Promises what is asked for, where it can be had. Else why not; and whether there is a new promise.
    fn consider(&mut self) -> (Option<(&'static str, String)>, bool) {
        let Some(spec) = self.last.spec.clone() else { return (None, false) };
        let asked = |container: &Container| container.resources.clone().unwrap_or_default();
        let sizes = &self.record.sizes;
        let differs = |container: &Container| {
            sizes.get(&container.name).is_some_and(|size| size.promised != asked(container))
        };
        if !lasting(&spec).any(differs) {
            return (None, false);
        }
        let (before, after) = (demand::requests(&self.promised()), demand::requests(&spec));
        let shared = self.shared();
        let all = &shared.capacity.allocatable;
        match shared.roster.promise(&self.record.uid, &before, &after, all) {
            Verdict::Infeasible(why) => (Some(("Infeasible", why)), false),
            Verdict::Deferred(why) => (Some(("Deferred", why)), false),
            Verdict::Fits => {
                for container in lasting(&spec) {
                    if let Some(size) = self.record.sizes.get_mut(&container.name) {
                        size.promised = asked(container);
                    }
                }
                if let Err(cause) = self.workshop.save(&self.record) {
                    warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
                }
                (None, true)
            }
        }
    }

    /// Holds containers to what is promised. `None` once all are; else why not, if there is a reason.
    async fn apply_sizes(&mut self) -> Option<Option<String>> {
        let spec = self.last.spec.clone()?;
        let due: Vec<Container> = lasting(&spec)
            .filter(|container| {
                let size = self.record.sizes.get(&container.name);
                size.is_some_and(|size| size.promised != size.applied)
            })
            .cloned()
            .collect();
        if due.is_empty() {
            return None;
        }
        let mut live = Vec::new();
        let mut waits = false;
        for container in due {
            let Some(size) = self.record.sizes.get_mut(&container.name) else { continue };
            let view = self.observed.containers.get_mut(&container.name);
            match view.filter(|view| view.is_running()) {
                // It gets its size with its next start.
                None => size.applied = size.promised.clone(),
                Some(view) if restarts(&container, size) => {
                    view.resizing = true;
                    if let Some(known) = self.record.containers.get_mut(&container.name) {
                        known.resizing = true;
                    }
                    waits = true;
                }
                Some(_) => live.push(container),
            }
        }
        let outcome = self.hold(&live).await;
        if let Err(cause) = self.workshop.save(&self.record) {
            warn!(pod = %self.record.name, error = %cause, "the pod's record was not written");
        }
        match outcome {
            Err(cause) => Some(Some(cause.message)),
            Ok(()) if waits => Some(None),
            Ok(()) => None,
        }
    }

    /// Changes the cgroups of running containers. The pod as a whole has before and after what its containers are held to then:
    /// no child may have more of the processors than its parent, and no pod less memory than is in use.
    async fn hold(&mut self, containers: &[Container]) -> Result<(), Cause> {
        let spec = self.last.spec.clone().unwrap_or_default();
        if !containers.is_empty() {
            let before = between(&spec, &self.record.sizes);
            self.workshop.limit_pod(&before, &self.record).await?;
        }
        let mut outcome = Ok(());
        for container in containers {
            let done = self.hold_one(&container.name).await;
            outcome = outcome.and(done);
        }
        // Also after a failure: others may have their new size.
        let after = between(&spec, &self.record.sizes);
        let limited = self.workshop.limit_pod(&after, &self.record).await;
        outcome.and(limited)
    }

    async fn hold_one(&mut self, name: &str) -> Result<(), Cause> {
        let Some(size) = self.record.sizes.get(name).cloned() else { return Ok(()) };
        let instance = self.instance(name);
        let path = self.workshop.pod_cgroup(&self.record).join(instance);
        let cgroup = Cgroup::at(&self.shared().hierarchies, &path);
        let (limits, limit) =
            (groups::container_limits(&size.promised), memory_limit(&size.promised));
        let label = name.to_owned();
        let work = move || {
            let used = cgroup.usage().map_err(|error| chain(&error))?.memory.working_set;
            if let Some(limit) = limit.filter(|limit| *limit < used) {
                return Err(format!(
                    "attempting to set container \"{label}\" memory limit ({limit}) below current usage ({used})"
                ));
            }
            cgroup.limit(&limits).map_err(|error| chain(&error))
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Cause::create(error.to_string()))?.map_err(Cause::create)?;
        if let Some(size) = self.record.sizes.get_mut(name) {
            size.applied = size.promised.clone();
        }
        info!(pod = %self.record.name, namespace = %self.record.namespace, container = name, "resized container");
        Ok(())
    }

    /// Says what has changed about a change of size.
    fn tell(&self, before: &Progress, after: &Progress) {
        if let Some((reason, message)) =
            after.pending.as_ref().filter(|it| before.pending.as_ref() != Some(it))
        {
            let text = format!("Pod resize {reason}: {message}");
            self.event(Severity::Warning, &format!("Resize{reason}"), text);
        }
        if let Some(Some(why)) = &after.under_way
            && before.under_way != after.under_way
        {
            self.event(Severity::Warning, "ResizeError", format!("Pod resize error: {why}"));
        }
    }
}

/// Promises containers of which nothing is known yet what they have, or else what they ask for.
fn add_sizes(pod: &Pod, sizes: &mut Sizes) {
    let Some(spec) = &pod.spec else { return };
    let status = pod.status.iter();
    let told: Vec<_> = status
        .flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            status.container_statuses.iter().flatten().chain(init)
        })
        .collect();
    for container in lasting(spec).filter(|it| !sizes.contains_key(&it.name)).collect::<Vec<_>>() {
        let status = told.iter().find(|status| status.name == container.name);
        let known = status.and_then(|status| status.resources.clone());
        let has = known.or_else(|| container.resources.clone()).unwrap_or_default();
        let size = Size { promised: has.clone(), applied: has };
        sizes.insert(container.name.clone(), size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_that_runs_is_promised_what_it_has_and_not_what_is_asked_for_since() {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let container = |name: &str| json!({"name": name, "resources": of("3")});
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [container("runs"), container("new"), container("known")]},
            "status": {"containerStatuses": [
                {"name": "runs", "resources": of("1"), "image": "", "imageID": "", "ready": true, "restartCount": 0},
            ]},
        }))
        .unwrap();
        let two: Size =
            serde_json::from_value(json!({"promised": of("2"), "applied": of("2")})).unwrap();
        let mut sizes: Sizes = [("known".to_owned(), two)].into();
        add_sizes(&pod, &mut sizes);
        let told = |name: &str| {
            let size = &sizes[name];
            assert_eq!(size.promised, size.applied);
            size.applied.requests.as_ref().unwrap()["cpu"].0.clone()
        };
        assert_eq!(
            (told("runs"), told("new"), told("known")),
            ("1".into(), "3".into(), "2".into())
        );
    }
}
