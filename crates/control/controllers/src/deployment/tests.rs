use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSetStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::super::observe::{MAXIMUM, observe};
use super::super::status::status;
use super::*;
use crate::object::controlled_by;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn deployment(image: &str, replicas: i32, strategy: serde_json::Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "web", "generation": 1 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": strategy,
            "progressDeadlineSeconds": 60,
            "revisionHistoryLimit": 1,
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": image }] },
            },
        },
    }))
    .unwrap()
}

fn rolling() -> serde_json::Value {
    json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
}

/// The server and the ReplicaSet controller, as far as a Deployment sees them.
#[derive(Clone)]
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    serial: i64,
    least: i32,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: BTreeMap::new(), serial: 0, least: 0 }
    }

    fn observed(&self) -> Observed {
        let sets: Vec<_> = self.sets.values().cloned().map(Arc::new).collect();
        observe(Arc::new(self.deployment.clone()), &sets, at(self.serial))
    }

    fn steps(&self) -> Vec<Step> {
        plan(&self.observed())
    }

    fn text(&self) -> String {
        let mut names: Vec<_> =
            self.sets.values().map(|set| (revision(set), set.name_any())).collect();
        names.sort();
        let mut text = self.steps().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for (number, name) in names {
            text = text.replace(&name, &format!("r{number}"));
        }
        text
    }

    fn carry_out(&mut self, step: &Step) {
        self.serial += 1;
        let measures = |replicas: i32| {
            [
                (DESIRED.to_owned(), replicas.to_string()),
                (MAXIMUM.to_owned(), (replicas + 1).to_string()),
            ]
        };
        match step {
            Step::Adopt { set } => {
                let owner = controlled_by(&self.deployment);
                self.sets.get_mut(set).unwrap().metadata.owner_references = Some(vec![owner]);
            }
            Step::Create { set, replicas, revision, .. } => {
                let mut made: ReplicaSet = serde_json::from_value(json!({
                    "metadata": { "name": set, "namespace": "shop", "uid": set,
                        "creationTimestamp": at(self.serial) },
                    "spec": { "replicas": replicas, "selector": {} },
                }))
                .unwrap();
                let template = self.deployment.spec.as_ref().unwrap().template.clone();
                made.spec.as_mut().unwrap().template = Some(template);
                made.metadata.owner_references = Some(vec![controlled_by(&self.deployment)]);
                let mut annotations = BTreeMap::from(measures(self.observed().replicas()));
                annotations.insert(REVISION.into(), revision.to_string());
                made.metadata.annotations = Some(annotations);
                assert!(self.sets.insert(set.clone(), made).is_none(), "created twice");
            }
            Step::Revise { set, revision } => {
                let annotations = self.sets.get_mut(set).unwrap().annotations_mut();
                annotations.insert(REVISION.into(), revision.to_string());
            }
            Step::Publish { revision } => {
                self.deployment.annotations_mut().insert(REVISION.into(), revision.to_string());
            }
            Step::Scale { set, from, to } => {
                let replicas = self.observed().replicas();
                let set = self.sets.get_mut(set).unwrap();
                assert_eq!(size(set), *from);
                set.spec.as_mut().unwrap().replicas = Some(*to);
                set.annotations_mut().extend(measures(replicas));
            }
            Step::Forget { set } => {
                self.sets.remove(set);
            }
        }
    }

    /// Lets the ReplicaSet controller and the nodes catch up: all pods serve.
    fn settle(&mut self) {
        for set in self.sets.values_mut() {
            let size = size(set);
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(size),
                available_replicas: Some(size),
                ..ReplicaSetStatus::default()
            });
        }
        self.note_status();
    }

    fn note_status(&mut self) {
        if let (Some(new), _) = status(&self.observed()) {
            self.deployment.status = Some(new);
        }
    }

    /// Plans, acts and settles until nothing is left to do; stops the first round after `stop` steps.
    fn converge(&mut self, stop: usize) {
        for round in 0..100 {
            let steps = self.steps();
            if steps.is_empty() {
                return;
            }
            let count = if round == 0 { stop } else { usize::MAX };
            for step in steps.iter().take(count) {
                self.carry_out(step);
                let serving: i32 = self.sets.values().map(super::available).sum();
                assert!(serving >= self.least, "only {serving} pods serve");
            }
            self.settle();
        }
        panic!("does not converge: {}", self.text());
    }

    fn sizes(&self) -> Vec<i32> {
        let mut sets: Vec<_> = self.sets.values().collect();
        sets.sort_by_key(|set| revision(set));
        sets.into_iter().map(size).collect()
    }

    fn reason(&self, kind: &str) -> String {
        let conditions = self.deployment.status.clone().unwrap().conditions.unwrap();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        format!("{} {}", found.status, found.reason.unwrap())
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        let template = spec.template.spec.as_mut().unwrap();
        template.containers[0].image = Some(image.into());
    }
}

#[test]
fn the_first_set_has_all_pods() {
    let mut world = World::new(deployment("one", 3, rolling()));
    let text = world.text();
    assert!(text.starts_with("create web-"), "{text}");
    assert!(text.ends_with(" with 3 as revision 1\npublish revision 1"), "{text}");
    world.converge(usize::MAX);
    assert_eq!(world.sizes(), [3]);
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(world.reason("Available"), "True MinimumReplicasAvailable");
}

#[test]
fn rolls_one_by_one_and_never_serves_with_less() {
    let mut world = World::new(deployment("one", 3, rolling()));
    world.converge(usize::MAX);
    world.set_image("two");
    world.least = 3;
    assert!(world.text().contains(" with 1 as revision 2"), "{}", world.text());
    for step in world.steps() {
        world.carry_out(&step);
    }
    assert_eq!(world.text(), "", "waits for the new pod");
    world.note_status();
    world.settle();
    assert_eq!(world.reason("Progressing"), "True ReplicaSetUpdated");
    assert_eq!(world.text(), "scale r1 from 3 to 2");
    world.converge(usize::MAX);
    assert_eq!(world.sizes(), [0, 3]);
}

#[test]
fn pods_that_do_not_serve_go_first() {
    let strategy = json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } });
    let mut world = World::new(deployment("one", 3, strategy));
    world.converge(usize::MAX);
    for set in world.sets.values_mut() {
        set.status.as_mut().unwrap().available_replicas = Some(2);
    }
    world.set_image("two");
    let text = world.text();
    assert!(text.contains(" with 0 as revision 2"), "{text}");
    assert!(text.ends_with("scale r1 from 3 to 2"), "{text}");
}

#[test]
fn a_change_during_a_roll_out_rolls_over() {
    let mut world = World::new(deployment("one", 3, rolling()));
    world.converge(usize::MAX);
    world.set_image("two");
    for step in world.steps() {
        world.carry_out(&step);
    }
    world.set_image("three");
    world.converge(usize::MAX);
    // Two idle sets would be one more than the history holds.
    assert_eq!(world.sizes(), [0, 3]);
    assert_eq!(world.deployment.annotations()[REVISION], "3");
}

#[test]
fn going_back_makes_the_old_set_the_latest() {
    let mut world = World::new(deployment("one", 2, rolling()));
    world.converge(usize::MAX);
    world.set_image("two");
    world.converge(usize::MAX);
    world.set_image("one");
    assert!(
        world.text().starts_with("make r1 revision 3\npublish revision 3\nscale r1 from 0 to 1")
    );
    world.converge(usize::MAX);
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn recreate_waits_until_old_pods_are_gone() {
    let mut world = World::new(deployment("one", 2, json!({ "type": "Recreate" })));
    world.converge(usize::MAX);
    world.set_image("two");
    assert_eq!(world.text(), "scale r1 from 2 to 0");
    for step in world.steps() {
        world.carry_out(&step);
    }
    assert_eq!(world.text(), "");
    world.settle();
    let set = world.sets.values_mut().next().unwrap();
    set.status.as_mut().unwrap().terminating_replicas = Some(1);
    assert_eq!(world.text(), "");
    world.settle();
    assert!(world.text().contains(" with 2 as revision 2"));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment("one", 2, rolling()));
    world.converge(usize::MAX);
    world.set_image("two");
    let spec = world.deployment.spec.as_mut().unwrap();
    (spec.paused, spec.replicas) = (Some(true), Some(4));
    assert_eq!(world.text(), "scale r1 from 2 to 4");
    world.converge(usize::MAX);
    assert_eq!(world.sizes(), [4]);
    assert_eq!(world.reason("Progressing"), "Unknown DeploymentPaused");
}

#[test]
fn resizing_during_a_roll_out_shares_by_size() {
    let strategy = json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 2 } });
    let mut world = World::new(deployment("one", 8, strategy));
    world.converge(usize::MAX);
    world.set_image("two");
    for step in world.steps() {
        world.carry_out(&step);
    }
    for step in world.steps() {
        world.carry_out(&step);
    }
    assert_eq!(world.sizes(), [6, 2]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(16);
    for step in world.steps() {
        world.carry_out(&step);
    }
    assert_eq!(world.sizes().iter().sum::<i32>(), 16);
    assert!(world.sizes()[0] > world.sizes()[1]);
    world.settle();
    world.converge(usize::MAX);
    assert_eq!(world.sizes(), [0, 16]);
}

#[test]
fn says_when_the_deadline_has_passed() {
    let mut world = World::new(deployment("one", 1, rolling()));
    for step in world.steps() {
        world.carry_out(&step);
    }
    world.note_status();
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetCreated");
    let (_, next) = status(&world.observed());
    assert!(next.is_some_and(|next| next.as_secs() <= 61));
    world.serial += 61;
    world.note_status();
    assert_eq!(world.reason("Progressing"), "False ProgressDeadlineExceeded");
    world.settle();
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn adopts_what_matches_before_anything_else() {
    let mut world = World::new(deployment("one", 1, rolling()));
    world.converge(usize::MAX);
    let set = world.sets.values_mut().next().unwrap();
    set.metadata.owner_references = None;
    set.metadata.labels = Some([("app".into(), "web".into())].into());
    assert_eq!(world.text(), "adopt r1");
    world.converge(usize::MAX);
    assert_eq!(world.sizes(), [1]);
}

#[test]
fn stopping_after_any_step_reaches_the_same_end() {
    for strategy in [rolling(), json!({ "type": "Recreate" }), json!({})] {
        for stop in 0..6 {
            let mut world = World::new(deployment("one", 4, strategy.clone()));
            world.converge(stop);
            world.set_image("two");
            world.converge(stop);
            world.set_image("three");
            world.converge(stop);
            assert_eq!(world.sizes(), [0, 4], "{strategy} stopped after {stop}");
            assert_eq!(world.text(), "");
            assert_eq!(status(&world.observed()).0, None, "status does not settle");
        }
    }
}
