//! Watches and lists under load, behind and after compaction.

use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::Options;
use berth_store::{Memory, Store};
use serde_json::{Value, json};

use crate::support::Client;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}]}})
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

async fn version(client: &Client) -> String {
    let list = client.get(MAPS).await.expect(200);
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn all_watchers_see_the_same_in_the_same_order() {
    let client = Client::start().await;
    let from = version(&client).await;
    let path = format!("{MAPS}?watch=1&resourceVersion={from}");
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(client.watch(&path).await);
    }
    let writers = (0..50).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            client.post(MAPS, &map(&format!("m{number}"))).await.expect(201);
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut seen = Vec::new();
    for watch in &mut watches {
        let mut own = Vec::new();
        for _ in 0..50 {
            let event = watch.next().await.unwrap();
            own.push(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
        }
        seen.push(own);
    }
    let in_order = |list: &[String]| list.is_sorted_by_key(|text| text.parse::<u64>().unwrap());
    assert!(in_order(&seen[0]));
    assert!(seen.iter().all(|own| *own == seen[0]));
}

#[tokio::test]
async fn a_watcher_hears_only_of_its_own() {
    let client = Client::start().await;
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).await.expect(201);
    let watch = |query: &str| {
        let (client, path) = (client.clone(), format!("/api/v1/{query}"));
        async move { client.watch(&path).await }
    };
    let mut node = watch("pods?watch=1&fieldSelector=spec.nodeName%3Da").await;
    let mut both = watch("namespaces/default/pods?watch=1&fieldSelector=spec.nodeName%3Da").await;
    let mut name = watch("namespaces/default/pods?watch=1&fieldSelector=metadata.name%3Done").await;
    let mut space = watch("namespaces/other/pods?watch=1").await;
    let mut all = watch("pods?watch=1").await;
    // Everybody waits at the hub before the first change.
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.post(PODS, &pod("one", "b")).await.expect(201);
    client.post("/api/v1/namespaces/other/pods", &pod("one", "a")).await.expect(201);
    client.post(PODS, &pod("two", "a")).await.expect(201);
    let namespace = |event: &Value| event["object"]["metadata"]["namespace"].clone();
    assert_eq!(namespace(&node.expect("ADDED", "one").await), "other");
    node.expect("ADDED", "two").await;
    both.expect("ADDED", "two").await;
    assert_eq!(namespace(&name.expect("ADDED", "one").await), "default");
    space.expect("ADDED", "one").await;
    for name in ["one", "one", "two"] {
        all.expect("ADDED", name).await;
    }
    // A pod that is bound while somebody waits for pods of that node.
    client.post(PODS, &pod("three", "")).await.expect(201);
    let binding = json!({"target": {"kind": "Node", "name": "a"}});
    client.post(&format!("{PODS}/three/binding"), &binding).await.expect(201);
    node.expect("ADDED", "three").await;
}

#[tokio::test]
async fn who_does_not_keep_up_misses_nothing() {
    const CHANGES: usize = 1500;
    let client = Client::start().await;
    client.post(MAPS, &map("a")).await.expect(201);
    let from = version(&client).await;
    let mut slow = client.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let mut fast = client.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    for number in 0..CHANGES {
        let change = json!({"data": {"a": number.to_string()}});
        client.merge(&format!("{MAPS}/a"), &change).await.expect(200);
        let event = fast.next().await.unwrap();
        assert_eq!(event["object"]["data"]["a"], number.to_string());
    }
    for number in 0..CHANGES {
        let event = slow.next().await.unwrap();
        assert_eq!(event["object"]["data"]["a"], number.to_string());
    }
}

#[tokio::test]
async fn bookmarks_follow_what_happens_elsewhere() {
    let client = Client::start().await;
    let path =
        format!("{MAPS}?watch=1&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=1");
    let mut watch = client.watch(&path).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let pod = client.post(PODS, &pod("p", "")).await.expect(201);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "BOOKMARK", "near its end a watch says how far it came");
    let told = event["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    let written = pod["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(told.parse::<u64>().unwrap() >= written.parse::<u64>().unwrap(), "{told} {written}");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn after_a_compaction_lists_go_on_inconsistently_and_watches_end() {
    let store = Arc::new(Memory::default());
    let client = Client::on(Arc::clone(&store) as Arc<dyn Store>, Options::default()).await;
    for name in ["a", "b", "c", "d"] {
        client.post(MAPS, &map(name)).await.expect(201);
    }
    let first = client.get(&format!("{MAPS}?limit=2")).await.expect(200);
    let old = first["metadata"]["resourceVersion"].as_str().unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    client.post(MAPS, &map("e")).await.expect(201);
    client.delete(&format!("{MAPS}/c")).await.expect(200);
    store.compact(store.current()).await.unwrap();

    let gone = client.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
    let next = gone["metadata"]["continue"].as_str().unwrap();
    let rest = client.get(&format!("{MAPS}?limit=9&continue={next}")).await.expect(200);
    let names: Vec<_> =
        rest["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["d", "e"]);
    assert_ne!(rest["metadata"]["resourceVersion"], old);

    let exact = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(client.get(&exact).await.expect(410)["reason"], "Expired");
    let mut watch = client.watch(&format!("{MAPS}?watch=1&resourceVersion={old}")).await;
    let error = watch.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["reason"]), (&json!("ERROR"), &json!("Expired")));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn versions_of_lists_mean_what_they_say() {
    let client = Client::start().await;
    client.post(MAPS, &map("a")).await.expect(201);
    let old = version(&client).await;
    client.post(MAPS, &map("b")).await.expect(201);
    let count = async |query: &str| {
        let list = client.get(&format!("{MAPS}?{query}")).await.expect(200);
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(count(&format!("resourceVersion={old}&resourceVersionMatch=Exact")).await, 1);
    assert_eq!(count(&format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan")).await, 2);
    assert_eq!(count(&format!("resourceVersion={old}")).await, 2);
    assert_eq!(count(&format!("resourceVersion={old}&limit=5")).await, 1, "with a limit: exactly");
    assert_eq!(count("resourceVersion=0").await, 2);
    for (query, code) in [
        ("resourceVersionMatch=Exact", 400),
        ("resourceVersionMatch=Exact&resourceVersion=0", 400),
        ("resourceVersionMatch=NotOlderThan", 400),
        ("resourceVersionMatch=Sometimes&resourceVersion=1", 400),
        ("resourceVersion=nonsense", 400),
        ("continue=nonsense", 400),
        ("watch=1&sendInitialEvents=true", 400),
        ("resourceVersion=99999", 504),
    ] {
        client.get(&format!("{MAPS}?{query}")).await.expect(code);
    }
    let first = client.get(&format!("{MAPS}?limit=1")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    client.get(&format!("{MAPS}?continue={token}&resourceVersion=5")).await.expect(400);
    let selected = client.get(&format!("{MAPS}?limit=1&labelSelector=x%21%3Dy")).await.expect(200);
    assert!(selected["metadata"].get("remainingItemCount").is_none(), "unknown with a selector");
    assert!(selected["metadata"]["continue"].is_string());
}

#[tokio::test]
async fn a_thousand_watchers_of_other_nodes_cost_little() {
    let client = Client::start().await;
    let mut watches = Vec::new();
    for number in 0..1000 {
        let path = format!("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn{number}");
        watches.push(client.watch(&path).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = std::time::Instant::now();
    for number in 0..200 {
        client.post(PODS, &pod(&format!("p{number}"), "n7")).await.expect(201);
    }
    for number in 0..200 {
        watches[7].expect("ADDED", &format!("p{number}")).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
