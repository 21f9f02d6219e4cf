//! Access as people use it: the real kubectl, certificates and tokens over HTTPS.

use std::time::Duration;

use berth_authority::Kubeconfig;

use crate::support::Network;

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

impl Network {
    /// Writes a kubeconfig with a certificate.
    fn enrol(&self, user: &str, group: &str) -> String {
        let identity = self.authority.client(user, group, Duration::from_secs(3600)).unwrap();
        let url = format!("https://{}", self.address);
        let path = self.folder.path().join(user);
        let authority = self.authority.certificate();
        Kubeconfig { name: "test", server: &url, authority, identity: &identity }
            .write(&path)
            .unwrap();
        format!("--kubeconfig={}", path.display())
    }

    /// Flags for a client that has a token and nothing else.
    fn by_token(&self, token: &str) -> [String; 4] {
        let authority = self.file("ca.pem", self.authority.certificate());
        [
            format!("--kubeconfig={}", self.file("plain", "{}").display()),
            format!("--server=https://{}", self.address),
            format!("--certificate-authority={}", authority.display()),
            format!("--token={token}"),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_auth_answers_as_the_server_judges() {
    let network = Network::start().await;
    let run = async |words: &str| {
        let words: Vec<_> = words.split_whitespace().collect();
        network.run(&words).await
    };
    assert_eq!(run("auth can-i delete pods").await, (0, "yes\n".into()));
    assert_eq!(run("auth can-i list pods --as ann").await, (1, "no\n".into()));
    network.ok("create rolebinding ann --clusterrole=view --user=ann").await;
    assert_eq!(run("auth can-i list pods --as ann").await, (0, "yes\n".into()));
    assert_eq!(run("auth can-i list pods --as ann -n kube-system").await.0, 1);
    assert_eq!(run("auth can-i get pods/log --as ann").await.0, 0);
    assert_eq!(run("auth can-i get /healthz --as ann").await.0, 0);
    has(
        &network.ok("auth can-i --list --as ann").await,
        &[
            "selfsubjectaccessreviews.authorization.k8s.io",
            "pods/log",
            "[get list watch]",
            "/healthz",
        ],
    );
    let ann = network.enrol("ann", "devs");
    let (code, text) = network.run(&["auth", "whoami", &ann]).await;
    assert_eq!(code, 0, "{text}");
    has(&text, &["Username", "ann", "[devs system:authenticated]"]);
    has(
        &network.ok("auth whoami --as bob --as-group=x").await,
        &["bob", "[x system:authenticated]"],
    );
    let (code, text) = network.run(&["get", "pods", "-n", "kube-system", &ann]).await;
    assert_eq!(code, 1);
    has(
        &text,
        &["Error from server (Forbidden): pods is forbidden: User \"ann\" cannot list resource"],
    );
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_writes_and_shows_roles() {
    let network = Network::start().await;
    network.ok("create role reader --verb=get,list --resource=pods,deployments.apps").await;
    network.ok("create rolebinding r --role=reader --user=ann --serviceaccount=default:bot").await;
    network.ok("create clusterrole urls --verb=get --non-resource-url=/logs/*").await;
    network.ok("create clusterrolebinding c --clusterrole=urls --group=ops").await;
    has(
        &network.ok("get role,clusterrole").await,
        &["CREATED AT", "reader", "cluster-admin", "urls"],
    );
    has(
        &network.ok("get rolebinding -o wide").await,
        &["ROLE", "Role/reader", "USERS", "ann", "SERVICEACCOUNTS", "default/bot"],
    );
    has(&network.ok("describe role reader").await, &["pods", "deployments.apps", "[get list]"]);
    has(
        &network.ok("describe clusterrolebinding c").await,
        &["ClusterRole", "urls", "Group", "ops"],
    );
    network.file(
        "roles.yaml",
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: made, namespace: default}
rules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]
",
    );
    has(&network.ok("auth reconcile -f roles.yaml").await, &["reconciled"]);
    assert_eq!(network.run(&["auth", "can-i", "get", "secrets", "--as", "eve"]).await.0, 1);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_by_kubectl_opens_the_door_until_its_account_goes() {
    let network = Network::start().await;
    network.ok("create serviceaccount bot").await;
    network.ok("create rolebinding bot --clusterrole=view --serviceaccount=default:bot").await;
    let token = network.ok("create token bot --duration=20m").await;
    let flags = network.by_token(token.trim());
    let run = async |words: &str| {
        let words: Vec<_> =
            words.split_whitespace().chain(flags.iter().map(String::as_str)).collect();
        network.run(&words).await
    };
    let (code, text) = run("auth whoami").await;
    assert_eq!(code, 0, "{text}");
    has(&text, &["system:serviceaccount:default:bot", "system:serviceaccounts:default", "JTI="]);
    assert_eq!(run("get pods").await.0, 0);
    assert_eq!(run("get secrets").await.0, 1);
    has(&run("get --raw /.well-known/openid-configuration").await.1, &["issuer", "ES256"]);
    has(&run("get --raw /openid/v1/jwks").await.1, &["P-256", "kid"]);
    network.ok("delete serviceaccount bot").await;
    let (code, text) = run("get pods").await;
    assert_eq!(code, 1);
    has(&text, &["Unauthorized"]);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_token_may_ask_to_become_a_node_and_nothing_else() {
    let network = Network::start().await;
    let secret = |expiration: &str| {
        format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: bootstrap-token-abcdef, namespace: kube-system}}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: 'true'
  auth-extra-groups: system:bootstrappers:berth:nodes,system:masters
  expiration: '{expiration}'
"
        )
    };
    network.file("token.yaml", &secret("2999-01-01T00:00:00Z"));
    network.ok("apply -f token.yaml").await;
    let flags = network.by_token("abcdef.0123456789abcdef");
    let run = async |words: &str| {
        let words: Vec<_> =
            words.split_whitespace().chain(flags.iter().map(String::as_str)).collect();
        network.run(&words).await
    };
    let (code, text) = run("auth whoami").await;
    assert_eq!(code, 0, "{text}");
    has(&text, &["system:bootstrap:abcdef", "system:bootstrappers:berth:nodes"]);
    assert!(!text.contains("system:masters"), "{text}");
    assert_eq!(run("auth can-i create certificatesigningrequests").await.0, 0);
    assert_eq!(run("get nodes").await.0, 1);
    network.file("token.yaml", &secret("2001-01-01T00:00:00Z"));
    network.ok("apply -f token.yaml").await;
    has(&run("auth whoami").await.1, &["Unauthorized"]);
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_approves_and_denies_certificates() {
    let network = Network::start().await;
    for name in ["ann", "eve"] {
        let (pem, _) = berth_authority::ask(name, "devs", &[]).unwrap();
        let request = serde_json::json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
                "request": k8s_openapi::ByteString(pem.into_bytes())}});
        let file = network.file("request.json", &request.to_string());
        let (code, text) = network.run(&["create", "-f", file.to_str().unwrap()]).await;
        assert_eq!(code, 0, "{text}");
    }
    has(&network.ok("get csr").await, &["SIGNERNAME", "REQUESTOR", "admin", "Pending"]);
    has(&network.ok("certificate approve ann").await, &["ann approved"]);
    has(&network.ok("certificate deny eve").await, &["eve denied"]);
    has(&network.ok("get csr ann").await, &["Approved"]);
    has(&network.ok("get csr eve").await, &["Denied"]);
    let (code, text) = network.run(&["certificate", "approve", "eve"]).await;
    assert_eq!(code, 1, "{text}");
    let (code, text) = network.run(&["certificate", "approve", "ann", "--as", "ann"]).await;
    assert_eq!(code, 1, "{text}");
    network.stop().await;
}
