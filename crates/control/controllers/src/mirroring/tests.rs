use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::observe::{MANAGER, ROOM, observe};
use crate::endpoints::plan::{Step, settle};
use crate::object::controlled_by;

struct World {
    endpoints: Option<Endpoints>,
    service: Option<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    serial: usize,
}

fn endpoints(meta: Value, subsets: Value) -> Endpoints {
    let mut object = json!({ "metadata": { "name": "db", "namespace": "shop", "uid": "e" }, "subsets": subsets });
    let more = meta.as_object().unwrap().clone();
    object["metadata"].as_object_mut().unwrap().extend(more);
    serde_json::from_value(object).unwrap()
}

fn service(spec: Value) -> Service {
    let object =
        json!({ "metadata": { "name": "db", "namespace": "shop", "uid": "s" }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

fn addresses(all: &[&str]) -> Value {
    all.iter().map(|ip| json!({ "ip": ip })).collect()
}

impl World {
    fn new(endpoints: Endpoints) -> Self {
        let service = service(json!({ "ports": [{ "port": 5432 }] }));
        Self { endpoints: Some(endpoints), service: Some(service), slices: Vec::new(), serial: 0 }
    }

    fn steps(&self) -> Vec<Step> {
        let endpoints = self.endpoints.clone().map(Arc::new);
        let uid = self.endpoints.as_ref().and_then(ResourceExt::uid);
        let observed = observe("db", endpoints, self.service.as_ref(), &self.slices);
        settle(uid.as_ref(), &observed.slices, observed.wanted)
    }

    fn text(&self) -> String {
        self.steps().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn carry_out(&mut self, step: Step) {
        let endpoints = self.endpoints.clone();
        let slice = |name: String, content: crate::endpoints::plan::Content| {
            Arc::new(EndpointSlice {
                metadata: ObjectMeta {
                    name: Some(name),
                    labels: Some(content.labels),
                    annotations: content.annotations,
                    owner_references: endpoints.as_ref().map(|it| vec![controlled_by(it)]),
                    ..ObjectMeta::default()
                },
                address_type: content.family.into(),
                endpoints: content.endpoints,
                ports: Some(content.ports),
            })
        };
        match step {
            Step::Create(content) => {
                self.serial += 1;
                self.slices.push(slice(format!("db-{}", self.serial), content));
            }
            Step::Change { slice: name, content } => {
                self.slices.retain(|slice| slice.name_any() != name);
                self.slices.push(slice(name, content));
            }
            Step::Delete { slice } => self.slices.retain(|known| known.name_any() != slice),
        }
    }

    fn carry_out_all(&mut self) {
        for step in self.steps() {
            self.carry_out(step);
        }
        assert_eq!(self.text(), "");
    }
}

#[test]
fn families_of_addresses_and_sets_of_ports_are_apart() {
    let subsets = json!([
        { "addresses": addresses(&["192.0.2.1", "2001:db8::1"]),
          "notReadyAddresses": addresses(&["192.0.2.2"]),
          "ports": [{ "port": 5432 }] },
        { "addresses": addresses(&["192.0.2.3"]), "ports": [{ "port": 5433 }] }]);
    let mut world = World::new(endpoints(json!({}), subsets));
    assert_eq!(
        world.text(),
        "create [192.0.2.1, 192.0.2.2 (not ready)] at [5432]\ncreate [2001:db8::1] at [5432]\n\
         create [192.0.2.3] at [5433]"
    );
    world.carry_out_all();
    assert_eq!(world.slices[1].address_type, "IPv6");
    // A slice of the other family is never made to say something else: its family stays.
    let subsets = json!([{ "addresses": addresses(&["2001:db8::2"]), "ports": [{ "port": 1 }] }]);
    world.endpoints = Some(endpoints(json!({}), subsets));
    assert_eq!(world.text(), "change db-2 to [2001:db8::2] at [1]\ndelete db-1\ndelete db-3");
}

#[test]
fn labels_and_annotations_come_along() {
    let meta = json!({
        "labels": { "team": "a", "endpointslice.kubernetes.io/managed-by": "me" },
        "annotations": { "note": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}" },
    });
    let subsets = json!([{ "addresses": addresses(&["192.0.2.1"]), "ports": [] }]);
    let mut world = World::new(endpoints(meta, subsets.clone()));
    world.carry_out_all();
    let slice = &world.slices[0];
    assert_eq!(slice.annotations().iter().collect::<Vec<_>>(), [(&"note".into(), &"b".into())]);
    assert_eq!(slice.labels()["team"], "a");
    assert_eq!(slice.labels()["endpointslice.kubernetes.io/managed-by"], MANAGER);
    assert_eq!(slice.labels()["kubernetes.io/service-name"], "db");
    world.endpoints = Some(endpoints(json!({}), subsets));
    assert_eq!(world.text(), "change db-1 to [192.0.2.1] at []");
}

#[test]
fn only_what_nobody_else_makes_slices_of_is_copied() {
    let subsets = json!([{ "addresses": addresses(&["192.0.2.1"]), "ports": [{ "port": 1 }] }]);
    let world = || World::new(endpoints(json!({}), subsets.clone()));
    let mut known = world();
    known.carry_out_all();
    let slices = known.slices;
    let gone = |change: &dyn Fn(&mut World)| {
        let mut world = world();
        world.slices.clone_from(&slices);
        change(&mut world);
        world.text()
    };
    assert_eq!(gone(&|_| {}), "");
    assert_eq!(gone(&|world| world.service = None), "delete db-1");
    assert_eq!(gone(&|world| world.endpoints = None), "delete db-1");
    let selecting = service(json!({ "selector": { "app": "db" } }));
    assert_eq!(gone(&|world| world.service = Some(selecting.clone())), "delete db-1");
    for meta in [
        json!({ "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } }),
        json!({ "annotations": { "control-plane.alpha.kubernetes.io/leader": "{}" } }),
        json!({ "deletionTimestamp": "2027-01-01T00:00:00Z" }),
    ] {
        let changed = endpoints(meta, subsets.clone());
        assert_eq!(gone(&|world| world.endpoints = Some(changed.clone())), "delete db-1");
    }
    // Of Endpoints of the same name that were there before.
    let another = endpoints(json!({ "uid": "f" }), subsets.clone());
    assert_eq!(
        gone(&|world| world.endpoints = Some(another.clone())),
        "delete db-1\ncreate [192.0.2.1] at [1]"
    );
    // A slice that somebody else keeps is not ours to delete.
    let mut other = (*slices[0]).clone();
    other.labels_mut().insert("endpointslice.kubernetes.io/managed-by".into(), "me".into());
    assert_eq!(
        gone(&|world| {
            world.slices = vec![Arc::new(other.clone())];
            world.endpoints = None;
        }),
        ""
    );
}

#[test]
fn a_slice_has_an_end() {
    let many: Vec<_> = (0..=ROOM).map(|i| format!("10.0.{}.{}", i / 250, i % 250)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let subsets = json!([
        { "addresses": addresses(&many), "ports": [{ "port": 1 }] },
        { "addresses": addresses(&["192.0.2.1"]), "ports": [{ "port": 1 }] }]);
    let world = World::new(endpoints(json!({}), subsets));
    let endpoints = world.endpoints.clone().map(Arc::new);
    let observed = observe("db", endpoints, world.service.as_ref(), &[]);
    assert_eq!(observed.skipped, 1);
    let sizes: Vec<_> = observed.wanted.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [ROOM, 1]);
}
