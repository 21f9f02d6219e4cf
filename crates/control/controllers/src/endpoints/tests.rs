use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::super::observe::observe;
use super::*;
use crate::object::controlled_by;

fn service(spec: Value) -> Service {
    let mut service: Service = serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "web", "labels": { "team": "a" } },
        "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
    }))
    .unwrap();
    let mut value = serde_json::to_value(service.spec.take()).unwrap();
    value.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service.spec = serde_json::from_value(value).unwrap();
    service
}

fn pod(address: &str, port: i32, ready: &str, extra: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": { "name": address, "namespace": "shop", "uid": address, "labels": { "app": "web" } },
        "spec": {
            "nodeName": "a",
            "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": port }] }],
        },
        "status": { "podIP": address, "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] },
    });
    for (section, fields) in extra.as_object().unwrap() {
        pod[section].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

struct World {
    service: Service,
    pods: Vec<Arc<Pod>>,
    slices: Vec<Arc<EndpointSlice>>,
    serial: usize,
}

impl World {
    fn new(service: Service, pods: Vec<Arc<Pod>>) -> Self {
        Self { service, pods, slices: Vec::new(), serial: 0 }
    }

    fn steps(&self) -> Vec<Step> {
        plan(&observe(Arc::new(self.service.clone()), &self.pods, &self.slices))
    }

    fn text(&self) -> String {
        self.steps().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn carry_out(&mut self, step: Step) {
        let service = self.service.clone();
        let slice = |name: String, content: Content| {
            Arc::new(EndpointSlice {
                metadata: ObjectMeta {
                    name: Some(name),
                    labels: Some(content.labels),
                    owner_references: Some(vec![controlled_by(&service)]),
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
                self.slices.push(slice(format!("web-{}", self.serial), content));
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
fn says_who_is_ready_and_who_is_going() {
    let gone = json!({ "metadata": { "deletionTimestamp": "2027-01-01T00:00:00Z" } });
    let pods = vec![
        pod("10.0.0.1", 8080, "True", json!({})),
        pod("10.0.0.2", 8080, "False", json!({})),
        pod("10.0.0.3", 8080, "True", gone),
        pod("10.0.0.4", 8080, "True", json!({ "status": { "phase": "Succeeded" } })),
        pod("10.0.0.5", 8080, "True", json!({ "metadata": { "labels": { "app": "db" } } })),
        pod("", 8080, "False", json!({})),
    ];
    let mut world = World::new(service(json!({})), pods);
    let wanted = "create [10.0.0.1, 10.0.0.2 (not ready), 10.0.0.3 (going)] at [8080]";
    assert_eq!(world.text(), wanted);
    world.carry_out_all();
    world.service = service(json!({ "publishNotReadyAddresses": true }));
    assert_eq!(world.text(), "change web-1 to [10.0.0.1, 10.0.0.2, 10.0.0.3] at [8080]");
}

#[test]
fn named_ports_that_differ_make_several_slices() {
    let pods =
        vec![pod("10.0.0.1", 8080, "True", json!({})), pod("10.0.0.2", 9090, "True", json!({}))];
    let mut world = World::new(service(json!({})), pods);
    assert_eq!(world.text(), "create [10.0.0.1] at [8080]\ncreate [10.0.0.2] at [9090]");
    world.carry_out_all();
    world.pods.pop();
    assert_eq!(world.text(), "delete web-2");
}

#[test]
fn hostnames_and_labels_of_headless_services() {
    let named = json!({ "spec": { "hostname": "db-0", "subdomain": "web" } });
    let world = World::new(
        service(json!({ "clusterIP": "None" })),
        vec![pod("10.0.0.1", 80, "True", named)],
    );
    let Some(Step::Create(content)) = world.steps().pop() else { panic!("one slice") };
    assert_eq!(content.endpoints[0].hostname.as_deref(), Some("db-0"));
    assert_eq!(
        content.labels.keys().collect::<Vec<_>>(),
        [
            "endpointslice.kubernetes.io/managed-by",
            "kubernetes.io/service-name",
            "service.kubernetes.io/headless",
            "team",
        ]
    );
}

#[test]
fn nobody_behind_it_is_an_empty_slice_and_no_selector_none() {
    assert_eq!(World::new(service(json!({})), vec![]).text(), "create [] at []");
    assert_eq!(World::new(service(json!({ "selector": null })), vec![]).text(), "");
    let outside = json!({ "type": "ExternalName", "externalName": "example.org" });
    assert_eq!(World::new(service(outside), vec![]).text(), "");
}

#[test]
fn slices_of_an_earlier_service_of_that_name_go() {
    let mut world = World::new(service(json!({})), vec![]);
    world.carry_out_all();
    world.service.metadata.uid = Some("another".into());
    assert_eq!(world.text(), "delete web-1\ncreate [] at []");
}

#[test]
fn stopping_after_any_step_reaches_the_same_end() {
    let many: Vec<_> = (0..250)
        .map(|i| pod(&format!("10.0.1.{i}"), 8000 + i32::from(i > 100), "True", json!({})))
        .collect();
    for stop in 0..6 {
        let mut world = World::new(service(json!({})), many.clone());
        for step in world.steps().into_iter().take(stop) {
            world.carry_out(step);
        }
        world.carry_out_all();
        assert!(world.slices.iter().all(|slice| slice.endpoints.len() <= ROOM));
        assert_eq!(world.slices.iter().map(|slice| slice.endpoints.len()).sum::<usize>(), 250);
        world.pods.truncate(10);
        for step in world.steps().into_iter().take(stop) {
            world.carry_out(step);
        }
        world.carry_out_all();
        assert_eq!(world.slices.len(), 1);
    }
}
