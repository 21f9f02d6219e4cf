//! What requests leave in the audit log.

use std::sync::Arc;

use berth_apiserver::{Audit, Identity, Operations, Options, Outcome};
use berth_audit::{Journal, Limits, Policy, verify};
use serde_json::{Value, json};

use crate::hooks;
use crate::support::Client;

struct Log {
    folder: tempfile::TempDir,
    client: Client,
    journal: Journal,
}

impl Log {
    async fn start(policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("audit.log"), Limits::default()).unwrap();
        let audit = Audit { policy: Arc::new(policy), journal: journal.clone() };
        let client = Client::with(Options { audit: Some(audit), ..Options::default() }).await;
        Self { folder, client, journal }
    }

    /// Ends the server and returns what it has left.
    async fn end(self) -> Vec<Value> {
        drop(self.client);
        let closing = move || self.journal.close(std::time::Duration::from_secs(10));
        tokio::task::spawn_blocking(closing).await.unwrap();
        let path = self.folder.path().join("audit.log");
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(verify(&path).unwrap().last, events.len() as u64);
        events
    }
}

fn policy(level: &str) -> Policy {
    Policy::parse(&json!({"rules": [{"level": level}]})).unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_line_says_who_did_what_and_how_it_ended() {
    let log = Log::start(Policy::default()).await;
    let made = json!({"metadata": {"name": "m"}, "data": {"a": "words"}});
    let answer = log.client.post(MAPS, &made).await;
    let id = answer.headers["audit-id"].to_str().unwrap().to_owned();
    answer.expect(201);
    let ann = log.client.as_user(Identity::new("ann", &[]));
    ann.get(&format!("{MAPS}/m")).await.expect(403);
    let headers = [("impersonate-user", "bob")];
    log.client.ask("GET", MAPS, &headers, "").await.expect(403);
    ann.ask("GET", MAPS, &headers, "").await.expect(403);
    log.client.get("/healthz").await.expect(200);
    drop(ann);
    let events = log.end().await;
    assert_eq!(events.len(), 4, "{events:#?}");
    let first = &events[0];
    assert_eq!(first["auditID"], id);
    assert_eq!(
        (&first["level"], &first["stage"]),
        (&json!("Metadata"), &json!("ResponseComplete"))
    );
    assert_eq!(first["user"]["username"], "admin");
    assert_eq!((&first["verb"], &first["requestURI"]), (&json!("create"), &json!(MAPS)));
    assert_eq!(first["objectRef"]["resource"], "configmaps");
    assert_eq!(first["responseStatus"]["code"], 201);
    assert_eq!(first["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(first.get("requestObject"), None);
    assert_eq!(events[1]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(events[1]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(events[2]["user"]["username"], "admin");
    assert_eq!(events[2]["impersonatedUser"]["username"], "bob");
    // Who may not act as another is recorded as who they are.
    assert_eq!(events[3]["user"]["username"], "ann");
    assert_eq!(events[3].get("impersonatedUser"), None);
}

#[tokio::test]
async fn bodies_are_kept_where_the_policy_says_so_but_never_those_of_secrets() {
    let log = Log::start(policy("RequestResponse")).await;
    let object = |data: &str| json!({"metadata": {"name": "m"}, "stringData": {"a": data}});
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "words"}});
    log.client.post(MAPS, &map).await.expect(201);
    log.client.merge(&format!("{MAPS}/m"), &json!({"data": {"a": "other"}})).await.expect(200);
    let secrets = "/api/v1/namespaces/default/secrets";
    log.client.post(secrets, &object("hidden-words")).await.expect(201);
    log.client.get(&format!("{secrets}/m")).await.expect(200);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    log.client.post(accounts, &json!({"metadata": {"name": "bot"}})).await.expect(201);
    let made = log.client.post(&format!("{accounts}/bot/token"), &json!({})).await.expect(201);
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    let watch = log.client.watch(&format!("{MAPS}?watch=true")).await;
    drop(watch);
    let events = log.end().await;
    assert_eq!(events[0]["requestObject"]["data"]["a"], "words");
    assert_eq!(events[0]["responseObject"]["metadata"]["name"], "m");
    assert_eq!(events[1]["requestObject"]["data"]["a"], "other");
    assert_eq!(events[2]["level"], "Metadata");
    assert_eq!(events.last().unwrap()["stage"], "ResponseStarted");
    let all = format!("{events:?}");
    assert!(!all.contains("hidden-words") && !all.contains(&token));
    assert!(!all.contains(&berth_objects::base64_encode(b"hidden-words")));
}

#[tokio::test]
async fn what_admission_notes_is_kept_when_it_refuses() {
    let log = Log::start(Policy::default()).await;
    let hook = hooks::Hook::serve(|question| {
        let bad = question["request"]["name"] == "bad";
        hooks::review(
            question,
            json!({"allowed": !bad, "warnings": ["look out"],
            "status": {"code": 403},
            "auditAnnotations": {"seen": "a little"}}),
        )
    })
    .await;
    let rule = hooks::webhook(&hook.config(), &json!({}));
    hooks::configure(&log.client, "Validating", "h", vec![rule]).await;
    log.client.post(MAPS, &hooks::map("good", json!({}))).await.expect(201);
    let refused = log.client.post(MAPS, &hooks::map("bad", json!({}))).await;
    assert_eq!(refused.headers["warning"], "299 - \"look out\"");
    refused.expect(403);
    let events = log.end().await;
    for (event, code) in events[1..].iter().zip([201, 403]) {
        assert_eq!(event["responseStatus"]["code"], code);
        let notes = &event["annotations"];
        assert_eq!(notes["hook.example.com/seen"], "a little", "{event}");
        // It was admission that refused: the right was there.
        assert_eq!(notes["authorization.k8s.io/decision"], "allow", "{event}");
    }
    assert_eq!(events.len(), 3);
}

struct Once;

impl Operations for Once {
    fn begin(&self, name: &str) -> Option<futures::future::BoxFuture<'static, Outcome>> {
        let known = name == "secrets/rotate";
        known.then(|| Box::pin(async { Ok(json!({"sealed": 3})) }) as _)
    }
}

#[tokio::test]
async fn operations_are_for_administrators_and_those_they_name() {
    let options = Options { operations: Some(Arc::new(Once)), ..Options::default() };
    let client = Client::with(options).await;
    let path = "/berth/v1/secrets/rotate";
    assert_eq!(client.post(path, &json!({})).await.expect(200)["sealed"], 3);
    client.post("/berth/v1/nothing", &json!({})).await.expect(404);
    client.post("/berth", &json!({})).await.expect(404);
    client.get(path).await.expect(404);
    let ann = client.as_user(Identity::new("ann", &[]));
    ann.post(path, &json!({})).await.expect(403);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "rotate"}, "rules": [
        {"verbs": ["post"], "nonResourceURLs": ["/berth/v1/secrets/rotate"]}]});
    client.post(&format!("{rbac}/clusterroles"), &role).await.expect(201);
    let binding = json!({"metadata": {"name": "rotate"}, "subjects": [{"kind": "User", "name": "ann"}],
        "roleRef": {"kind": "ClusterRole", "name": "rotate"}});
    client.post(&format!("{rbac}/clusterrolebindings"), &binding).await.expect(201);
    ann.post(path, &json!({})).await.expect(200);
}

/// What a client asked for is recorded, too, if it goes away before the answer: others may have acted on it by then.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_leaves_a_trace() {
    let log = Log::start(Policy::default()).await;
    // A webhook that takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let hook = json!({"metadata": {"name": "slow"}, "webhooks": [{"name": "slow.example.com",
        "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 30,
        "clientConfig": {"url": url}, "rules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"], "operations": ["CREATE"]}]}]});
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    log.client.post(hooks, &hook).await.expect(201);
    let map = json!({"metadata": {"name": "left"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    tokio::select! {
        answer = log.client.post(maps, &map) => panic!("it was answered: {}", answer.body),
        accepted = silent.accept() => drop(accepted.unwrap()),
    }
    let events = log.end().await;
    let left = events.iter().find(|it| it["requestURI"] == maps).expect("there is a trace");
    assert_eq!((&left["verb"], &left["responseStatus"]["code"]), (&json!("create"), &json!(499)));
}
