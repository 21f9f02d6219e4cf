//! delete with its ways to cascade and to wait.

use super::WEB;
use crate::script::Kubectl;

pub async fn deletes(kubectl: Kubectl) {
    let network = &kubectl.network;
    network.file("web.yaml", WEB);
    network.file(
        "held.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}\n",
    );
    kubectl
        .play(
            "$ apply -f web.yaml
             $ delete deploy web --dry-run=server
             deployment.apps \"web\" deleted (server dry run)
             $ get deploy web
             $ delete deploy web --cascade=orphan --wait=false
             deleted
             $ get deploy web -o 'jsonpath={.metadata.finalizers}'
             = [\"orphan\"]
             $ patch deploy web --type=merge -p '{\"metadata\":{\"finalizers\":null}}'
             patched
             ! 1 get deploy web
             NotFound
             $ apply -f web.yaml
             $ delete deploy web --cascade=foreground --wait=false
             $ get deploy web -o 'jsonpath={.metadata.finalizers}'
             = [\"foregroundDeletion\"]
             $ patch deploy web --type=json -p '[{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]'
             $ apply -f web.yaml
             $ delete -f web.yaml
             deployment.apps \"web\" deleted
             service \"web\" deleted
             ! 1 delete -f web.yaml
             NotFound
             $ delete -f web.yaml --ignore-not-found
             = 
             $ create configmap a
             $ create configmap b
             $ create configmap c
             $ label configmap a b=c
             $ delete cm -l b=c
             configmap \"a\" deleted
             $ delete cm --all
             configmap \"b\" deleted
             configmap \"c\" deleted
             $ create -f held.yaml
             $ delete cm held --wait=false
             deleted
             ! 1 delete cm held --timeout=1s
             timed out waiting for the condition
             $ patch cm held --type=merge -p '{\"metadata\":{\"finalizers\":[]}}'
             $ run p --image=x
             $ delete pod p --grace-period=0 --force
             pod \"p\" force deleted
             $ run p --image=x
             $ delete pod p --now
             deleted
             $ delete --raw /api/v1/namespaces/default/services/kubernetes
             Success
             ! 1 delete ns default
             Forbidden
             ! 1 delete pc system-node-critical
             Forbidden",
        )
        .await;
    kubectl.network.stop().await;
}
