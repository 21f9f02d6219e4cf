//! What the server says of itself, nodes, proxy, configuration.

use serde_json::json;
use tokio::io::AsyncBufReadExt;

use crate::script::Kubectl;

pub async fn describes_itself(kubectl: Kubectl) {
    kubectl
        .play(
            "$ version
             Server Version: v1.35.0
             $ api-versions
             apps/v1
             autoscaling/v1
             autoscaling/v2
             batch/v1
             flowcontrol.apiserver.k8s.io/v1
             resource.k8s.io/v1
             $ api-resources
             deployments                         deploy
             $ api-resources --namespaced=false -o name
             nodes
             ~ pods
             $ api-resources --api-group=batch -o wide
             cronjobs
             create,delete,deletecollection,get,list,patch,update,watch
             $ api-resources --categories=all -o name
             statefulsets.apps
             $ api-resources --verbs=list -o name
             configmaps
             $ api-resources --sort-by=name
             NAME
             $ explain deployment
             GROUP:      apps
             VERSION:    v1
             $ explain deployment.spec.strategy.rollingUpdate.maxSurge
             <IntOrString>
             $ explain deployment --recursive
             livenessProbe
             $ explain cronjob.spec.schedule
             FIELD: schedule
             $ explain hpa --api-version=autoscaling/v1
             VERSION:    v1
             $ explain ing.spec.rules
             host
             ! 1 explain deployment.nothing
             does not exist
             $ cluster-info
             is running at
             $ cluster-info dump
             \"kind\": \"NodeList\"
             $ get --raw /readyz
             = ok
             $ config view
             server: https://
             $ config current-context
             = test
             $ config set-context --current --namespace=kube-system
             modified
             $ get cm
             No resources found in kube-system namespace.
             $ config use-context test
             Switched
             $ options
             --kubeconfig
             $ completion bash
             complete
             ! 1 plugin list
             unable to find any kubectl plugins",
        )
        .await;
    kubectl.network.stop().await;
}

pub async fn keeps_nodes(kubectl: Kubectl) {
    let client = &kubectl.network.client;
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": ""}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.35.0"}, "capacity": {"cpu": "2"}}});
    client.post("/api/v1/nodes", &node).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["one", "two"] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "a"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "x"}]}});
        client.post(pods, &pod).await.expect(201);
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        client.merge(&format!("{pods}/{name}/status"), &status).await.expect(200);
    }
    kubectl
        .play(
            "$ get nodes
             NAME   STATUS   ROLES    AGE   VERSION
             n      Ready    worker
             $ taint node n dedicated=x:NoSchedule
             node/n tainted
             ! 1 taint node n dedicated=y:NoSchedule
             already has dedicated taint
             $ taint node n dedicated=y:NoSchedule --overwrite
             node/n modified
             $ describe node n
             dedicated=y:NoSchedule
             Non-terminated Pods:
             $ taint node n dedicated:NoSchedule-
             node/n untainted
             $ cordon n
             node/n cordoned
             $ get nodes
             Ready,SchedulingDisabled
             $ uncordon n
             node/n uncordoned
             $ create pdb guard --selector=app=a --min-available=2",
        )
        .await;
    let guard = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/guard/status";
    let allow = async |allowed: u32| {
        let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed,
            "currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 2}});
        client.merge(guard, &counted).await.expect(200);
    };
    allow(0).await;
    kubectl
        .play(
            "! 1 drain n --force --timeout=2s
             Cannot evict pod as it would violate the pod's disruption budget.",
        )
        .await;
    // They may go now, and the node says when they have gone.
    allow(2).await;
    kubectl.play("$ drain n --force --dry-run=server\n(server dry run)").await;
    let drained = kubectl.play(
        "$ drain n --force --timeout=60s
         pod/one evicted
         pod/two evicted
         node/n drained",
    );
    let ended = async {
        for name in ["one", "two"] {
            let watch = format!("{pods}?watch=1&fieldSelector=metadata.name%3D{name}");
            let mut watch = client.watch(&watch).await;
            loop {
                let event = watch.next().await.unwrap();
                if event["object"]["metadata"]["deletionTimestamp"].is_string() {
                    break;
                }
            }
            client.delete(&format!("{pods}/{name}?gracePeriodSeconds=0")).await.expect(200);
        }
    };
    tokio::join!(drained, ended);
    kubectl.play("$ delete node n\nnode \"n\" deleted").await;
    kubectl.network.stop().await;
}

pub async fn proxies(kubectl: Kubectl) {
    let mut proxy = kubectl.command(&["proxy", "--port=0"]);
    let mut proxy = proxy.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(proxy.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.rsplit(' ').next().unwrap().to_owned();
    let url = format!("http://{address}/api/v1/namespaces/default");
    let output = tokio::process::Command::new("curl").args(["--silent", &url]).output().await;
    let text = String::from_utf8_lossy(&output.expect("this test needs curl").stdout).into_owned();
    let namespace: serde_json::Value = serde_json::from_str(&text).expect("a namespace");
    assert_eq!(namespace["metadata"]["name"], "default");
    proxy.kill().await.unwrap();
    kubectl.network.stop().await;
}
