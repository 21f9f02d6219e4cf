//! Roles that are sums, and certificates.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE};

async fn until<K>(api: &Api<K>, name: &str, holds: impl Fn(&K) -> bool) -> K
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let begin = tokio::time::Instant::now();
    loop {
        let found = api.get(name).await.unwrap();
        if holds(&found) {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "still {found:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn names(role: &ClusterRole, resource: &str) -> bool {
    let rules = role.rules.iter().flatten();
    rules.flat_map(|rule| rule.resources.iter().flatten()).any(|known| known == resource)
}

#[tokio::test]
async fn a_part_added_to_a_role_is_in_its_sums() {
    let cluster = Cluster::empty().await;
    let api: Api<ClusterRole> = Api::all(cluster.client.clone());
    let part: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "part", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"]}],
    }))
    .unwrap();
    api.create(&PostParams::default(), &part).await.unwrap();
    // View is a part of edit, and edit of admin.
    for sum in ["view", "edit", "admin"] {
        until(&api, sum, |role| names(role, "things") && names(role, "pods")).await;
    }
    api.delete("part", &kube::api::DeleteParams::default()).await.unwrap();
    until(&api, "admin", |role| !names(role, "things") && names(role, "pods")).await;
}

fn request(name: &str, signer: &str, user: &str, group: &str) -> CertificateSigningRequest {
    let (pem, _) = berth_authority::ask(user, group, &[]).unwrap();
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": ["digital signature", "client auth"],
            "expirationSeconds": 3600, "request": ByteString(pem.into_bytes())},
    }))
    .unwrap()
}

fn certificate(request: &CertificateSigningRequest) -> Option<String> {
    let bytes = request.status.as_ref()?.certificate.as_ref()?;
    String::from_utf8(bytes.0.clone()).ok()
}

#[tokio::test]
async fn what_was_approved_is_issued_and_nothing_else() {
    let cluster = Cluster::empty().await;
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let client = "kubernetes.io/kube-apiserver-client";
    for name in ["yes", "no"] {
        let made = api.create(&PostParams::default(), &request(name, client, "ann", "devs")).await;
        assert_eq!(made.unwrap().spec.username.as_deref(), Some("admin"));
    }
    let decide = async |name: &str, kind: &str| {
        let mut object: Value = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
        object["status"] =
            json!({"conditions": [{"type": kind, "status": "True", "reason": "Test"}]});
        api.replace_subresource::<CertificateSigningRequest>(
            "approval",
            name,
            &PostParams::default(),
            &serde_json::from_value::<CertificateSigningRequest>(object).unwrap(),
        )
        .await
    };
    decide("no", "Denied").await.unwrap();
    decide("yes", "Approved").await.unwrap();
    let issued = until(&api, "yes", |request| certificate(request).is_some()).await;
    assert!(certificate(&issued).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(certificate(&api.get("no").await.unwrap()).is_none());
    // A decision is final, and so is what was asked.
    decide("no", "Approved").await.unwrap_err();
    let other = json!({"spec": {"signerName": "kubernetes.io/kubelet-serving"}});
    api.patch("no", &PatchParams::default(), &Patch::Merge(&other)).await.unwrap_err();
    let status = json!({"status": {"conditions": []}});
    api.patch_status("no", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap_err();
    // Nobody gets into the group that may do everything by this door.
    let master = request("master", client, "eve", "system:masters");
    let refused = api.create(&PostParams::default(), &master).await.unwrap_err();
    assert!(refused.to_string().contains("system:masters"), "{refused}");
}

#[tokio::test]
async fn a_node_renews_its_own_certificate_and_no_other_s() {
    let cluster = Cluster::empty().await;
    let node = cluster.as_user("system:node:n1", &["system:nodes"]);
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let api: Api<CertificateSigningRequest> = Api::all(node);
    let own = request("own", signer, "system:node:n1", "system:nodes");
    let other = request("other", signer, "system:node:n2", "system:nodes");
    api.create(&PostParams::default(), &other).await.unwrap();
    api.create(&PostParams::default(), &own).await.unwrap();
    until(&api, "own", |request| certificate(request).is_some()).await;
    let other = api.get("other").await.unwrap();
    assert!(other.status.and_then(|status| status.conditions).is_none_or(|list| list.is_empty()));
}

#[tokio::test]
async fn a_bootstrap_token_goes_when_it_ends() {
    let cluster = Cluster::empty().await;
    let token = |name: &str, kind: &str, end: &str| json!({"metadata": {"name": name}, "type": kind, "stringData": {"expiration": end}});
    let soon = k8s_openapi::jiff::Timestamp::now() + std::time::Duration::from_secs(1);
    let kind = "bootstrap.kubernetes.io/token";
    for object in [
        token("bootstrap-token-aaaaaa", kind, "2001-01-01T00:00:00Z"),
        token("bootstrap-token-bbbbbb", kind, &soon.to_string()),
        token("bootstrap-token-cccccc", kind, "2999-01-01T00:00:00Z"),
        token("other", "Opaque", "2001-01-01T00:00:00Z"),
    ] {
        cluster.create::<Secret>("kube-system", object).await;
    }
    let names = cluster
        .until_all("kube-system", |secrets: &[Secret]| secrets.len() == 2)
        .await
        .into_iter()
        .filter_map(|secret| secret.metadata.name)
        .collect::<Vec<_>>();
    assert_eq!(names, ["bootstrap-token-cccccc", "other"]);
}
