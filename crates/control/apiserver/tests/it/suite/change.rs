//! edit, patch, label, annotate, replace, scale, set.

use super::WEB;
use crate::script::Kubectl;

#[expect(clippy::too_many_lines, reason = "one session, most of it text")]
pub async fn changes(kubectl: Kubectl) {
    let network = &kubectl.network;
    network.file("web.yaml", WEB);
    network.file("next.yaml", &WEB.replace("1.27", "1.28"));
    kubectl
        .play(
            "$ apply -f web.yaml
             $ patch deploy web -p '{\"spec\":{\"replicas\":4}}'
             deployment.apps/web patched
             $ patch deploy web -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"side\",\"image\":\"x\"}]}}}}'
             patched
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].name}'
             = side main
             $ patch deploy web --type=merge -p '{\"metadata\":{\"labels\":{\"app\":null}}}'
             patched
             $ patch deploy web --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":4},{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":5}]'
             patched
             ! 1 patch deploy web --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":4}]'
             The request is invalid
             $ patch deploy web -p '{\"spec\":{\"replicas\":5}}'
             deployment.apps/web patched (no change)
             $ patch deploy web --subresource=status --type=merge -p '{\"status\":{\"replicas\":5}}'
             patched
             $ patch deploy web --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":6}}'
             patched
             $ patch -f web.yaml -p '{\"metadata\":{\"labels\":{\"p\":\"q\"}}}'
             service/web patched
             $ get deploy web -o 'jsonpath={.spec.replicas} {.status.replicas} {.metadata.labels}'
             = 6 5 {\"p\":\"q\"}
             ! 1 patch deploy web -p '{\"spec\":{\"replicas\":-1}}'
             spec.replicas: Invalid value: -1: must be greater than or equal to 0
             $ label deploy web a=b
             deployment.apps/web labeled
             ! 1 label deploy web a=c
             already has a value (b)
             $ label deploy web a=c --overwrite
             deployment.apps/web labeled
             $ label deploy web a-
             deployment.apps/web unlabeled
             ! 1 label deploy web 'a=b c'
             a valid label must be an empty string or consist of alphanumeric characters
             $ annotate deploy web note='a b c'
             deployment.apps/web annotated
             $ annotate deploy web note-
             deployment.apps/web annotated
             $ scale deploy web --replicas=3
             deployment.apps/web scaled
             ! 1 scale deploy web --current-replicas=9 --replicas=1
             Expected replicas to be 9, was 3
             $ replace -f next.yaml
             deployment.apps/web replaced
             $ replace --force -f next.yaml
             deployment.apps \"web\" deleted
             deployment.apps/web replaced
             ! 1 replace -f none.yaml
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1.28",
        )
        .await;
    let edit = |editor: &'static str, arguments: &'static [&'static str]| {
        let mut command = kubectl.command(arguments);
        command.env("KUBE_EDITOR", editor);
        async move {
            let output = command.output().await.unwrap();
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).into_owned()
        }
    };
    let text = edit("sed -i s/replicas:.2/replicas:.9/", &["edit", "deploy", "web"]).await;
    assert!(text.contains("is invalid") || text.contains("edited"), "{text}");
    let text = edit("sed -i s/port:.80$/port:\\ 81/", &["edit", "svc", "web"]).await;
    assert!(text.contains("service/web edited"), "{text}");
    let text = edit("true", &["edit", "svc", "web"]).await;
    assert!(text.contains("no changes made"), "{text}");
    let arguments = &["edit", "svc", "web", "-o", "json"];
    let text = edit("sed -i s/:.81,/:82,/", arguments).await;
    assert!(text.contains("\"port\": 82"), "{text}");
    let text = edit("sed -i s/replicas:.*/replicas:\\ 4/", &["edit", "deploy", "web"]).await;
    assert!(text.contains("deployment.apps/web edited"), "{text}");
    let text = edit("sed -i s/1.28/1.29/", &["apply", "edit-last-applied", "deploy/web"]).await;
    assert!(text.contains("last-applied-configuration") || text.contains("edited"), "{text}");
    kubectl.play("$ get svc web -o 'jsonpath={.spec.ports[0].port}'\n= 82").await;
    kubectl.network.stop().await;
}

pub async fn sets(kubectl: Kubectl) {
    kubectl.network.file("web.yaml", WEB);
    kubectl
        .play(
            "$ apply -f web.yaml
             $ create configmap settings --from-literal=KEY=value
             $ set image deploy/web main=nginx:2
             deployment.apps/web image updated
             $ set env deploy/web A=b
             deployment.apps/web env updated
             $ set env deploy/web --from=configmap/settings --prefix=X_
             deployment.apps/web env updated
             $ set env deploy/web --list
             A=b
             X_KEY from configmap settings, key KEY
             $ set env deploy/web A-
             env updated
             $ set resources deploy/web --limits=cpu=200m,memory=1Gi --requests=cpu=100m
             deployment.apps/web resource requirements updated
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[0].resources.limits.cpu} {.spec.template.spec.containers[0].env[*].name}'
             = 200m X_KEY
             ! 1 set resources deploy/web --limits=cpu=50m
             must be less than or equal to cpu limit
             $ set selector svc web 'app=other'
             service/web selector updated
             $ set serviceaccount deploy web robot
             deployment.apps/web serviceaccount updated
             $ get deploy web -o 'jsonpath={.spec.template.spec.serviceAccountName} {.spec.template.spec.serviceAccount}'
             = robot robot
             $ get svc web -o 'jsonpath={.spec.selector}'
             = {\"app\":\"other\"}",
        )
        .await;
    kubectl.network.stop().await;
}
