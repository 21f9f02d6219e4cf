//! What holds for every kind alike.

use berth_objects::{Object, Subresource};
use serde_json::{Value, json};

use crate::samples::samples;
use crate::support::Client;

/// What was asked for is there; defaults may have been added.
#[track_caller]
fn contains(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in part {
                let found = whole.get(name).unwrap_or(&Value::Null);
                contains(found, value, &format!("{path}.{name}"));
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert!(whole.len() >= part.len(), "{path}");
            for (position, (whole, part)) in whole.iter().zip(part).enumerate() {
                contains(whole, part, &format!("{path}[{position}]"));
            }
        }
        _ => assert_eq!(whole, part, "{path}"),
    }
}

#[tokio::test]
async fn every_kind_lives_a_whole_life() {
    let client = Client::start().await;
    for sample in samples() {
        let (folder, path) = (sample.folder(), sample.path());
        let what = format!("{} {}", sample.resource.api_version(), sample.resource.kind);
        let strict = format!("{folder}?fieldValidation=Strict");
        let from = client.get(&folder).await.expect(200);
        let from = from["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let created = client.post(&strict, &sample.object).await;
        assert_eq!(created.code, 201, "{what}: {}", created.body);
        let created = created.body;
        contains(&created, &sample.object, &what);
        let read = client.get(&path).await.expect(200);
        assert_eq!(read, created, "{what}");

        let again = client.put(&path, &read).await.expect(200);
        assert_eq!(again, read, "{what}: writing what was read changes nothing");

        let label = json!({"metadata": {"labels": {"seen": "yes"}}});
        let labelled = client.merge(&path, &label).await.expect(200);
        assert_eq!(labelled["metadata"]["labels"]["seen"], "yes", "{what}");
        assert_eq!(
            labelled["metadata"].get("generation"),
            created["metadata"].get("generation"),
            "{what}: a label is nothing that is wanted"
        );
        let list = client.get(&format!("{folder}?labelSelector=seen%3Dyes")).await.expect(200);
        assert_eq!(list["kind"], format!("{}List", sample.resource.kind));
        assert_eq!(list["items"], json!([labelled]), "{what}");

        let mut watch = client.watch(&format!("{folder}?watch=1&resourceVersion={from}")).await;
        let name = sample.object.name();
        watch.expect("ADDED", name).await;
        let seen = watch.expect("MODIFIED", name).await;
        assert_eq!(seen["object"], labelled, "{what}");

        if sample.resource.subresources.contains(&Subresource::Status) {
            let status = client.get(&format!("{path}/status")).await.expect(200);
            assert_eq!(status, labelled, "{what}");
        } else {
            client.get(&format!("{path}/status")).await.expect(404);
        }

        client.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
        if sample.resource.kind != "Namespace" {
            watch.expect("DELETED", name).await;
            client.get(&path).await.expect(404);
        }
    }
}

#[tokio::test]
async fn every_kind_is_shown_as_a_table() {
    let client = Client::start().await;
    for sample in samples() {
        client.post(&sample.folder(), &sample.object).await.expect(201);
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let table = client.get_as(&sample.path(), accept).await.expect(200);
        assert_eq!(table["kind"], "Table");
        let (columns, row) = (&table["columnDefinitions"], &table["rows"][0]["cells"]);
        let (columns, row) = (columns.as_array().unwrap(), row.as_array().unwrap());
        assert_eq!(columns.len(), row.len());
        for (column, cell) in columns.iter().zip(row) {
            let fits = match column["type"].as_str().unwrap() {
                "integer" => cell.is_i64(),
                "boolean" => {
                    cell.is_boolean() || ["True", "False"].contains(&cell.as_str().unwrap())
                }
                _ => cell.is_string(),
            };
            assert!(fits, "{} {column}: {cell}", sample.resource.kind);
        }
    }
}

#[tokio::test]
async fn every_kind_can_be_applied() {
    let client = Client::start().await;
    for sample in samples() {
        let path = sample.path();
        let first = client.apply(&path, "one", false, &sample.object).await;
        assert_eq!(first.code, 201, "{path}: {}", first.body);
        let second = client.apply(&path, "one", false, &sample.object).await.expect(200);
        assert_eq!(second, first.body, "applying the same changes nothing");
        let managed = second.list(&["metadata", "managedFields"]);
        assert_eq!(managed.len(), 1, "{path}: {managed:?}");
        let other = client.apply(&path, "two", false, &sample.object).await.expect(200);
        assert_eq!(other.list(&["metadata", "managedFields"]).len(), 2, "{path}");
    }
}

#[tokio::test]
async fn statuses_are_written_apart_and_generations_count() {
    let client = Client::start().await;
    for sample in samples() {
        let has_status = sample.resource.subresources.contains(&Subresource::Status);
        let counted = json!(1);
        let created = client.post(&sample.folder(), &sample.object).await.expect(201);
        let generation = created["metadata"].get("generation");
        assert!(generation.is_none() || generation == Some(&counted), "{}", sample.path());
        if !has_status || matches!(sample.resource.kind, "Node" | "Namespace") {
            continue;
        }
        let mut status = created.clone();
        status["status"] = Value::Null;
        status["metadata"]["resourceVersion"] = Value::Null;
        status["spec"] = json!({});
        let answer = client.put(&format!("{}/status", sample.path()), &status).await.expect(200);
        assert_eq!(answer.get("spec"), created.get("spec"), "{}", sample.path());
        assert_eq!(answer["metadata"].get("generation"), generation);
    }
}

#[tokio::test]
async fn both_versions_of_an_autoscaler_are_one_object() {
    let client = Client::start().await;
    let path = |version: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers")
    };
    let mut watch = client.watch(&format!("{}?watch=1&resourceVersion=1", path("v1"))).await;
    let object = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "d"},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let created = client.post(&path("v2"), &object).await.expect(201);
    let seen = watch.expect("ADDED", "a").await;
    assert_eq!(seen["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(seen["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
    let change = json!({"spec": {"targetCPUUtilizationPercentage": 60}});
    client.merge(&format!("{}/a", path("v1")), &change).await.expect(200);
    let read = client.get(&format!("{}/a", path("v2"))).await.expect(200);
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    assert_eq!(read["spec"]["behavior"], created["spec"]["behavior"]);
    assert_eq!(read["metadata"].get("annotations"), None);
    client.delete(&format!("{}/a", path("v1"))).await.expect(200);
    client.get(&format!("{}/a", path("v2"))).await.expect(404);
}

#[tokio::test]
async fn what_may_not_change_does_not() {
    let client = Client::start().await;
    for sample in samples() {
        client.post(&sample.folder(), &sample.object).await.expect(201);
    }
    let apps = "/apis/apps/v1/namespaces/default";
    let batch = "/apis/batch/v1/namespaces/default";
    let other = json!({"spec": {"selector": {"matchLabels": {"x": "y"}},
        "template": {"metadata": {"labels": {"x": "y"}}}}});
    for (path, change, field) in [
        (format!("{apps}/deployments/sample"), other.clone(), "spec.selector"),
        (format!("{apps}/daemonsets/sample"), other.clone(), "spec.selector"),
        (format!("{apps}/statefulsets/sample"), json!({"spec": {"serviceName": "x"}}), "spec"),
        (format!("{apps}/controllerrevisions/sample"), json!({"data": {"x": 1}}), "data"),
        (format!("{batch}/jobs/sample"), json!({"spec": {"completions": 7}}), "spec.completions"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses/sample".into(), json!({"value": 5}), "value"),
        ("/apis/node.k8s.io/v1/runtimeclasses/sample".into(), json!({"handler": "x"}), "handler"),
        (
            "/apis/networking.k8s.io/v1/ingressclasses/sample".into(),
            json!({"spec": {"controller": "example.com/other"}}),
            "spec.controller",
        ),
        (
            "/apis/storage.k8s.io/v1/volumeattachments/sample".into(),
            json!({"spec": {"nodeName": "other"}}),
            "spec",
        ),
        (
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/sample".into(),
            json!({"spec": {"devices": {"requests": []}}}),
            "spec",
        ),
    ] {
        let refused = client.merge(&path, &change).await.expect(422);
        let causes = refused.list(&["details", "causes"]);
        assert!(causes.iter().any(|cause| cause["field"] == field), "{path}: {refused}");
    }
    let more = json!({"spec": {"replicas": 4, "updateStrategy": {"type": "OnDelete",
        "rollingUpdate": null}}});
    let changed = client.merge(&format!("{apps}/statefulsets/sample"), &more).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn mistakes_are_refused_with_their_place() {
    let client = Client::start().await;
    let cases = include_str!("mistakes.yaml");
    for case in cases.split("\n---\n") {
        let case = berth_objects::yaml::parse(case).unwrap();
        let wanted = case.text(&["expect"]);
        let sample = samples().into_iter().find(|sample| {
            sample.object["kind"] == case["kind"]
                && (case.get("version").is_none()
                    || sample.resource.version == case.text(&["version"]))
        });
        let sample = sample.unwrap_or_else(|| panic!("{case}"));
        let mut object = sample.object.clone();
        json_patch::merge(&mut object, &case["change"]);
        let refused = client.post(&format!("{}?dryRun=All", sample.folder()), &object).await;
        let message = refused.body["message"].as_str().unwrap_or_default();
        assert!(
            refused.code == 422 && message.contains(wanted),
            "{} should be refused with `{wanted}`: {} {}",
            sample.resource.kind,
            refused.code,
            refused.body
        );
    }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn running(client: &Client, name: &str, ready: bool) {
    let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]}});
    client.post(PODS, &pod).await.expect(201);
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": ready}]}});
    client.merge(&format!("{PODS}/{name}/status"), &status).await.expect(200);
}

async fn evict(client: &Client, name: &str) -> crate::support::Answer {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"}});
    client.post(&format!("{PODS}/{name}/eviction"), &eviction).await
}

#[tokio::test]
async fn evictions_respect_disruption_budgets() {
    let client = Client::start().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    for (name, ready) in [("a", true), ("b", true), ("sick", false)] {
        running(&client, name, ready).await;
    }
    let budget = json!({"metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    client.post(budgets, &budget).await.expect(201);
    let early = evict(&client, "a").await;
    assert_eq!(early.headers["retry-after"], "10");
    let early = early.expect(429);
    assert_eq!(early["details"]["causes"][0]["reason"], "DisruptionBudget");
    let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1,
        "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 3}});
    client.merge(&format!("{budgets}/web/status"), &counted).await.expect(200);

    evict(&client, "sick").await.expect(201);
    let left = client.get(&format!("{budgets}/web")).await.expect(200);
    assert_eq!(left["status"]["disruptionsAllowed"], 1, "a pod that is not ready costs nothing");
    let path = format!("{PODS}/a/eviction?dryRun=All");
    client.post(&path, &json!({"metadata": {"name": "a"}})).await.expect(201);
    evict(&client, "a").await.expect(201);
    client.get(&format!("{PODS}/a")).await.expect(404);
    let left = client.get(&format!("{budgets}/web")).await.expect(200);
    assert_eq!(left["status"]["disruptionsAllowed"], 0);
    assert!(left["status"]["disruptedPods"]["a"].is_string());

    let refused = evict(&client, "b").await.expect(429);
    assert_eq!(refused["reason"], "TooManyRequests");
    assert_eq!(
        refused["details"]["causes"][0]["message"],
        "The disruption budget web needs 1 healthy pods and has 2 currently"
    );
    let mut second = budget;
    second["metadata"]["name"] = json!("other");
    client.post(budgets, &second).await.expect(201);
    evict(&client, "b").await.expect(500);
    client.get(&format!("{PODS}/b")).await.expect(200);
}

#[tokio::test]
async fn pods_get_the_priority_of_their_class() {
    let client = Client::start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    client.delete(&format!("{classes}/system-node-critical")).await.expect(403);
    let pod = |name: &str, class: &str| {
        json!({"metadata": {"name": name}, "spec": {"priorityClassName": class,
            "containers": [{"name": "c", "image": "x"}]}})
    };
    let critical = client.post(PODS, &pod("a", "system-cluster-critical")).await.expect(201);
    assert_eq!(critical["spec"]["priority"], 2_000_000_000);
    client.post(PODS, &pod("b", "unknown")).await.expect(403);
    let plain = client.post(PODS, &pod("c", "")).await.expect(201);
    assert_eq!(plain["spec"]["priority"], 0);
    let class = json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true,
        "preemptionPolicy": "Never"});
    client.post(classes, &class).await.expect(201);
    let usual = client.post(PODS, &pod("d", "")).await.expect(201);
    assert_eq!(usual["spec"]["priority"], 7);
    assert_eq!(usual["spec"]["priorityClassName"], "usual");
    assert_eq!(usual["spec"]["preemptionPolicy"], "Never");
    let mut wrong = pod("e", "usual");
    wrong["spec"]["priority"] = json!(8);
    client.post(PODS, &wrong).await.expect(403);
}

#[tokio::test]
async fn pods_get_what_their_runtime_class_says() {
    let client = Client::start().await;
    let class = json!({"metadata": {"name": "boxed"}, "handler": "berth",
        "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"boxes": "yes"},
            "tolerations": [{"key": "boxes", "operator": "Exists"}]}});
    client.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect(201);
    let pod = |name: &str, class: &str, more: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "x"}]});
        if !class.is_empty() {
            spec["runtimeClassName"] = json!(class);
        }
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let boxed = client.post(PODS, &pod("a", "boxed", json!({}))).await.expect(201);
    assert_eq!(boxed["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(boxed["spec"]["nodeSelector"], json!({"boxes": "yes"}));
    let tolerations = boxed["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerations.contains(&json!({"key": "boxes", "operator": "Exists"})), "{boxed}");
    for (name, class, more) in [
        ("b", "unknown", json!({})),
        ("c", "boxed", json!({"overhead": {"memory": "1Mi"}})),
        ("d", "", json!({"overhead": {"memory": "1Mi"}})),
        ("e", "boxed", json!({"nodeSelector": {"boxes": "no"}})),
    ] {
        client.post(PODS, &pod(name, class, more)).await.expect(403);
    }
}

#[tokio::test]
async fn what_nothing_acts_on_comes_with_a_warning() {
    let client = Client::start().await;
    let sample = samples();
    let of = |kind: &str| sample.iter().find(|s| s.resource.kind == kind).unwrap();
    let inert = of("Ingress");
    let answer = client.post(&inert.folder(), &inert.object).await;
    assert!(answer.headers["warning"].to_str().unwrap().contains("does not route by it"));
    let plain = of("PriorityClass");
    let answer = client.post(&plain.folder(), &plain.object).await;
    assert!(!answer.headers.contains_key("warning"));
}
