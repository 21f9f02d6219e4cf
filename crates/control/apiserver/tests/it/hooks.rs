//! Webhooks: real servers with TLS that are asked about objects.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_authority::Authority;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::Client;

/// A webhook: what it was asked, and what it answers.
pub struct Hook {
    pub address: std::net::SocketAddr,
    pub asked: Arc<Mutex<Vec<Value>>>,
    roots: String,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = dyn Fn(&Value) -> Value + Send + Sync;

impl Hook {
    /// Begins to serve. `answer` makes the whole answer of a whole question.
    pub async fn serve(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("authority")).unwrap();
        let names = ["127.0.0.1".to_owned(), "hook.default.svc".to_owned()];
        let issued = authority.server(&names).unwrap();
        let credentials =
            berth_tls::Credentials::from_pem(&issued.certificate, &issued.key).unwrap();
        let tls = berth_tls::server(credentials, authority.certificate()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answer): (_, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let seen = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, seen) =
                    (acceptor.clone(), answer.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        respond(request, Arc::clone(&answer), Arc::clone(&seen))
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _gone = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let roots = STANDARD.encode(authority.certificate());
        Self { address, asked, roots, task, _folder: folder }
    }

    /// Where it is, as configurations say it.
    pub fn config(&self) -> Value {
        json!({"url": format!("https://{}/check", self.address), "caBundle": self.roots})
    }

    pub fn service_config(&self) -> Value {
        json!({"service": {"namespace": "default", "name": "hook", "port": 8443, "path": "check"},
               "caBundle": self.roots})
    }

    pub fn questions(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Value>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.uri().path(), "/check");
    let bytes = request.into_body().collect().await?.to_bytes();
    let question: Value = serde_json::from_slice(&bytes).unwrap();
    seen.lock().unwrap().push(question["request"].clone());
    Ok(Response::new(Full::new(answer(&question).to_string().into())))
}

/// The answer to a question, as a webhook gives it.
pub fn review(question: &Value, response: Value) -> Value {
    let mut response = response;
    response["uid"] = question["request"]["uid"].clone();
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
}

pub fn patched(question: &Value, patch: &Value) -> Value {
    let patch = STANDARD.encode(patch.to_string());
    review(question, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}

/// One webhook of a configuration, about creations and changes of config maps; `more` is laid over it.
pub fn webhook(config: &Value, more: &Value) -> Value {
    let mut hook = json!({
        "name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": config, "timeoutSeconds": 5,
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                   "operations": ["CREATE", "UPDATE"], "scope": "*"}],
    });
    json_patch::merge(&mut hook, more);
    hook
}

pub async fn configure(client: &Client, kind: &str, name: &str, hooks: Vec<Value>) {
    let plural = format!("{}webhookconfigurations", kind.to_lowercase());
    let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": format!("{kind}WebhookConfiguration"), "metadata": {"name": name}, "webhooks": hooks});
    client.post(&path, &body).await.expect(201);
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn webhooks_change_and_refuse() {
    let client = Client::start().await;
    let changing = Hook::serve(|question| {
        patched(
            question,
            &json!([{"op": "add", "path": "/data/seen", "value": "yes"},
            {"op": "add", "path": "/nonsense", "value": 1}]),
        )
    })
    .await;
    let refusing = Hook::serve(|question| {
        let bad = question["request"]["object"]["data"]["bad"].is_string();
        assert_eq!(question["request"]["object"]["data"]["seen"], "yes", "changes come first");
        review(
            question,
            json!({"allowed": !bad, "warnings": ["look out"],
            "status": {"message": "it is bad", "code": 418, "reason": "Teapot"}}),
        )
    })
    .await;
    configure(&client, "Mutating", "m", vec![webhook(&changing.config(), &json!({}))]).await;
    configure(&client, "Validating", "v", vec![webhook(&refusing.config(), &json!({}))]).await;

    let answer = client.post(MAPS, &map("good", json!({"a": "b"}))).await;
    assert_eq!(answer.headers["warning"], "299 - \"look out\"");
    let made = answer.expect(201);
    assert_eq!(made["data"], json!({"a": "b", "seen": "yes"}));
    assert!(made.get("nonsense").is_none(), "what the schema does not know is dropped");
    let question = changing.questions().remove(0);
    assert_eq!(question["operation"], "CREATE");
    assert_eq!(question["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(
        question["resource"],
        json!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(question["namespace"], "default");
    assert_eq!(question["userInfo"]["username"], "admin");
    assert_eq!(question["oldObject"], Value::Null);
    assert_eq!(question["options"]["kind"], "CreateOptions");

    let refused = client.post(MAPS, &map("bad", json!({"bad": "x"}))).await.expect(418);
    assert_eq!(refused["reason"], "Teapot");
    assert_eq!(
        refused["message"],
        "admission webhook \"hook.example.com\" denied the request: it is bad"
    );
    client.get(&format!("{MAPS}/bad")).await.expect(404);

    let path = format!("{MAPS}/good");
    client.merge(&path, &json!({"data": {"bad": "x"}})).await.expect(418);
    let left = client.get(&path).await.expect(200);
    assert_eq!(left["data"], json!({"a": "b", "seen": "yes"}));
    let question = refusing.questions().pop().unwrap();
    assert_eq!(question["operation"], "UPDATE");
    assert_eq!(question["oldObject"]["data"], json!({"a": "b", "seen": "yes"}));
    client.delete(&path).await.expect(200);
}

#[tokio::test]
async fn webhooks_are_asked_about_what_they_want_to_know() {
    let client = Client::start().await;
    let hook = Hook::serve(|question| review(question, json!({"allowed": false}))).await;
    let rule = |operations: &[&str], resources: &[&str]| {
        json!({"rules": [{"apiGroups": ["", "apps"], "apiVersions": ["*"], "resources": resources,
                          "operations": operations}]})
    };
    let mut selective = rule(&["CREATE"], &["configmaps"]);
    selective["objectSelector"] = json!({"matchLabels": {"judge": "me"}});
    selective["namespaceSelector"] =
        json!({"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]});
    let hooks = vec![
        webhook(&hook.config(), &selective),
        webhook(&hook.config(), &{
            let mut it = rule(&["DELETE"], &["secrets"]);
            it["name"] = "deletes.example.com".into();
            it
        }),
        webhook(&hook.config(), &{
            let mut it = rule(&["UPDATE"], &["*/scale"]);
            it["name"] = "scales.example.com".into();
            it
        }),
        webhook(&hook.config(), &{
            let mut it = rule(&["CONNECT"], &["pods/exec"]);
            it["name"] = "execs.example.com".into();
            it
        }),
    ];
    configure(&client, "Validating", "v", hooks).await;

    client.post(MAPS, &map("unlabelled", json!({}))).await.expect(201);
    let mut labelled = map("labelled", json!({}));
    labelled["metadata"]["labels"] = json!({"judge": "me"});
    let refused = client.post(MAPS, &labelled).await.expect(400);
    let message = "admission webhook \"hook.example.com\" denied the request without explanation";
    assert_eq!(refused["message"], message);
    let free = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "free", "labels": {"free": "y"}}});
    client.post("/api/v1/namespaces", &free).await.expect(201);
    client.post("/api/v1/namespaces/free/configmaps", &labelled).await.expect(201);

    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    client.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    client.delete("/api/v1/namespaces/default/secrets/s").await.expect(400);
    client.get("/api/v1/namespaces/default/secrets/s").await.expect(200);
    let question = hook.questions().pop().unwrap();
    assert_eq!((&question["operation"], &question["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(question["oldObject"]["metadata"]["name"], "s");
    client.delete("/api/v1/namespaces/default/secrets").await.expect(400);

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
    client.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await.expect(201);
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    client.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 4}})).await.expect(400);
    let question = hook.questions().pop().unwrap();
    assert_eq!(question["subResource"], "scale");
    assert_eq!(question["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(question["object"]["spec"]["replicas"], 4);
    assert_eq!(question["oldObject"]["spec"]["replicas"], 1);
    client.merge(path, &json!({"spec": {"replicas": 2}})).await.expect(200);

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "x"}]}});
    client.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let path =
        "/api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&stdin=true&container=a";
    client.send("POST", path, "", "").await.expect(400);
    let question = hook.questions().pop().unwrap();
    assert_eq!(question["operation"], "CONNECT");
    assert_eq!(
        question["object"],
        json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "container": "a",
               "command": ["sh", "-c"]})
    );
}

#[tokio::test]
async fn a_webhook_that_fails_stops_or_is_passed_over() {
    let client = Client::start().await;
    let broken = Hook::serve(|_| json!({"kind": "AdmissionReview", "apiVersion": "v0"})).await;
    configure(&client, "Mutating", "m", vec![webhook(&broken.config(), &json!({}))]).await;
    let refused = client.post(MAPS, &map("a", json!({}))).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message
            .starts_with("Internal error occurred: failed calling webhook \"hook.example.com\": ")
            && message.contains("v0"),
        "{message}"
    );
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/m";
    let hook = webhook(&broken.config(), &json!({"failurePolicy": "Ignore"}));
    client.merge(path, &json!({"webhooks": [hook]})).await.expect(200);
    client.post(MAPS, &map("a", json!({}))).await.expect(201);

    let nowhere = json!({"url": "https://127.0.0.1:1/check", "caBundle": broken.roots});
    client.merge(path, &json!({"webhooks": [webhook(&nowhere, &json!({}))]})).await.expect(200);
    let refused = client.post(MAPS, &map("b", json!({}))).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("failed to call webhook") && message.contains("refused"), "{message}");

    // Another's certificate is not trusted.
    let other = Hook::serve(|question| review(question, json!({"allowed": true}))).await;
    let mut config = other.config();
    config["caBundle"] = json!(broken.roots);
    client.merge(path, &json!({"webhooks": [webhook(&config, &json!({}))]})).await.expect(200);
    let refused = client.post(MAPS, &map("c", json!({}))).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("certificate"), "{message}");
    assert!(other.questions().is_empty());

    // A webhook with effects elsewhere is not asked what would be.
    let hook = webhook(&other.config(), &json!({"sideEffects": "NoneOnDryRun"}));
    client.merge(path, &json!({"webhooks": [hook]})).await.expect(200);
    client.post(&format!("{MAPS}?dryRun=All"), &map("d", json!({}))).await.expect(201);
    assert_eq!(other.questions()[0]["dryRun"], true);
    client.get(&format!("{MAPS}/d")).await.expect(404);
    // Nobody is locked out: what configures webhooks is never asked about.
    client.delete(path).await.expect(200);
}

#[tokio::test]
async fn a_slow_webhook_is_not_waited_for() {
    let client = Client::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = json!({"url": format!("https://{address}/check")});
    let hook = webhook(&silent, &json!({"timeoutSeconds": 1}));
    configure(&client, "Validating", "v", vec![hook]).await;
    let begin = std::time::Instant::now();
    let refused = client.post(MAPS, &map("a", json!({}))).await.expect(500);
    assert!(refused["message"].as_str().unwrap().contains("timed out"), "{refused}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn webhooks_are_asked_again_about_what_others_changed() {
    let client = Client::start().await;
    let counting = |own: &'static str| {
        move |question: &Value| {
            let data = &question["request"]["object"]["data"];
            let count = data[own].as_str().map_or(0, |text| text.parse::<u32>().unwrap()) + 1;
            patched(
                question,
                &json!([{"op": "add", "path": format!("/data/{own}"),
                "value": count.to_string()}]),
            )
        }
    };
    let (first, second) =
        (Hook::serve(counting("first")).await, Hook::serve(counting("second")).await);
    let again = json!({"reinvocationPolicy": "IfNeeded", "name": "one.example.com"});
    configure(&client, "Mutating", "a", vec![webhook(&first.config(), &again)]).await;
    configure(&client, "Mutating", "b", vec![webhook(&second.config(), &json!({}))]).await;
    let made = client.post(MAPS, &map("m", json!({"x": "y"}))).await.expect(201);
    assert_eq!(made["data"], json!({"x": "y", "first": "2", "second": "1"}));
}

#[tokio::test]
async fn services_are_reached_at_their_endpoints() {
    let client = Client::start().await;
    let hook = Hook::serve(|question| review(question, json!({"allowed": false}))).await;
    configure(&client, "Validating", "v", vec![webhook(&hook.service_config(), &json!({}))]).await;
    let refused = client.post(MAPS, &map("a", json!({}))).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("service \"hook\" not found"), "{message}");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
        "spec": {"ports": [{"name": "tls", "port": 8443, "targetPort": 1}]}});
    client.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    let refused = client.post(MAPS, &map("a", json!({}))).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("no endpoints available for service \"hook\""), "{message}");
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "ports": [{"name": "tls", "port": hook.address.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}},
                      {"addresses": ["192.0.2.1"], "conditions": {"ready": false}}]});
    client
        .post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice)
        .await
        .expect(201);
    let refused = client.post(MAPS, &map("a", json!({}))).await.expect(400);
    assert!(refused["message"].as_str().unwrap().contains("denied the request"), "{refused}");
    assert_eq!(hook.questions().len(), 1);
}

/// A kind of two versions, the older of which is stored.
async fn define(client: &Client) {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {
                    "size": {"type": "integer"}, "team": {"type": "string"}}}}}}})
    };
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [version("v1", false), version("v1beta1", true)]}});
    let folder = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    client.post(folder, &definition).await.expect(201);
}

fn boat(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Boat",
        "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn custom_objects_are_admitted_as_any_other() {
    let client = Client::start().await;
    define(&client).await;
    let boats = |version: &str| format!("/apis/example.com/{version}/namespaces/default/boats");
    let changing = Hook::serve(|question| {
        patched(
            question,
            &json!([{"op": "add", "path": "/spec/team", "value": "blue"},
            {"op": "add", "path": "/spec/nonsense", "value": 1}]),
        )
    })
    .await;
    let rules = json!({"rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"],
        "resources": ["boats"], "operations": ["CREATE"]}]});
    configure(&client, "Mutating", "m", vec![webhook(&changing.config(), &rules)]).await;
    let made = client.post(&boats("v1beta1"), &boat("v1beta1", "a", json!({"size": 3}))).await;
    let made = made.expect(201);
    assert_eq!(made["apiVersion"], "example.com/v1beta1");
    assert_eq!(
        made["spec"],
        json!({"size": 3, "team": "blue"}),
        "what the schema does not know goes"
    );
    let question = changing.questions().pop().unwrap();
    assert_eq!(question["kind"]["version"], "v1", "as the rule wants to see it");
    assert_eq!(question["requestKind"]["version"], "v1beta1");
    assert_eq!(question["object"]["apiVersion"], "example.com/v1");

    // Parameters of a policy, and quotas.
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": {
            "paramKind": {"apiVersion": "example.com/v1", "kind": "Boat"},
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "size(object.metadata.name) <= params.spec.size"}]}});
    let folder = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
    client.post(&format!("{folder}ies"), &policy).await.expect(201);
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "p"}, "spec": {
            "policyName": "p", "validationActions": ["Deny"],
            "paramRef": {"name": "a", "namespace": "default", "parameterNotFoundAction": "Deny"}}});
    client.post(&format!("{folder}ybindings"), &binding).await.expect(201);
    client.post(MAPS, &map("abc", json!({}))).await.expect(201);
    client.post(MAPS, &map("abcd", json!({}))).await.expect(422);

    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"count/boats.example.com": "2"}}});
    let quota = client.post("/api/v1/namespaces/default/resourcequotas", &quota).await.expect(201);
    assert_eq!(quota["status"]["used"]["count/boats.example.com"], "1");
    client.post(&boats("v1"), &boat("v1", "b", json!({}))).await.expect(201);
    client.post(&boats("v1"), &boat("v1", "c", json!({}))).await.expect(403);
    client.delete(&format!("{}/b", boats("v1beta1"))).await.expect(200);
    client.post(&boats("v1"), &boat("v1", "c", json!({}))).await.expect(201);
}

#[tokio::test]
async fn a_webhook_without_rules_is_asked_about_nothing() {
    let client = Client::start().await;
    let hook = Hook::serve(|question| review(question, json!({"allowed": false}))).await;
    let without = webhook(&hook.config(), &json!({"rules": null}));
    configure(&client, "Validating", "v", vec![without]).await;
    client.post(MAPS, &map("a", json!({}))).await.expect(201);
    assert!(hook.questions().is_empty());
}

#[tokio::test]
async fn webhooks_choose_the_node_of_a_pod_and_gates_hold_it() {
    let client = Client::start().await;
    let hook = Hook::serve(|question| {
        patched(question, &json!([{"op": "replace", "path": "/target/name", "value": "other"}]))
    })
    .await;
    let rules = json!({"rules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/binding"], "operations": ["CREATE"]}]});
    configure(&client, "Mutating", "m", vec![webhook(&hook.config(), &rules)]).await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"schedulingGates": [{"name": "example.com/wait"}],
            "containers": [{"name": "a", "image": "x"}]}});
    client.post(pods, &pod).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "first"}});
    let path = format!("{pods}/p");
    let refused = client.post(&format!("{path}/binding"), &binding).await.expect(409);
    assert!(refused["message"].as_str().unwrap().contains("schedulingGates"), "{refused}");
    client.merge(&path, &json!({"spec": {"schedulingGates": null}})).await.expect(200);
    client.post(&format!("{path}/binding"), &binding).await.expect(201);
    let bound = client.get(&path).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "other");

    // What is added to look into a pod has a path of its own, and a gate comes only with the pod.
    let look = json!({"spec": {"ephemeralContainers": [{"name": "look", "image": "x"}]}});
    client.merge(&path, &look).await.expect(422);
    let gate = json!({"spec": {"schedulingGates": [{"name": "example.com/late"}]}});
    client.merge(&path, &gate).await.expect(422);
    pod["metadata"]["name"] = "q".into();
    client.post(pods, &pod).await.expect(201);
}
