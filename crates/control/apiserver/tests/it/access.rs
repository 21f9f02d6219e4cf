//! Who may do what, and who somebody is.

use berth_apiserver::{Identity, Options};
use serde_json::{Value, json};

use crate::support::Client;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn user(name: &str) -> Identity {
    Identity::new(name, &["system:authenticated"])
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user}]})
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "rules": [
        {"verbs": verbs, "apiGroups": [""], "resources": resources}]})
}

async fn bind(client: &Client, namespace: &str, role: &str, user: &str) {
    let path = format!("{RBAC}/namespaces/{namespace}/rolebindings");
    client.post(&path, &binding(user, "ClusterRole", role, user)).await.expect(201);
}

#[tokio::test]
async fn a_role_gives_what_it_says_where_it_is_bound_and_ends_with_its_binding() {
    let client = Client::start().await;
    let ann = client.as_user(user("ann"));
    let pods = "/api/v1/namespaces/default/pods";
    let refused = ann.get(pods).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    bind(&client, "default", "view", "ann").await;
    ann.get(pods).await.expect(200);
    ann.get("/api/v1/namespaces/default").await.expect(200);
    ann.get("/api/v1/namespaces/kube-system/pods").await.expect(403);
    ann.get("/api/v1/pods").await.expect(403);
    ann.get("/api/v1/namespaces/default/secrets").await.expect(403);
    ann.post(pods, &json!({})).await.expect(403);
    client.delete(&format!("{RBAC}/namespaces/default/rolebindings/ann")).await.expect(200);
    ann.get(pods).await.expect(403);
}

#[tokio::test]
async fn nobody_may_anything_without_a_role_but_ask_what_there_is() {
    let client = Client::start().await;
    let ann = client.as_user(user("ann"));
    for path in ["/version", "/healthz", "/api", "/apis", "/openapi/v3", "/apis/apps/v1"] {
        ann.get(path).await.expect(200);
    }
    for path in
        ["/api/v1/nodes", "/metrics", "/openid/v1/jwks", "/.well-known/openid-configuration"]
    {
        ann.get(path).await.expect(403);
    }
    // What is not there is not told from what is not allowed.
    let there = ann.get("/api/v1/namespaces/kube-system").await.expect(403);
    let absent = ann.get("/api/v1/namespaces/kube-nothing").await.expect(403);
    assert_eq!(
        there["message"].as_str().unwrap().replace("kube-system", "X"),
        absent["message"].as_str().unwrap().replace("kube-nothing", "X")
    );
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let client = Client::start().await;
    let path = format!("{RBAC}/namespaces/default/roles");
    bind(&client, "default", "admin", "ann").await;
    let ann = client.as_user(user("ann"));
    ann.post(&path, &role("fine", &["get"], &["pods"])).await.expect(201);
    let mut more = role("more", &["get"], &["nodes"]);
    let refused = ann.post(&path, &more).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("attempting to grant"), "{refused}");
    more["metadata"]["name"] = "fine".into();
    ann.put(&format!("{path}/fine"), &more).await.expect(403);
    ann.merge(&format!("{path}/fine"), &json!({"rules": more["rules"]})).await.expect(403);
    ann.apply(
        &format!("{path}/fine"),
        "x",
        true,
        &json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "fine"}, "rules": more["rules"]}),
    )
    .await
    .expect(403);
    ann.merge(&format!("{path}/fine"), &json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .expect(200);
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    ann.post(&bindings, &binding("a", "ClusterRole", "edit", "bob")).await.expect(201);
    ann.post(&bindings, &binding("b", "ClusterRole", "cluster-admin", "bob")).await.expect(403);
    ann.post(&bindings, &binding("c", "ClusterRole", "no-such", "bob")).await.expect(403);
    let changed = json!({"roleRef": {"kind": "ClusterRole", "name": "view",
        "apiGroup": "rbac.authorization.k8s.io"}});
    let refused = client.merge(&format!("{bindings}/a"), &changed).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("cannot change roleRef"), "{refused}");
}

#[tokio::test]
async fn reviews_answer_what_the_server_would_do() {
    let client = Client::start().await;
    bind(&client, "default", "view", "ann").await;
    let ann = client.as_user(user("ann"));
    let base = "/apis/authorization.k8s.io/v1";
    let question = |verb: &str, resource: &str| {
        json!({"spec": {"resourceAttributes":
        {"verb": verb, "resource": resource, "namespace": "default"}}})
    };
    let own = format!("{base}/selfsubjectaccessreviews");
    let yes = ann.post(&own, &question("list", "pods")).await.expect(201);
    assert_eq!(yes["status"]["allowed"], true);
    assert_eq!(
        yes["status"]["reason"],
        "RBAC: allowed by RoleBinding \"ann/default\" of ClusterRole \"view\" to User \"ann\""
    );
    let no = ann.post(&own, &question("delete", "pods")).await.expect(201);
    assert_eq!(no["status"]["allowed"], false);
    let mut other = question("list", "pods");
    other["spec"]["user"] = "ann".into();
    let theirs = format!("{base}/subjectaccessreviews");
    ann.post(&theirs, &other).await.expect(403);
    assert_eq!(client.post(&theirs, &other).await.expect(201)["status"]["allowed"], true);
    let local = format!("{base}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(client.post(&local, &other).await.expect(201)["status"]["allowed"], true);
    let elsewhere = format!("{base}/namespaces/kube-system/localsubjectaccessreviews");
    client.post(&elsewhere, &other).await.expect(422);
    let both = json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}});
    ann.post(&own, &both).await.expect(422);
    let rules = ann
        .post(
            &format!("{base}/selfsubjectrulesreviews"),
            &json!({"spec": {"namespace": "default"}}),
        )
        .await
        .expect(201);
    let rules = rules["status"]["resourceRules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["resources"].to_string().contains("pods/log")));
    let me =
        ann.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
    assert_eq!(me["status"]["userInfo"]["username"], "ann");
    ann.get(&own).await.expect(403);
    client.get(&own).await.expect(405);
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": node,
        "containers": [{"name": "a", "image": "x", "envFrom": [{"secretRef": {"name": "used"}}]}]}})
}

#[tokio::test]
async fn a_node_touches_its_own_and_nothing_else() {
    let client = Client::start().await;
    let node = client.as_user(Identity::new("system:node:n1", &["system:nodes"]));
    let nodes = "/api/v1/nodes";
    node.post(nodes, &json!({"metadata": {"name": "n1"}})).await.expect(201);
    node.post(nodes, &json!({"metadata": {"name": "n2"}})).await.expect(403);
    client.post(nodes, &json!({"metadata": {"name": "n2"}})).await.expect(201);
    node.merge("/api/v1/nodes/n1/status", &json!({"status": {"phase": "x"}})).await.expect(200);
    node.merge("/api/v1/nodes/n2/status", &json!({"status": {"phase": "x"}})).await.expect(403);
    let label = |name: &str| json!({"metadata": {"labels": {name: "x"}}});
    node.merge("/api/v1/nodes/n1", &label("team")).await.expect(200);
    node.merge("/api/v1/nodes/n1", &label("node-role.kubernetes.io/control-plane"))
        .await
        .expect(403);
    node.merge("/api/v1/nodes/n1", &label("node-restriction.kubernetes.io/x")).await.expect(403);
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    node.merge("/api/v1/nodes/n1", &taint).await.expect(403);
    let base = "/api/v1/namespaces/default";
    for name in ["used", "other"] {
        client
            .post(&format!("{base}/secrets"), &json!({"metadata": {"name": name}}))
            .await
            .expect(201);
    }
    node.get(&format!("{base}/secrets/used")).await.expect(403);
    client.post(&format!("{base}/pods"), &pod("mine", "n1")).await.expect(201);
    client.post(&format!("{base}/pods"), &pod("theirs", "n2")).await.expect(201);
    node.get(&format!("{base}/secrets/used")).await.expect(200);
    node.get(&format!("{base}/secrets/other")).await.expect(403);
    node.get(&format!("{base}/secrets")).await.expect(403);
    node.get(&format!("{base}/secrets?fieldSelector=metadata.name%3Dused")).await.expect(200);
    let status = json!({"status": {"phase": "Running"}});
    node.merge(&format!("{base}/pods/mine/status"), &status).await.expect(200);
    node.merge(&format!("{base}/pods/theirs/status"), &status).await.expect(403);
    node.delete(&format!("{base}/pods/theirs")).await.expect(403);
    node.post(&format!("{base}/pods"), &pod("new", "n1")).await.expect(403);
    client.delete(&format!("{base}/pods/mine?gracePeriodSeconds=0")).await.expect(200);
    // The graph hears of it in its own time, which is short.
    let begin = std::time::Instant::now();
    while node.get(&format!("{base}/secrets/used")).await.code != 403 {
        assert!(begin.elapsed() < std::time::Duration::from_secs(5), "still readable");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn only_a_node_creates_mirrors_and_only_of_its_own_pods() {
    let client = Client::start().await;
    let node = client.as_user(Identity::new("system:node:n1", &["system:nodes"]));
    let (pods, nodes) = ("/api/v1/namespaces/default/pods", "/api/v1/nodes");
    let made = node.post(nodes, &json!({"metadata": {"name": "n1"}})).await.expect(201);
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let annotations =
        json!({"kubernetes.io/config.mirror": "0a", "kubernetes.io/config.source": "file"});
    let mirror = json!({
        "metadata": {"name": "web-n1", "annotations": annotations, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "x"}]}});
    let with = |pointer: &str, value: Value| {
        let mut changed = mirror.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    let secret = json!([{"name": "a", "image": "x", "envFrom": [{"secretRef": {"name": "s"}}]}]);
    let theirs =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "1", "controller": true}]);
    for (wrong, why) in [
        (with("/metadata/annotations", json!({})), "can only create mirror pods"),
        (with("/spec/nodeName", json!("n2")), "spec.nodeName set to itself"),
        (with("/spec/containers", secret), "spec.containers[0].envFrom[0].secretRef"),
        (with("/metadata/ownerReferences", json!([])), "a single owner reference"),
        (with("/metadata/ownerReferences", theirs), "has the UID of"),
        (with("/metadata/ownerReferences/0/kind", json!("Pod")), "a controller owner reference"),
        (
            with("/metadata/ownerReferences/0/controller", json!(false)),
            "a controller owner reference",
        ),
    ] {
        let refused = node.post(pods, &wrong).await.expect(403);
        assert!(refused["message"].as_str().unwrap().contains(why), "{why}: {refused}");
    }
    // Whoever may do everything may not do this.
    let refused = client.post(pods, &mirror).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("only a node"), "{refused}");
    let made = node.post(pods, &mirror).await.expect(201);
    assert!(made["spec"].get("serviceAccountName").is_none(), "{made}");
    assert!(made["spec"].get("volumes").is_none(), "{made}");

    let path = format!("{pods}/web-n1");
    let say =
        |value: Value| json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": value}}});
    for value in [json!("0b"), Value::Null] {
        let refused = client.merge(&path, &say(value)).await.expect(422);
        assert!(
            refused["message"].as_str().unwrap().contains("may not remove or update"),
            "{refused}"
        );
    }
    let added = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x"}]}});
    let refused = client.merge(&format!("{path}/ephemeralcontainers"), &added).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("static pods do not"), "{refused}");
    client.post(pods, &pod("plain", "")).await.expect(201);
    let refused = client.merge(&format!("{pods}/plain"), &say(json!("0a"))).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("may not add"), "{refused}");
    let mut binding = say(json!("0a"));
    binding["metadata"]["name"] = "plain".into();
    binding["target"] = json!({"name": "n1"});
    client.post(&format!("{pods}/plain/binding"), &binding).await.expect(403);
    node.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
}

#[tokio::test]
async fn acting_as_another_needs_the_right_for_each_part() {
    let client = Client::start().await;
    let ann = client.as_user(user("ann"));
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let rules = json!([
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["devs"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"],
            "resources": ["userextras/scopes"], "resourceNames": ["view"]}]);
    let role = json!({"metadata": {"name": "act"}, "rules": rules});
    client.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
    let given = binding("act", "ClusterRole", "act", "ann");
    client.post(&format!("{RBAC}/clusterrolebindings"), &given).await.expect(201);
    let ask = async |headers: &[(&str, &str)]| ann.ask("POST", who, headers, "{}").await;
    let bob = ask(&[
        ("impersonate-user", "bob"),
        ("impersonate-group", "devs"),
        ("impersonate-extra-scopes", "view"),
    ])
    .await
    .expect(201);
    let bob = &bob["status"]["userInfo"];
    assert_eq!(bob["username"], "bob");
    assert_eq!(bob["groups"], json!(["devs", "system:authenticated"]));
    assert_eq!(bob["extra"]["scopes"], json!(["view"]));
    for refused in [
        &[("impersonate-user", "eve")][..],
        &[("impersonate-user", "bob"), ("impersonate-group", "system:masters")],
        &[("impersonate-user", "bob"), ("impersonate-extra-scopes", "edit")],
        &[("impersonate-user", "bob"), ("impersonate-uid", "1")],
    ] {
        ask(refused).await.expect(403);
    }
    ask(&[("impersonate-group", "devs")]).await.expect(400);
    let account = ask(&[("impersonate-user", "system:serviceaccount:default:x")]).await.expect(201);
    assert_eq!(
        account["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    client
        .as_user(user("eve"))
        .ask("POST", who, &[("impersonate-user", "bob")], "{}")
        .await
        .expect(403);
}

async fn account(client: &Client, name: &str) -> String {
    let path = "/api/v1/namespaces/default/serviceaccounts";
    client.post(path, &json!({"metadata": {"name": name}})).await.expect(201);
    format!("{path}/{name}/token")
}

async fn review(client: &Client, token: &str, audiences: Value) -> Value {
    let review = json!({"spec": {"token": token, "audiences": audiences}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = client.post(path, &review).await.expect(201);
    assert!(!answer.to_string().contains(token), "the token travels back");
    answer["status"].clone()
}

#[tokio::test]
async fn a_token_is_its_account_s_and_ends_with_what_it_is_bound_to() {
    let client = Client::start().await;
    let path = account(&client, "bot").await;
    let made = client.post(&path, &json!({})).await.expect(201);
    let token = made["status"]["token"].as_str().unwrap();
    let status = review(&client, token, json!([])).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:bot");
    assert_eq!(review(&client, token, json!(["elsewhere"])).await["authenticated"], false);
    assert_eq!(review(&client, &format!("{token}x"), json!([])).await["authenticated"], false);
    client.post(&path, &json!({"spec": {"expirationSeconds": 60}})).await.expect(422);

    let mut pod = pod("web", "");
    pod["spec"]["serviceAccountName"] = "bot".into();
    let pod = client.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let bound = |name: &str, uid: &Value| {
        json!({"spec": {"audiences": ["vault"],
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}})
    };
    let uid = &pod["metadata"]["uid"];
    client.post(&path, &bound("none", uid)).await.expect(404);
    client.post(&path, &bound("web", &json!("another"))).await.expect(409);
    let made = client.post(&path, &bound("web", uid)).await.expect(201);
    let vault = made["status"]["token"].as_str().unwrap();
    let status = review(&client, vault, json!(["vault", "x"])).await;
    assert_eq!(status["audiences"], json!(["vault"]));
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["web"]));
    assert_eq!(review(&client, vault, json!([])).await["authenticated"], false);
    client.delete("/api/v1/namespaces/default/pods/web?gracePeriodSeconds=0").await.expect(200);
    assert_eq!(review(&client, vault, json!(["vault"])).await["authenticated"], false);

    client.delete("/api/v1/namespaces/default/serviceaccounts/bot").await.expect(200);
    account(&client, "bot").await;
    assert_eq!(review(&client, token, json!([])).await["authenticated"], false);
}

#[tokio::test]
async fn a_token_expires() {
    let time = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(1_700_000_000));
    let clock = time.clone();
    let options = Options {
        clock: std::sync::Arc::new(move || {
            let now = clock.load(std::sync::atomic::Ordering::SeqCst);
            k8s_openapi::jiff::Timestamp::from_second(now).unwrap()
        }),
        ..Options::default()
    };
    let client = Client::with(options).await;
    let path = account(&client, "bot").await;
    let made = client.post(&path, &json!({"spec": {"expirationSeconds": 600}})).await.expect(201);
    let token = made["status"]["token"].as_str().unwrap();
    assert_eq!(review(&client, token, json!([])).await["authenticated"], true);
    time.fetch_add(700, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(review(&client, token, json!([])).await["authenticated"], false);
}

#[tokio::test]
async fn a_node_gets_tokens_of_its_pods_for_what_they_mount() {
    let client = Client::start().await;
    let node = client.as_user(Identity::new("system:node:n1", &["system:nodes"]));
    let path = account(&client, "bot").await;
    client.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.expect(201);
    let ask = |pod: &Value, audience: &str| {
        let mut spec = json!({"boundObjectRef": {"kind": "Pod", "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"]}});
        if !audience.is_empty() {
            spec["audiences"] = json!([audience]);
        }
        json!({"spec": spec})
    };
    let mut pods = Vec::new();
    for (name, on) in [("mine", "n1"), ("theirs", "n2")] {
        let mut pod = pod(name, on);
        pod["spec"]["serviceAccountName"] = "bot".into();
        pod["spec"]["volumes"] = json!([{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]);
        pods.push(client.post("/api/v1/namespaces/default/pods", &pod).await.expect(201));
    }
    for audience in ["", "vault"] {
        node.post(&path, &ask(&pods[0], audience)).await.expect(201);
    }
    node.post(&path, &ask(&pods[0], "bank")).await.expect(403);
    node.post(&path, &ask(&pods[1], "")).await.expect(403);
    node.post(&path, &json!({})).await.expect(403);
    account(&client, "idle").await;
    let idle = "/api/v1/namespaces/default/serviceaccounts/idle/token";
    node.post(idle, &ask(&pods[0], "")).await.expect(403);
}

#[tokio::test]
async fn pods_get_an_account_and_its_token_unless_they_decline() {
    let client = Client::start().await;
    let path = "/api/v1/namespaces/default/pods";
    let made = client.post(path, &pod("a", "")).await.expect(201);
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let volume = &made["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"][0]["name"], volume["name"]);
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    let mut declined = pod("b", "");
    declined["spec"]["automountServiceAccountToken"] = false.into();
    assert_eq!(client.post(path, &declined).await.expect(201)["spec"].get("volumes"), None);
    let mut unknown = pod("c", "");
    unknown["spec"]["serviceAccountName"] = "nobody".into();
    client.post(path, &unknown).await.expect(403);
    let quiet = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false,
        "imagePullSecrets": [{"name": "registry"}]});
    client.post("/api/v1/namespaces/default/serviceaccounts", &quiet).await.expect(201);
    unknown["spec"]["serviceAccountName"] = "quiet".into();
    let made = client.post(path, &unknown).await.expect(201);
    assert_eq!(made["spec"].get("volumes"), None);
    assert_eq!(made["spec"]["imagePullSecrets"][0]["name"], "registry");
}

#[tokio::test]
async fn a_patch_that_creates_needs_the_right_to_create() {
    let client = Client::start().await;
    let rules = json!([{"verbs": ["patch"], "apiGroups": [""], "resources": ["configmaps"]}]);
    let patcher = json!({"metadata": {"name": "patcher"}, "rules": rules});
    client.post(&format!("{RBAC}/clusterroles"), &patcher).await.expect(201);
    bind(&client, "default", "patcher", "ann").await;
    let ann = client.as_user(user("ann"));
    let path = "/api/v1/namespaces/default/configmaps/m";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let refused = ann.apply(path, "x", false, &map).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("cannot create resource"), "{refused}");
    client.apply(path, "y", false, &map).await.expect(201);
    ann.apply(path, "y", false, &map).await.expect(200);
}
