use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::super::observe::observe;
use super::*;
use crate::object::controlled_by;

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn at(seconds_ago: i64) -> String {
    Timestamp::from_second(NOW - seconds_ago).unwrap().to_string()
}

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "set", "generation": 3 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [] } },
        },
    }))
    .unwrap()
}

fn pod(name: &str, status: Value) -> Arc<Pod> {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "shop", "uid": name, "labels": { "app": "web" },
            "creationTimestamp": at(100) },
        "spec": { "containers": [], "nodeName": "a" },
        "status": status,
    }))
    .unwrap();
    pod.metadata.owner_references = Some(vec![controlled_by(&set(0))]);
    Arc::new(pod)
}

fn change(pod: &Arc<Pod>, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
    let mut pod = pod.as_ref().clone();
    change(&mut pod);
    Arc::new(pod)
}

fn up(name: &str, seconds_ago: i64) -> Arc<Pod> {
    let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": at(seconds_ago) });
    pod(name, json!({ "phase": "Running", "conditions": [ready] }))
}

fn text(set: &ReplicaSet, pods: &[Arc<Pod>]) -> String {
    let steps = plan(&observe(Arc::new(set.clone()), pods, now()));
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn creates_what_is_missing_and_counts_neither_finished_nor_going_pods() {
    let done = pod("done", json!({ "phase": "Succeeded" }));
    let going = change(&up("going", 5), |pod| {
        pod.metadata.deletion_timestamp = Some(Time(now()));
    });
    assert_eq!(text(&set(2), &[done, going, up("a", 5)]), "create a pod");
    assert_eq!(text(&set(1), &[up("a", 5)]), "");
}

#[test]
fn deletes_the_least_useful_first() {
    let unbound = change(&pod("unbound", json!({})), |pod| {
        pod.spec.as_mut().unwrap().node_name = None;
    });
    let pending = pod("pending", json!({ "phase": "Pending" }));
    let unready = pod("unready", json!({ "phase": "Running" }));
    let cheap = change(&up("cheap", 50), |pod| {
        let cost = ("controller.kubernetes.io/pod-deletion-cost".into(), "-1".into());
        pod.metadata.annotations = Some([cost].into());
    });
    let pods = [up("old", 50), up("young", 5), cheap, unready, pending, unbound];
    assert_eq!(
        text(&set(0), &pods),
        "delete shop/unbound\ndelete shop/pending\ndelete shop/unready\ndelete shop/cheap\ndelete shop/young\n\
         delete shop/old"
    );
}

#[test]
fn adopts_orphans_and_releases_strangers() {
    let orphan = change(&up("orphan", 5), |pod| pod.metadata.owner_references = None);
    let stranger = change(&up("stranger", 5), |pod| pod.metadata.labels = None);
    let others = change(&up("others", 5), |pod| {
        pod.metadata.owner_references.as_mut().unwrap()[0].uid = "else".into();
    });
    assert_eq!(
        text(&set(2), &[orphan, stranger, others]),
        "release shop/stranger\nadopt shop/orphan\ncreate a pod"
    );
}

#[test]
fn a_set_on_its_way_out_makes_nothing() {
    let mut set = set(3);
    set.metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(text(&set, &[]), "");
}

#[test]
fn status_counts_and_waits_until_pods_are_available() {
    let mut set = set(3);
    set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
    let pods = [up("a", 50), up("b", 4), pod("c", json!({ "phase": "Running" }))];
    let observed = observe(Arc::new(set.clone()), &pods, now());
    let new = status(&observed, None).unwrap();
    assert_eq!((new.replicas, new.ready_replicas, new.available_replicas), (3, Some(2), Some(1)));
    assert_eq!(new.observed_generation, Some(3));
    assert_eq!(observed.next.unwrap().as_secs(), 7, "times are rounded down to seconds");
    set.status = Some(new);
    assert_eq!(status(&observe(Arc::new(set), &pods, now()), None), None);
}

#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let mut set = set(1);
    let failed = status(&observe(Arc::new(set.clone()), &[], now()), Some("quota".into())).unwrap();
    let condition = failed.conditions.clone().unwrap().remove(0);
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    set.status = Some(failed);
    let over = status(&observe(Arc::new(set), &[up("a", 1)], now()), None).unwrap();
    assert_eq!(over.conditions, None);
}

/// What the server would do with a step.
fn carry_out(step: &Step, pods: &mut Vec<Arc<Pod>>) {
    match step {
        Step::Create => {
            let serial = pods.len();
            pods.push(pod(&format!("new{serial}"), json!({ "phase": "Pending" })));
        }
        Step::Delete { uid, .. } => pods.retain(|pod| pod.uid().as_ref() != Some(uid)),
        Step::Adopt { uid, .. } => {
            for pod in pods.iter_mut().filter(|pod| pod.uid().as_ref() == Some(uid)) {
                *pod = change(pod, |pod| {
                    pod.metadata.owner_references = Some(vec![controlled_by(&set(0))]);
                });
            }
        }
        Step::Release { uid, .. } => {
            for pod in pods.iter_mut().filter(|pod| pod.uid().as_ref() == Some(uid)) {
                *pod = change(pod, |pod| pod.metadata.owner_references = None);
            }
        }
    }
}

#[test]
fn stopping_after_any_step_reaches_the_same_end() {
    let orphan = change(&up("orphan", 5), |pod| pod.metadata.owner_references = None);
    let stranger = change(&up("stranger", 5), |pod| pod.metadata.labels = None);
    let start = vec![orphan, stranger, up("a", 5), pod("b", json!({ "phase": "Pending" }))];
    for replicas in [0, 2, 6] {
        let set = set(replicas);
        let steps = plan(&observe(Arc::new(set.clone()), &start, now())).len();
        for stop in 0..=steps {
            let mut pods = start.clone();
            for step in plan(&observe(Arc::new(set.clone()), &pods, now())).iter().take(stop) {
                carry_out(step, &mut pods);
            }
            for step in plan(&observe(Arc::new(set.clone()), &pods, now())) {
                carry_out(&step, &mut pods);
            }
            assert_eq!(text(&set, &pods), "", "{replicas} replicas, stopped after {stop}");
            let end = observe(Arc::new(set.clone()), &pods, now());
            assert_eq!(end.active.len(), usize::try_from(replicas).unwrap());
        }
    }
}

#[test]
fn pods_that_nodes_refuse_are_made_again_later_and_later() {
    let refused = |ago: i64| {
        let status = json!({ "phase": "Failed", "reason": "Evicted", "containerStatuses": [
            { "name": "a", "state": { "waiting": {} } }] });
        let pod = pod(&format!("r{ago}"), status);
        change(&pod, |pod| {
            pod.metadata.creation_timestamp =
                Some(Time(Timestamp::from_second(NOW - ago).unwrap()));
        })
    };
    let after = |wanted: i32, ages: &[i64]| {
        let pods: Vec<_> = ages.iter().map(|ago| refused(*ago)).collect();
        let observed = observe(Arc::new(set(wanted)), &pods, now());
        let next = observed.next.map_or(0, |next| next.as_secs());
        (plan(&observed).len(), next)
    };
    assert_eq!(after(1, &[]), (1, 0));
    assert_eq!(after(1, &[0]), (0, 2), "the second it was made in counts");
    assert_eq!(after(1, &[2]), (1, 0));
    assert_eq!(after(1, &[0, 2]), (0, 3));
    assert_eq!(after(1, &[0, 2, 5]), (0, 5));
    assert_eq!(after(3, &[0, 0, 0]), (0, 2), "three that were wanted are one round");
    assert_eq!(after(3, &[0, 0, 0, 2]), (0, 3));
    let many: Vec<i64> = (0..40).collect();
    assert_eq!(after(1, &many), (0, 301));
    assert_eq!(after(1, &[0, 1000, 1001, 1002]), (0, 2), "what was long ago is forgiven");
    // One that ran and failed is made again at once.
    let ran = json!({ "phase": "Failed", "containerStatuses": [
        { "name": "a", "state": { "terminated": { "exitCode": 1 } } }] });
    let observed = observe(Arc::new(set(1)), &[pod("ran", ran)], now());
    assert_eq!((plan(&observed).len(), observed.next), (1, None));
    // Who has all the pods it wants waits for nothing.
    let observed = observe(Arc::new(set(1)), &[refused(0), up("web", 10)], now());
    assert_eq!((plan(&observed).len(), observed.next), (0, None));
}
