//! `auth`, `create token`, `certificate`, roles and bindings.

use crate::script::Kubectl;

pub async fn asks_who_may_what(kubectl: Kubectl) {
    kubectl
        .play(
            "$ auth can-i delete pods
= yes
! 1 auth can-i list pods --as ann
$ create namespace shop
$ create rolebinding ann --clusterrole=view --user=ann -n shop
rolebinding.rbac.authorization.k8s.io/ann created
$ auth can-i list pods --as ann -n shop
= yes
! 1 auth can-i list pods --as ann
! 1 auth can-i get secrets --as ann -n shop
$ auth can-i get /healthz --as ann
= yes
$ auth can-i list pods --as bob --as-group system:masters
= yes
$ auth can-i --list --as ann -n shop
pods/log
[get list watch]
/healthz
~ secrets
! 1 get pods --as ann
Error from server (Forbidden): pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"
$ get pods --as ann -n shop
$ auth whoami --as ann --as-group devs
ann
[devs system:authenticated]
$ delete rolebinding ann -n shop
! 1 auth can-i list pods --as ann -n shop",
        )
        .await;
    kubectl.network.stop().await;
}

pub async fn keeps_roles(kubectl: Kubectl) {
    kubectl
        .play(
            "$ create role reader --verb=get,list --resource=pods,deployments.apps --resource-name=web
role.rbac.authorization.k8s.io/reader created
$ create rolebinding reader --role=reader --user=ann --group=devs --serviceaccount=default:bot
$ create clusterrole urls --verb=get --non-resource-url=/logs/*
$ create clusterrole sum --aggregation-rule=part=yes
$ create clusterrolebinding urls --clusterrole=urls --group=ops
$ get roles,rolebindings
CREATED AT
reader
Role/reader
$ get rolebindings -o wide
ann
devs
default/bot
$ describe role reader
deployments.apps
[web]
[get list]
$ describe clusterrolebinding urls
ClusterRole
ops
$ set subject rolebinding reader --user=eve
$ get rolebinding reader -o wide
eve
! 1 create rolebinding other --role=reader --user=ann --as ann
is forbidden
$ describe clusterrole view
pods/log
$ delete role reader
$ delete clusterrole urls sum",
        )
        .await;
    kubectl.network.stop().await;
}

pub async fn makes_tokens_and_certificates(kubectl: Kubectl) {
    for name in ["ann", "eve"] {
        let (pem, _) = berth_authority::ask(name, "devs", &[]).unwrap();
        let request = serde_json::json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
                "request": k8s_openapi::ByteString(pem.into_bytes())}});
        kubectl.network.file(&format!("{name}.json"), &request.to_string());
    }
    kubectl
        .play(
            "$ create serviceaccount bot
serviceaccount/bot created
$ create token bot --duration=20m --audience=vault
eyJ
! 1 create token bot --duration=1m
! 1 create token nobody
not found
$ create -f ann.json -f eve.json
$ get csr
kubernetes.io/kube-apiserver-client
Pending
$ certificate approve ann
ann approved
$ certificate deny eve
eve denied
$ get csr ann
Approved
$ get csr eve
Denied
$ describe csr ann
Approved
admin
! 1 certificate approve eve
$ delete csr ann eve",
        )
        .await;
    kubectl.network.stop().await;
}
