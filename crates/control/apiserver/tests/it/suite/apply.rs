//! apply, diff, kustomize.

use super::WEB;
use crate::script::Kubectl;

const LIST: &str = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {a: b}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}, data: {a: b}}
";

pub async fn applies(kubectl: Kubectl) {
    let network = &kubectl.network;
    network.file("web.yaml", WEB);
    network.file("next.yaml", &WEB.replace("1.27", "1.28").replace("replicas: 2", "replicas: 3"));
    network.file("less.yaml", &WEB.replace("labels: {app: web}}\nspec", "labels: {}}\nspec"));
    network.file("wrong.yaml", &WEB.replace("replicas: 2", "replicaz: 2"));
    network.file("list.yaml", LIST);
    network.file("wrong-list.yaml", &LIST.replace("name: two", "nonsense: two"));
    std::fs::create_dir(network.folder.path().join("kustom")).unwrap();
    network.file("kustom/web.yaml", WEB);
    network.file(
        "kustom/kustomization.yaml",
        "namePrefix: x-\nresources: [web.yaml]\nconfigMapGenerator: [{name: g, literals: [a=b]}]\n",
    );
    kubectl
        .play(
            "$ apply -f web.yaml --dry-run=client
             deployment.apps/web created (dry run)
             $ apply -f web.yaml --dry-run=server
             deployment.apps/web created (server dry run)
             ! 1 get deploy web
             NotFound
             $ apply -f web.yaml
             deployment.apps/web created
             service/web created
             $ apply -f web.yaml
             deployment.apps/web unchanged
             service/web unchanged
             $ apply -f next.yaml
             deployment.apps/web configured
             service/web unchanged
             $ get deploy web -o 'jsonpath={.spec.replicas} {.spec.template.spec.containers[*].image} {.metadata.generation}'
             = 3 nginx:1.28 2
             $ apply -f less.yaml
             deployment.apps/web configured
             $ get deploy web -o 'jsonpath={.metadata.labels}'
             = 
             $ apply view-last-applied deploy/web
             image: nginx:1.27
             $ apply set-last-applied -f next.yaml
             deployment.apps/web configured
             $ apply view-last-applied deploy/web -o json
             nginx:1.28
             ! 1 apply -f wrong.yaml
             unknown field \"spec.replicaz\"
             $ apply --validate=ignore -f wrong.yaml
             configured
             $ apply -f list.yaml
             configmap/one created
             configmap/two created
             $ apply -f list.yaml
             configmap/two unchanged
             ! 1 apply -f wrong-list.yaml
             unknown field \"nonsense\"
             $ delete -f list.yaml
             configmap \"one\" deleted
             $ apply -k kustom
             configmap/x-g-
             deployment.apps/x-web created
             $ get deploy -l app=web -o name
             deployment.apps/x-web
             $ delete -k kustom --wait=false
             deployment.apps \"x-web\" deleted",
        )
        .await;
    kubectl.network.stop().await;
}

pub async fn applies_on_the_server(kubectl: Kubectl) {
    let network = &kubectl.network;
    network.file("web.yaml", WEB);
    network.file("next.yaml", &WEB.replace("1.27", "1.28"));
    network.file(
        "two.yaml",
        &WEB.replace(
            "ports: [{containerPort: 80}]}",
            "ports: [{containerPort: 80}]}\n      - {name: side, image: busybox}",
        ),
    );
    network.file("scaled.yaml", &WEB.replace("replicas: 2", "replicas: 7"));
    kubectl
        .play(
            "# From the client's side to the server's.
             $ apply -f web.yaml
             deployment.apps/web created
             $ apply --server-side -f next.yaml
             deployment.apps/web serverside-applied
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1.28
             $ apply view-last-applied deploy/web
             image: nginx:1.28
             $ apply -f next.yaml
             deployment.apps/web
             $ delete -f web.yaml --wait=false
             deleted
             # On the server from the beginning.
             $ apply --server-side -f two.yaml
             deployment.apps/web serverside-applied
             $ apply --server-side -f web.yaml
             serverside-applied
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].name}'
             = main
             $ scale deploy web --replicas=5
             deployment.apps/web scaled
             ! 1 apply --server-side -f web.yaml
             Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas
             ! 1 apply --server-side -f scaled.yaml --field-manager=other
             .spec.replicas
             $ apply --server-side -f scaled.yaml --field-manager=other --force-conflicts
             serverside-applied
             $ get deploy web -o 'jsonpath={.spec.replicas}'
             = 7
             $ apply --server-side -f scaled.yaml
             serverside-applied
             $ get deploy web --show-managed-fields -o 'jsonpath={range .metadata.managedFields[*]}{.manager}/{.operation} {end}'
             kubectl/Apply
             other/Apply
             $ apply --server-side --dry-run=server -f next.yaml --force-conflicts
             (server dry run)
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1.27",
        )
        .await;
    kubectl.network.stop().await;
}

pub async fn shows_differences(kubectl: Kubectl) {
    let network = &kubectl.network;
    network.file("web.yaml", WEB);
    network.file("next.yaml", &WEB.replace("1.27", "1.28"));
    kubectl
        .play(
            "! 1 diff -f web.yaml
             +kind: Deployment
             $ apply -f web.yaml
             created
             $ diff -f web.yaml
             ~ nginx
             ! 1 diff -f next.yaml
             -      - image: nginx:1.27
             +      - image: nginx:1.28
             ! 1 diff --server-side -f next.yaml
             +      - image: nginx:1.28
             $ get deploy web -o 'jsonpath={.spec.template.spec.containers[*].image}'
             = nginx:1.27",
        )
        .await;
    kubectl.network.stop().await;
}
