use std::collections::BTreeSet;
use std::sync::Arc;

use berth_client::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ApiResource;

use super::super::graph::Graph;
use super::*;
use crate::catalogue::Kind;

fn thing(uid: &str, owners: &[&str]) -> Thing {
    let resource = ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: "Box".into(),
        plural: "boxes".into(),
    };
    let owner = |uid: &&str| OwnerReference {
        api_version: "v1".into(),
        kind: "Box".into(),
        name: (*uid).into(),
        uid: (*uid).into(),
        controller: None,
        block_owner_deletion: Some(true),
    };
    Thing {
        kind: Arc::new(Kind { resource, namespaced: true }),
        key: Key::new("shop", uid),
        uid: uid.into(),
        revision: "1".into(),
        owners: owners.iter().map(owner).collect(),
        finalizers: Vec::new(),
        going: false,
    }
}

/// The server, as far as the collector sees it.
#[derive(Default)]
struct World {
    graph: Graph,
    present: BTreeSet<String>,
    woken: BTreeSet<String>,
    log: Vec<String>,
}

impl World {
    fn new(things: &[Thing]) -> Self {
        let mut world = Self::default();
        for thing in things {
            world.put(thing.clone());
        }
        world
    }

    fn put(&mut self, thing: Thing) {
        self.present.insert(thing.uid.clone());
        self.woken.extend(self.graph.put(thing));
    }

    fn remove(&mut self, uid: &str) {
        self.present.remove(uid);
        self.woken.extend(self.graph.remove(uid));
    }

    /// What the server does when asked to delete.
    fn delete(&mut self, uid: &str, policy: &PropagationPolicy) {
        let Some(mut thing) = self.graph.get(uid).cloned() else { return };
        match policy {
            PropagationPolicy::Foreground => thing.finalizers.push(FOREGROUND.into()),
            PropagationPolicy::Orphan => thing.finalizers.push(ORPHAN.into()),
            PropagationPolicy::Background => {}
        }
        thing.going = true;
        if thing.finalizers.is_empty() { self.remove(uid) } else { self.put(thing) }
    }

    fn carry_out(&mut self, step: Step) {
        self.log.push(step.to_string());
        match step {
            Step::Delete { thing, policy } => self.delete(&thing.uid, &policy),
            Step::Unlink { thing, owners } => {
                let Some(mut thing) = self.graph.get(&thing.uid).cloned() else { return };
                thing.owners.retain(|owner| !owners.contains(&owner.uid));
                self.put(thing);
            }
            Step::Finish { thing, finalizer } => {
                let Some(mut thing) = self.graph.get(&thing.uid).cloned() else { return };
                thing.finalizers.retain(|name| name != finalizer);
                if thing.finalizers.is_empty() { self.remove(&thing.uid) } else { self.put(thing) }
            }
        }
    }

    fn steps(&self, uid: &str) -> Vec<Step> {
        let Some(thing) = self.graph.get(uid) else { return Vec::new() };
        let states = thing.owners.iter().map(|owner| match self.graph.owner_state(thing, owner) {
            // As the server would say.
            OwnerState::Unknown if !self.present.contains(&owner.uid) => OwnerState::Absent,
            state => state,
        });
        let dependents: Vec<_> = self.graph.dependents(uid).cloned().collect();
        plan(thing, &states.collect::<Vec<_>>(), &dependents)
    }

    /// Looks at whatever is woken until nothing is. `lose` drops each step after that many, once, as a crash does.
    fn converge(&mut self, mut lose: usize) {
        for _ in 0..1000 {
            let Some(uid) = self.woken.pop_first() else { return };
            for step in self.steps(&uid) {
                if lose == 0 {
                    // After the crash everything is listed and looked at again.
                    lose = usize::MAX;
                    self.woken.extend(self.present.iter().cloned());
                    break;
                }
                lose -= 1;
                self.carry_out(step);
            }
        }
        panic!("does not converge: {:?}", self.log);
    }

    fn left(&self) -> Vec<&str> {
        self.present.iter().map(String::as_str).collect()
    }
}

fn family() -> Vec<Thing> {
    vec![
        thing("deployment", &[]),
        thing("set", &["deployment"]),
        thing("pod1", &["set"]),
        thing("pod2", &["set"]),
        thing("shared", &["set", "other"]),
        thing("other", &[]),
    ]
}

#[test]
fn in_the_background_dependents_follow() {
    let mut world = World::new(&family());
    world.delete("deployment", &PropagationPolicy::Background);
    world.converge(usize::MAX);
    assert_eq!(world.left(), ["other", "shared"]);
    assert!(
        world.log.contains(&"delete boxes shop/set (Background)".to_owned()),
        "{:?}",
        world.log
    );
}

#[test]
fn in_the_foreground_dependents_go_first() {
    let mut world = World::new(&family());
    world.delete("deployment", &PropagationPolicy::Foreground);
    world.converge(usize::MAX);
    assert_eq!(world.left(), ["other", "shared"]);
    let at = |text: &str| world.log.iter().position(|line| line.contains(text)).unwrap();
    assert!(at("delete boxes shop/pod1") < at("off boxes shop/set"));
    assert!(at("off boxes shop/set") < at("off boxes shop/deployment"));
    assert!(world.log.contains(&"unlink boxes shop/shared from set".to_owned()), "{:?}", world.log);
}

#[test]
fn orphans_stay() {
    let mut world = World::new(&family());
    world.delete("set", &PropagationPolicy::Orphan);
    world.converge(usize::MAX);
    assert_eq!(world.left(), ["deployment", "other", "pod1", "pod2", "shared"]);
    assert!(world.graph.get("pod1").unwrap().owners.is_empty());
}

#[test]
fn an_owner_of_the_same_name_and_another_uid_is_no_owner() {
    let mut lost = thing("lost", &["old"]);
    lost.owners[0].name = "new".into();
    let mut world = World::new(&[thing("new", &[]), lost]);
    world.converge(usize::MAX);
    assert_eq!(world.left(), ["new"]);
}

#[test]
fn a_circle_goes_as_a_whole() {
    let mut world = World::new(&[thing("a", &["c"]), thing("b", &["a"]), thing("c", &["b"])]);
    world.converge(usize::MAX);
    assert_eq!(world.left().len(), 3);
    world.delete("a", &PropagationPolicy::Background);
    world.converge(usize::MAX);
    assert!(world.left().is_empty(), "{:?}", world.left());
}

#[test]
fn an_owner_nobody_can_ask_about_keeps() {
    let lost = thing("lost", &["foreign"]);
    assert!(plan(&lost, &[OwnerState::Unknown], &[]).is_empty());
}

#[test]
fn stopping_after_any_step_reaches_the_same_end() {
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        for lose in 0..12 {
            let mut world = World::new(&family());
            world.delete("deployment", &policy);
            world.converge(lose);
            assert_eq!(world.left(), ["other", "shared"], "stopped after {lose}: {:?}", world.log);
        }
    }
}
