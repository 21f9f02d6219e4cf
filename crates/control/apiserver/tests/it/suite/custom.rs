//! Kinds that users define, with kubectl, and the Gateway API's own.

use crate::custom::gateway::FILES;
use crate::script::Kubectl;

const DEFINITION: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        description: A table of times.
        properties:
          spec:
            type: object
            description: What is wanted.
            required: [cronSpec]
            properties:
              cronSpec: {type: string, pattern: '^[0-9*/ ]+$', description: When.}
              image: {type: string, default: busybox}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
            x-kubernetes-validations:
            - {rule: 'self.replicas < 10', message: too many}
          status: {type: object, properties: {replicas: {type: integer}, labelSelector: {type: string}}}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
    selectableFields: [{jsonPath: .spec.image}]
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Image, type: string, jsonPath: .spec.image, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
";
const OBJECT: &str = "apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: one}
spec: {cronSpec: '* * * * */5'}
";

/// Everything that is done with a kind and its objects, to the end of both.
const SESSION: &str = "$ apply -f crd.yaml
             customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created
             $ wait --for=condition=Established crd/crontabs.stable.example.com --timeout=10s
             condition met
             $ get crd
             crontabs.stable.example.com
             CREATED AT
             $ describe crd crontabs.stable.example.com
             the initial names have been accepted
             $ api-resources --api-group=stable.example.com
             crontabs   ct           stable.example.com/v1   true         CronTab
             $ explain ct
             A table of times.
             $ explain crontab.spec.cronSpec
             When.
             $ explain ct --recursive
             replicas
             $ create -f one.yaml
             crontab.stable.example.com/one created
             $ get ct
             NAME   SPEC          REPLICAS   AGE
             ~ IMAGE
             $ get ct one -o wide
             busybox
             $ get all
             crontab.stable.example.com/one
             $ get crontabs.stable.example.com one -o 'jsonpath={.spec.image} {.metadata.generation}'
             = busybox 1
             ! 1 create -f unknown.yaml
             unknown field \"spec.imaeg\"
             ! 1 apply -f wrong.yaml
             too many
             $ apply -f two.yaml
             $ get ct --field-selector=spec.image=nginx -o name
             = crontab.stable.example.com/two
             $ get ct --sort-by=.metadata.name -o name
             crontab.stable.example.com/one
             $ scale ct/two --replicas=3
             scaled
             $ get ct two -o 'jsonpath={.spec.replicas}'
             = 3
             ! 1 patch ct two -p '{\"spec\":{\"replicas\":4}}'
             is not supported by stable.example.com/v1, Kind=CronTab
             $ patch ct two --type=merge -p '{\"spec\":{\"replicas\":4}}'
             patched
             $ patch ct two --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":5}]'
             patched
             $ patch ct two --type=merge --subresource=status -p '{\"status\":{\"replicas\":5}}'
             patched
             $ label ct two a=b
             labeled
             $ annotate ct two c=d
             annotated
             $ get ct -l a=b -o name
             = crontab.stable.example.com/two
             $ apply --server-side --field-manager=other -f one.yaml
             serverside-applied
             $ diff -f one.yaml
             $ get events
             $ describe ct two
             Cron Spec:  * * * * */5
             $ delete ct two
             deleted
             $ delete -f crd.yaml --timeout=20s
             deleted
             ! 1 get ct
             the server could not find the requested resource
             $ apply -f crd.yaml
             $ get ct
             No resources found";

pub async fn defines(kubectl: Kubectl) {
    let network = &kubectl.network;
    network.file("crd.yaml", DEFINITION);
    network.file("one.yaml", OBJECT);
    network.file(
        "two.yaml",
        &OBJECT.replace("one", "two").replace("spec: {", "spec: {image: nginx, "),
    );
    network.file("unknown.yaml", &OBJECT.replace("spec: {", "spec: {imaeg: x, "));
    network.file("wrong.yaml", &OBJECT.replace("spec: {", "spec: {replicas: 10, "));
    kubectl.play(SESSION).await;
}

pub async fn installs_the_gateway_api(kubectl: Kubectl) {
    let network = &kubectl.network;
    network.file("gateway.yaml", &FILES.join("\n---\n"));
    network.file(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: g}]
  hostnames: [x.example]
  rules: [{backendRefs: [{name: web, port: 80}]}]
",
    );
    kubectl
        .play(
            "$ apply --server-side -f gateway.yaml
             httproutes.gateway.networking.k8s.io serverside-applied
             $ wait --for=condition=Established crd --all --timeout=20s
             condition met
             $ apply -f route.yaml
             httproute.gateway.networking.k8s.io/web created
             $ apply -f route.yaml
             # kubectl compares lists as a whole, and sees the defaults in them as changes; they are none
             $ get httproute web -o 'jsonpath={.metadata.generation}'
             = 1
             $ get httproutes
             x.example
             $ explain httproute.spec.rules.filters.requestMirror
             backendRef
             $ apply --server-side -f gateway.yaml
             serverside-applied
             $ delete -f route.yaml
             deleted",
        )
        .await;
}
