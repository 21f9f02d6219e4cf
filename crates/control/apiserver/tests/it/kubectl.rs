//! The real kubectl against the network's door.

use serde_json::json;

use crate::support::Network;

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: nginx:1.27
        ports: [{containerPort: 80}]
";

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_describes() {
    let network = Network::start().await;
    has(
        &network.ok("get ns").await,
        &["NAME", "STATUS", "AGE", "default", "kube-system", "Active"],
    );
    has(&network.ok("version").await, &["Server Version: v1.35.0"]);
    has(&network.ok("api-resources").await, &["deployments", "deploy", "apps/v1", "netpol"]);
    has(
        &network.ok("get svc -o wide").await,
        &["TYPE", "CLUSTER-IP", "PORT(S)", "SELECTOR", "10.96.0.1", "443/TCP"],
    );
    let node = json!({"metadata": {"name": "n1"}, "status": {"conditions":
        [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.35.0"}}});
    network.client.post("/api/v1/nodes", &node).await.expect(201);
    has(&network.ok("get nodes").await, &["n1", "Ready", "<none>", "v1.35.0"]);
    has(&network.ok("describe node n1").await, &["Name:", "n1"]);
    has(&network.ok("describe svc kubernetes").await, &["10.96.0.1", "https  443/TCP"]);
    let (code, text) = network.run(&["get", "pod", "none"]).await;
    assert_eq!((code, text.trim()), (1, "Error from server (NotFound): pods \"none\" not found"));
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_changes_and_deletes() {
    let network = Network::start().await;
    network.file("web.yaml", DEPLOYMENT);
    has(&network.ok("apply -f web.yaml").await, &["deployment.apps/web created"]);
    has(&network.ok("apply -f web.yaml").await, &["deployment.apps/web unchanged"]);
    network.file("web.yaml", &DEPLOYMENT.replace("1.27", "1.28"));
    let (code, text) = network.run(&["diff", "-f", "web.yaml"]).await;
    assert_eq!(code, 1, "{text}");
    has(&text, &["-      - image: nginx:1.27", "+      - image: nginx:1.28"]);
    has(&network.ok("apply -f web.yaml").await, &["deployment.apps/web configured"]);
    has(&network.ok("get deploy -o wide").await, &["0/2", "nginx:1.28", "app=web"]);
    has(&network.ok("scale deploy web --replicas=5").await, &["deployment.apps/web scaled"]);
    has(&network.ok("label deploy web tier=front").await, &["labeled"]);
    has(&network.ok("annotate deploy web note=x").await, &["annotated"]);
    has(&network.ok("set image deploy/web main=nginx:1.29").await, &["image updated"]);
    let text = network.ok("get deploy web -o jsonpath={.spec.replicas}/{.metadata.labels.tier}/{.metadata.generation}").await;
    assert_eq!(text, "5/front/4");
    has(&network.ok("describe deploy web").await, &["Replicas:", "5 desired", "nginx:1.29"]);
    has(&network.ok("delete -f web.yaml").await, &["deleted"]);
    has(&network.ok("get deploy").await, &["No resources found"]);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_on_the_server() {
    let network = Network::start().await;
    network.file("web.yaml", DEPLOYMENT);
    has(&network.ok("apply --server-side -f web.yaml").await, &["serverside-applied"]);
    network.ok("scale deploy web --replicas=5").await;
    let (code, text) = network.run(&["apply", "--server-side", "-f", "web.yaml"]).await;
    assert_eq!(code, 1);
    has(&text, &["conflict", ".spec.replicas"]);
    let forced = network.ok("apply --server-side --force-conflicts -f web.yaml").await;
    has(&forced, &["serverside-applied"]);
    let text = network.ok("get deploy web -o jsonpath={.spec.replicas}").await;
    assert_eq!(text, "2");
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_unknown_fields() {
    let network = Network::start().await;
    network.file("web.yaml", &DEPLOYMENT.replace("replicas: 2", "replicaz: 2"));
    let (code, text) = network.run(&["apply", "-f", "web.yaml"]).await;
    assert_eq!(code, 1);
    has(&text, &["unknown field \"spec.replicaz\""]);
    let (code, text) = network.run(&["apply", "--validate=warn", "-f", "web.yaml"]).await;
    assert_eq!(code, 0, "{text}");
    has(&text, &["Warning: unknown field \"spec.replicaz\"", "created"]);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_from_protobuf() {
    let network = Network::start().await;
    has(&network.ok("create deployment a --image=nginx --replicas=2").await, &["created"]);
    has(&network.ok("create configmap b --from-literal=k=v").await, &["created"]);
    has(&network.ok("create secret generic c --from-literal=k=v").await, &["created"]);
    has(&network.ok("create namespace d").await, &["created"]);
    assert_eq!(network.ok("get secret c -o jsonpath={.data.k}").await, "dg==");
    assert_eq!(network.ok("get cm b -o jsonpath={.data.k}").await, "v");
    let text = network
        .ok("get deploy a -o jsonpath={.spec.replicas}/{.spec.template.spec.containers[0].image}")
        .await;
    assert_eq!(text, "2/nginx");
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explains() {
    let network = Network::start().await;
    has(
        &network.ok("explain deployment.spec.strategy").await,
        &["GROUP:      apps", "KIND:       Deployment", "rollingUpdate", "DESCRIPTION:"],
    );
    has(
        &network.ok("explain pod.spec.containers").await,
        &["imagePullPolicy", "<[]ContainerPort>"],
    );
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_watches_and_follows_rollouts() {
    let network = Network::start().await;
    network.file("web.yaml", DEPLOYMENT);
    network.ok("apply -f web.yaml").await;
    let path = "/apis/apps/v1/namespaces/default/deployments/web/status";
    let status = json!({"status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2,
        "readyReplicas": 2, "availableReplicas": 2,
        "conditions": [{"type": "Available", "status": "True"}]}});
    let waiting = network.ok("wait --for=condition=Available deploy/web --timeout=30s");
    let rollout = network.ok("rollout status deploy/web --timeout=30s");
    let change = async { network.client.merge(path, &status).await.expect(200) };
    let (waited, rolled, _) = tokio::join!(waiting, rollout, change);
    has(&waited, &["condition met"]);
    has(&rolled, &["successfully rolled out"]);

    let mut watch = network.command(&["get", "cm", "-w", "-o", "name"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    network.ok("create configmap seen --from-literal=a=b").await;
    let output = watch.stdout.take().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(output));
    let line = tokio::time::timeout(std::time::Duration::from_secs(20), lines.next_line());
    assert_eq!(line.await.unwrap().unwrap().unwrap(), "configmap/seen");
    watch.kill().await.unwrap();
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nobody_is_let_in() {
    let network = Network::start().await;
    let url = format!("https://{}/api/v1/pods", network.address);
    let authority = network.file("ca.crt", network.authority.certificate());
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--cacert"])
        .arg(&authority)
        .arg(&url)
        .output()
        .await
        .expect("this test needs curl");
    let text = String::from_utf8_lossy(&output.stdout);
    let status: serde_json::Value = serde_json::from_str(&text).expect("a Status");
    assert_eq!((&status["code"], &status["reason"]), (&json!(401), &json!("Unauthorized")));
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_exposes_and_edits() {
    let network = Network::start().await;
    has(
        &network.ok("run one --image=nginx --port=80 --labels=app=one").await,
        &["pod/one created"],
    );
    has(&network.ok("expose pod one --name=front").await, &["service/front exposed"]);
    has(&network.ok("get pods -o wide").await, &["0/1", "Pending", "<none>", "NOMINATED NODE"]);
    has(&network.ok("describe pod one").await, &["Image:", "nginx", "QoS Class:", "BestEffort"]);
    has(&network.ok("get all").await, &["pod/one", "service/front", "service/kubernetes"]);
    has(&network.ok("get pods -l app=one --field-selector status.phase=Pending").await, &["one"]);
    let mut edit = network.command(&["edit", "svc", "front"]);
    let output = edit.env("KUBE_EDITOR", "sed -i s/port:.80$/port:\\ 81/").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    has(&text, &["service/front edited"]);
    assert_eq!(network.ok("get svc front -o jsonpath={.spec.ports[0].port}").await, "81");
    let waiting = network.ok("wait --for=delete pod/one --timeout=30s");
    let deleting = network.ok("delete pod one");
    // Which of them is first is open; both must end.
    let (_, deleted) = tokio::join!(waiting, deleting);
    has(&deleted, &["pod \"one\" deleted"]);
    has(&network.ok("create sa robot").await, &["serviceaccount/robot created"]);
    has(&network.ok("get events").await, &["No resources found"]);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_open_watches_at_once() {
    let network = Network::start().await;
    let mut watch = network.command(&["get", "ns", "-w", "-o", "name"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let output = watch.stdout.take().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(output));
    assert!(lines.next_line().await.unwrap().is_some());
    let began = std::time::Instant::now();
    network.stop().await;
    assert!(began.elapsed().as_secs() < 5, "it does not wait for the watch's own end");
    watch.kill().await.unwrap();
}
