//! get in all its forms, watches, wait, events.

use serde_json::json;

use super::WEB;
use crate::script::Kubectl;

#[expect(clippy::too_many_lines, reason = "one session, most of it text")]
pub async fn gets(kubectl: Kubectl) {
    kubectl.network.file("web.yaml", WEB);
    kubectl
        .play(
            "$ apply -f web.yaml
             $ create configmap b --from-literal=k=1
             $ create configmap a --from-literal=k=2 --from-literal=l=3
             $ label configmap a tier=front
             $ label configmap b tier=back
             $ get deploy
             NAME   READY   UP-TO-DATE   AVAILABLE   AGE
             web    0/2     0            0
             ~ IMAGES
             $ get deploy -o wide
             CONTAINERS   IMAGES       SELECTOR
             main         nginx:1.27   app=web
             $ get all
             deployment.apps/web
             service/web
             service/kubernetes
             $ get deploy,svc web
             deployment.apps/web
             service/web
             $ get deploy/web svc/web -o name
             service/web
             $ get cm --sort-by=.data.k -o 'jsonpath={.items[*].metadata.name}'
             = b a
             $ get cm --sort-by=.metadata.name
             NAME
             $ get cm -l tier=front -o name
             = configmap/a
             $ get cm -l 'tier in (front,back)' -o name
             configmap/b
             $ get cm -l 'tier notin (front)' -o name
             ~ configmap/a
             $ get cm --field-selector metadata.name=b -o name
             = configmap/b
             ! 1 get cm --field-selector data.k=b
             field label not supported: data.k
             $ get cm --chunk-size=1 -o name
             configmap/a
             configmap/b
             $ get cm -A
             NAMESPACE
             $ get cm -o 'custom-columns=N:.metadata.name,K:.data.k'
             N     K
             a     2
             $ get cm a -o json
             \"k\": \"2\"
             $ get cm a -o yaml
             k: \"2\"
             $ get cm -o 'go-template={{range .items}}{{.metadata.name}};{{end}}'
             = a;b;
             $ get cm -L tier --show-labels
             TIER
             tier=front
             $ get cm a --no-headers
             ~ NAME
             $ get -f web.yaml -o name
             service/web
             $ get --raw /api/v1/namespaces/default/configmaps/a
             \"kind\":\"ConfigMap\"
             $ get deploy web --subresource=scale
             DESIRED   AVAILABLE
             $ get deploy web --subresource=status -o name
             deployment.apps/web
             ! 1 get configmap none
             Error from server (NotFound): configmaps \"none\" not found
             $ get configmap none --ignore-not-found
             = 
             ! 1 get things
             the server doesn't have a resource type \"things\"
             $ get pods
             No resources found in default namespace.
             $ get po,sts,ds,jobs,cj,hpa,ing,netpol,pdb,quota,limits,ep,rc,pvc,sa,ev,cm,secrets
             configmap/a
             $ get ns,no,pv,sc,pc,vac
             priorityclass.scheduling.k8s.io/system-node-critical
             $ describe deploy web
             Replicas:               2 desired
             StrategyType:           RollingUpdate
             $ describe svc web
             ClusterIP
             $ describe cm
             Name:         a
             Name:         b",
        )
        .await;
    kubectl.network.stop().await;
}

#[expect(clippy::too_many_lines, reason = "one session, most of it text")]
pub async fn watches_and_waits(kubectl: Kubectl) {
    use tokio::io::AsyncBufReadExt;
    let network = &kubectl.network;
    network.file("web.yaml", WEB);
    kubectl.play("$ apply -f web.yaml").await;
    let mut watch = kubectl.command(&["get", "cm", "-w", "--output-watch-events"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(watch.stdout.take().unwrap()).lines();
    let map = json!({"metadata": {"name": "seen"}, "data": {"a": "b"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    network.client.post(maps, &map).await.expect(201);
    let mut said = Vec::new();
    for change in ["ADDED", "MODIFIED", "DELETED"] {
        match change {
            "MODIFIED" => {
                let more = json!({"data": {"c": "d"}});
                network.client.merge(&format!("{maps}/seen"), &more).await.expect(200);
            }
            "DELETED" => drop(network.client.delete(&format!("{maps}/seen")).await.expect(200)),
            _ => {}
        }
        loop {
            let line = tokio::time::timeout(std::time::Duration::from_secs(20), lines.next_line());
            let line = line.await.expect("the watch goes on").unwrap().unwrap();
            said.push(line);
            if said.last().unwrap().starts_with(change) {
                break;
            }
        }
    }
    assert!(said.iter().any(|line| line.starts_with("EVENT")), "{said:?}");
    watch.kill().await.unwrap();

    let deployment = "/apis/apps/v1/namespaces/default/deployments/web";
    let status = json!({"status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2,
        "readyReplicas": 2, "availableReplicas": 2,
        "conditions": [{"type": "Available", "status": "True"}]}});
    let waiting = kubectl.play(
        "$ wait --for=condition=Available deploy/web --timeout=30s
         deployment.apps/web condition met
         $ wait --for=jsonpath={.status.readyReplicas}=2 deploy/web --timeout=30s
         condition met
         $ rollout status deploy/web --timeout=30s
         successfully rolled out
         $ rollout status deploy/web --watch=false
         successfully rolled out
         ! 1 wait --for=condition=Progressing deploy/web --timeout=1s
         timed out waiting for the condition",
    );
    let change = async {
        network.client.merge(&format!("{deployment}/status"), &status).await.expect(200);
    };
    tokio::join!(waiting, change);

    let waiting = kubectl.play("$ wait --for=delete deploy/web --timeout=30s");
    let change = async { network.client.delete(deployment).await.expect(200) };
    tokio::join!(waiting, change);

    let service = "/api/v1/namespaces/default/services/web";
    let service = network.client.get(service).await.expect(200);
    let event = json!({"metadata": {"name": "e"}, "type": "Warning", "reason": "Odd",
        "message": "something is odd", "count": 3, "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {"kind": "Service", "name": "web", "namespace": "default",
            "apiVersion": "v1", "uid": service["metadata"]["uid"]}});
    let events = "/api/v1/namespaces/default/events";
    network.client.post(events, &event).await.expect(201);
    kubectl
        .play(
            "$ events
             something is odd
             $ events --for=service/web --types=Warning
             something is odd
             $ events --types=Normal
             ~ odd
             $ get events
             LAST SEEN
             service/web
             $ get events.v1.events.k8s.io -o 'jsonpath={.items[*].note}'
             = something is odd
             $ get ev --field-selector involvedObject.name=web,reason=Odd -o name
             event/e
             $ describe svc web
             something is odd
             $1.31 wait --for=create svc/web --timeout=5s
             condition met",
        )
        .await;
    kubectl.network.stop().await;
}
