//! Two servers on one store: what one hands out the other does not.

use std::collections::HashSet;
use std::sync::Arc;

use berth_apiserver::Options;
use berth_store::{Expect, Memory, Operation, Range, Store};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::support::Client;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

/// With room for few Services, so that choices meet.
fn small() -> Options {
    Options {
        service_addresses: Ipv4Net::new_assert([10, 9, 0, 0].into(), 27),
        node_ports: 30000..=30039,
        ..Options::default()
    }
}

async fn two() -> (Arc<Memory>, Client, Client) {
    let store = Arc::new(Memory::default());
    let one = Client::on(store.clone(), small()).await;
    let two = Client::on(store.clone(), small()).await;
    (store, one, two)
}

fn service(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["ports"] = json!([{"port": 80, "nodePort": spec["nodePort"]}]);
    spec.as_object_mut().unwrap().remove("nodePort");
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn records(store: &Memory) -> usize {
    let mut count = 0;
    for prefix in ["/berth/ports/", "/registry/networking.k8s.io/ipaddresses/"] {
        let range = Range { prefix: prefix.into(), ..Range::default() };
        count += store.range(range).await.unwrap().records.len();
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_and_no_port_is_given_twice() {
    let (store, one, two) = two().await;
    // 28 addresses are free: all but the network's, the broadcast's, that of `kubernetes` and that of DNS.
    let tasks = (0..28).map(|number| {
        let client = [&one, &two][number % 2].clone();
        tokio::spawn(async move {
            let wish = service(&format!("s{number}"), &json!({"type": "NodePort"}));
            client.post(SERVICES, &wish).await.expect(201)
        })
    });
    let mut seen = HashSet::new();
    for created in futures::future::join_all(tasks).await {
        let spec = created.unwrap()["spec"].clone();
        assert!(seen.insert(spec["clusterIP"].to_string()), "{spec}");
        assert!(seen.insert(spec["ports"][0]["nodePort"].to_string()), "{spec}");
    }
    let refused = two.post(SERVICES, &service("more", &json!({}))).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("full"), "{refused}");
    // What is given back here may be had there.
    one.delete(&format!("{SERVICES}/s0")).await.expect(200);
    let wish = service("more", &json!({"type": "NodePort"}));
    let begun = std::time::Instant::now();
    while two.post(SERVICES, &wish).await.code != 201 {
        assert!(begun.elapsed().as_secs() < 10, "the other server does not notice");
        tokio::task::yield_now().await;
    }
    // One more address than ports: that of `kubernetes`.
    assert_eq!(records(&store).await, 28 * 2 + 1);
    for number in 1..28 {
        two.delete(&format!("{SERVICES}/s{number}")).await.expect(200);
    }
    assert_eq!(records(&store).await, 3);
}

#[tokio::test]
async fn what_is_asked_for_is_given_once_and_at_once_again() {
    let (_store, one, two) = two().await;
    let wish = |name| {
        service(name, &json!({"type": "NodePort", "clusterIP": "10.9.0.9", "nodePort": 30007}))
    };
    one.post(SERVICES, &wish("a")).await.expect(201);
    let shown = two.get(&format!("{ADDRESSES}/10.9.0.9")).await.expect(200);
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "a"});
    assert_eq!(shown["spec"]["parentRef"], parent);
    for dry in ["", "?dryRun=All"] {
        let refused = two.post(&format!("{SERVICES}{dry}"), &wish("b")).await.expect(422);
        assert!(refused["message"].as_str().unwrap().contains("already allocated"), "{refused}");
    }
    let ports = json!({"type": "NodePort", "nodePort": 30007});
    let refused = two.post(SERVICES, &service("b", &ports)).await.expect(422);
    let cause = &refused["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.ports[0].nodePort", "{refused}");
    two.post(SERVICES, &service("b", &json!({"clusterIP": "10.9.0.20"}))).await.expect(201);
    let patch = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30007}]}});
    two.merge(&format!("{SERVICES}/b"), &patch).await.expect(422);
    let why = two.delete(&format!("{ADDRESSES}/10.9.0.9")).await.expect(403);
    assert!(why["message"].as_str().unwrap().contains("default/a"), "{why}");
    one.delete(&format!("{SERVICES}/a")).await.expect(200);
    two.get(&format!("{ADDRESSES}/10.9.0.9")).await.expect(404);
    two.merge(&format!("{SERVICES}/b"), &patch).await.expect(200);
    two.post(SERVICES, &service("c", &json!({"clusterIP": "10.9.0.9"}))).await.expect(201);
    // An address that somebody has set aside is theirs.
    let aside = json!({"metadata": {"name": "10.9.0.10"},
        "spec": {"parentRef": {"resource": "gateways", "name": "g", "group": "x"}}});
    one.post(ADDRESSES, &aside).await.expect(201);
    one.post(ADDRESSES, &aside).await.expect(409);
    two.post(SERVICES, &service("d", &json!({"clusterIP": "10.9.0.10"}))).await.expect(422);
    one.delete(&format!("{ADDRESSES}/10.9.0.10")).await.expect(200);
}

#[tokio::test]
async fn a_start_brings_records_and_services_together() {
    let (store, one, _two) = two().await;
    let created = one.post(SERVICES, &service("a", &json!({"type": "NodePort"}))).await.expect(201);
    let ip = created["spec"]["clusterIP"].as_str().unwrap();
    let port = &created["spec"]["ports"][0]["nodePort"];
    let address = format!("/registry/networking.k8s.io/ipaddresses/{ip}");
    let port = format!("/berth/ports/TCP/{port}");
    // As an older version left it, and with what a fault might leave.
    let delete = |key: &str| Operation::Delete { key: key.to_owned().into(), expect: Expect::Any };
    let orphan = "/berth/ports/UDP/30039";
    let put = |key: &'static str| Operation::Put {
        key: key.into(),
        value: "{}".into(),
        expect: Expect::Any,
    };
    store.commit(vec![delete(&address), delete(&port), put(orphan)]).await.unwrap();
    let three = Client::on(store.clone(), small()).await;
    let found = |key: String| {
        let store = store.clone();
        async move { store.get(key.into(), None).await.unwrap().record.is_some() }
    };
    assert!(found(address).await && found(port).await);
    assert!(!found(orphan.to_owned()).await);
    let refused = three.post(SERVICES, &service("b", &json!({"clusterIP": ip}))).await;
    refused.expect(422);
}
