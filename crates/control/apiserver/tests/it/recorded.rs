//! What holds for every patch and every configuration that kubectl was seen to send.

use berth_fuzz::{Request, requests};
use serde_json::{Value, json};

use crate::samples::samples;
use crate::support::Client;

/// The path of a recorded request's object, and its query.
fn parts(request: &Request) -> (&str, &str) {
    request.path.split_once('?').unwrap_or((&request.path, ""))
}

/// Makes sure that the object a request names is there: made from the sample of its kind, or as little as the kind allows.
async fn provide(client: &Client, path: &str) -> bool {
    if client.get(path).await.code == 200 {
        return true;
    }
    let Some((folder, name)) = path.rsplit_once('/') else { return false };
    let namespace = folder.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next());
    if let Some(namespace) = namespace.filter(|namespace| *namespace != "default") {
        let object = json!({"metadata": {"name": namespace}});
        client.post("/api/v1/namespaces", &object).await;
    }
    let plural = folder.rsplit('/').next().unwrap_or_default();
    for sample in samples() {
        if sample.folder().rsplit('/').next() == Some(plural) {
            let mut object = sample.object.clone();
            object["metadata"]["name"] = name.into();
            if let Some(namespace) = namespace {
                object["metadata"]["namespace"] = namespace.into();
            }
            client.post(folder, &object).await;
            return client.get(path).await.code == 200;
        }
    }
    false
}

/// An object without what changes by itself.
fn settled(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
        metadata.remove("generation");
    }
    object
}

fn patches(kind: &str) -> Vec<Request> {
    let wanted = |request: &Request| request.method == "PATCH" && request.kind.contains(kind);
    requests().into_iter().filter(wanted).collect()
}

async fn send(client: &Client, request: &Request, extra: &str) -> crate::support::Answer {
    let (path, query) = parts(request);
    let path = format!("{path}?{query}{extra}");
    client.send("PATCH", &path, &request.kind, request.body.clone()).await
}

#[tokio::test]
async fn what_is_applied_again_changes_nothing_and_is_there() {
    let client = Client::start().await;
    let (mut good, mut refused) = (0, 0);
    for request in patches("apply") {
        let (path, query) = parts(&request);
        if query.contains("dryRun") || path.ends_with("/status") {
            continue;
        }
        let first = send(&client, &request, "&force=true").await;
        if first.code >= 300 {
            assert!(first.code < 500, "{} {}: {}", path, first.code, first.body);
            refused += 1;
            continue;
        }
        good += 1;
        let again = send(&client, &request, "").await.expect(200);
        assert_eq!(again, client.get(path).await.expect(200), "{path}");
        assert_eq!(again["metadata"]["resourceVersion"], first.body["metadata"]["resourceVersion"]);
        // A dry run shows what would be, and it would be the same.
        let dry = send(&client, &request, "&dryRun=All").await.expect(200);
        assert_eq!(settled(&dry), settled(&again), "{path}");
        // Another manager who wants the same is in no conflict, and then both own it.
        let body: Value =
            berth_objects::yaml::parse(std::str::from_utf8(&request.body).unwrap()).unwrap();
        let shared = client.apply(path, "another", false, &body).await.expect(200);
        assert_eq!(settled(&shared), settled(&again), "{path}");
        // What nobody applies any more goes, what another still wants stays.
        let least = json!({"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {"name": body["metadata"]["name"]}});
        let left = client.apply(path, "another", false, &least).await.expect(200);
        assert_eq!(settled(&left), settled(&again), "{path}");
    }
    assert!(good > 30, "{good} were applied, {refused} refused");
}

#[tokio::test]
async fn patches_that_say_what_is_change_nothing() {
    let client = Client::start().await;
    let mut good = 0;
    for kind in ["strategic", "merge-patch"] {
        for request in patches(kind) {
            let (path, query) = parts(&request);
            let last = path.rsplit('/').next().unwrap_or_default();
            let whole = !["status", "scale", "ephemeralcontainers", "resize"].contains(&last);
            if query.contains("dryRun")
                || !whole
                || kind == "strategic" && is_directive(&request.body)
            {
                continue;
            }
            if !provide(&client, path).await {
                continue;
            }
            let first = send(&client, &request, "").await;
            if first.code != 200 {
                assert!(first.code < 500, "{path} {}: {}", first.code, first.body);
                continue;
            }
            good += 1;
            let before = client.server_revision();
            let again = send(&client, &request, "").await;
            // kubectl may have said which version it means; that one is gone.
            if again.code == 409 {
                continue;
            }
            assert_eq!(again.expect(200), first.body, "{path}");
            assert_eq!(client.server_revision(), before, "nothing was written");
        }
    }
    assert!(good > 40, "{good}");
}

/// Patches that name values to be added to or removed from lists say what to do, not what shall be.
fn is_directive(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).contains("\"$")
}

#[tokio::test]
async fn strategic_patches_and_merge_patches_agree_where_no_list_is_concerned() {
    let (one, two) = (Client::start().await, Client::start().await);
    let mut good = 0;
    for request in patches("strategic") {
        let (path, query) = parts(&request);
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        if has_list(&body) || is_directive(&request.body) || query.contains("dryRun") {
            continue;
        }
        if !(provide(&one, path).await && provide(&two, path).await) {
            continue;
        }
        let strategic = send(&one, &request, "").await;
        let merge = Request { kind: "application/merge-patch+json".into(), ..request.clone() };
        let merge = send(&two, &merge, "").await;
        assert_eq!(strategic.code, merge.code, "{path}: {} {}", strategic.body, merge.body);
        if strategic.code == 200 {
            good += 1;
            let content = |answer: &Value| {
                let mut content = json!([answer["spec"], answer["data"]]);
                for address in ["clusterIP", "clusterIPs"] {
                    // Each server has chosen its own.
                    content[0].as_object_mut().map(|spec| spec.remove(address));
                }
                content
            };
            assert_eq!(content(&strategic.body), content(&merge.body), "{path}");
            for field in ["labels", "annotations"] {
                let (one, two) =
                    (&strategic.body["metadata"][field], &merge.body["metadata"][field]);
                assert_eq!(one, two, "{path}");
            }
        }
    }
    assert!(good > 5, "{good}");
}

fn has_list(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(fields) => fields.values().any(has_list),
        _ => false,
    }
}

#[tokio::test]
async fn every_recorded_request_is_answered_without_our_fault() {
    let client = Client::start().await;
    let mut codes = std::collections::BTreeMap::new();
    for request in requests() {
        if request.path.contains("watch") {
            continue;
        }
        let answer =
            client.send(&request.method, &request.path, &request.kind, request.body.clone()).await;
        // No node is there to be reached.
        let meant = answer.code == 503;
        assert!(answer.code < 500 || meant, "{} {}: {}", request.method, request.path, answer.body);
        *codes.entry(answer.code).or_insert(0) += 1;
    }
    // Most of them succeed when sent in the order they were recorded in.
    assert!(codes[&200] + codes[&201] > 250, "{codes:?}");
}
