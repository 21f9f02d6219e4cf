//! create with all generators, run, expose, autoscale; every kind there is.

use crate::samples::{MANIFESTS, samples};
use crate::script::Kubectl;

pub async fn creates(kubectl: Kubectl) {
    let network = &kubectl.network;
    let issued = network.authority.server(&["x.example".into()]).unwrap();
    network.file("tls.crt", &issued.certificate);
    network.file("tls.key", &issued.key);
    network.file("file.txt", "content\n");
    network.file("env.txt", "ONE=1\nTWO=2\n");
    kubectl
        .play(
            "$ create namespace n
             namespace/n created
             ! 1 create namespace n
             Error from server (AlreadyExists): namespaces \"n\" already exists
             $ create deployment web --image=nginx:1.27 --replicas=2 --port=80
             deployment.apps/web created
             $ create configmap c --from-literal=a=b --from-file=file.txt
             $ create configmap d --from-env-file=env.txt --append-hash
             configmap/d-
             $ create secret generic s --from-literal=a=b --from-file=file.txt
             $ get secret s -o 'jsonpath={.data.a} {.type}'
             = Yg== Opaque
             $ create secret docker-registry r --docker-username=u --docker-password=p --docker-email=e@x.example
             $ get secret r -o 'jsonpath={.type}'
             = kubernetes.io/dockerconfigjson
             $ create secret tls t --cert=tls.crt --key=tls.key
             $ get secret t -o 'jsonpath={.type}'
             = kubernetes.io/tls
             $ create service clusterip a --tcp=80:8080
             $ create service clusterip headless --clusterip=None
             $ create service nodeport b --tcp=80
             $ create service loadbalancer c --tcp=443:8443
             $ create service externalname d --external-name=x.example
             $ get svc
             headless
             x.example
             <pending>
             $ create serviceaccount robot
             serviceaccount/robot created
             $ create quota q --hard=pods=30,configmaps=90
             resourcequota/q created
             $ create poddisruptionbudget p --selector=app=web --min-available=1
             poddisruptionbudget.policy/p created
             $ get pdb
             NAME   MIN AVAILABLE   MAX UNAVAILABLE   ALLOWED DISRUPTIONS   AGE
             $ create priorityclass high --value=100 --description=x
             priorityclass.scheduling.k8s.io/high created
             $ create job j --image=busybox -- date
             job.batch/j created
             $ create cronjob cj --image=busybox --schedule='*/5 * * * *' -- date
             cronjob.batch/cj created
             $ create job from --from=cronjob/cj
             job.batch/from created
             $ get job from -o 'jsonpath={.metadata.ownerReferences[0].kind} {.spec.template.spec.containers[0].command}'
             = CronJob [\"date\"]
             $ create ingress i --class=x --rule='a.example.com/path*=web:80'
             ingress.networking.k8s.io/i created
             $ create deployment dry --image=x --dry-run=server -o yaml
             uid:
             ! 1 get deploy dry
             $ run p --image=nginx --port=80 --labels=app=p --env=A=b --expose
             service/p created
             pod/p created
             $ expose deployment web --name=front --port=80 --target-port=8080 --type=NodePort
             service/front exposed
             $ autoscale deployment web --min=1 --max=3 --cpu-percent=50
             horizontalpodautoscaler.autoscaling/web autoscaled
             $ get hpa
             Deployment/web
             <unknown>/50%",
        )
        .await;
    kubectl.network.stop().await;
}

/// Kinds these clients describe by versions that have never been stable.
const YOUNG: [&str; 3] = ["IPAddress", "ServiceCIDR", "VolumeAttributesClass"];

pub async fn creates_every_kind(kubectl: Kubectl) {
    let file = |skipped: &[&str]| {
        let skips =
            |text: &str| skipped.iter().any(|kind| text.contains(&format!("kind: {kind}\n")));
        let kept: Vec<_> = MANIFESTS.split("\n---\n").filter(|text| !skips(text)).collect();
        kept.join("\n---\n")
    };
    kubectl.network.file("all.yaml", MANIFESTS);
    kubectl.network.file("described.yaml", &file(&YOUNG));
    // A Job cannot be replaced by what lacks the selector it was given.
    kubectl.network.file("replaced.yaml", &file(&["Job"]));
    let each = |verb: &str, skipped: &[&str]| {
        let said: Vec<_> = samples()
            .iter()
            .filter(|sample| !skipped.contains(&sample.resource.kind))
            .map(|sample| {
                let group = match sample.resource.group {
                    "" => String::new(),
                    group => format!(".{group}"),
                };
                let name = sample.object["metadata"]["name"].as_str().unwrap();
                format!("{}{group}/{name} {verb}", sample.resource.singular)
            })
            .collect();
        said.join("\n")
    };
    let kinds: Vec<_> =
        samples().iter().map(|sample| format!("kind: {}", sample.resource.kind)).collect();
    kubectl
        .play(&format!(
            "$ create -f all.yaml\n{}\n$ label -f all.yaml seen=yes\n{}\n$ get -f all.yaml -o wide\nsample\n\
             $ get -f all.yaml -o yaml\n{}\n$ describe -f described.yaml\nsample\n\
             $ replace -f replaced.yaml\n{}\n$ apply --server-side -f all.yaml --force-conflicts\n{}",
            each("created", &[]),
            each("labeled", &[]),
            kinds.join("\n"),
            each("replaced", &["Job"]),
            each("serverside-applied", &[]),
        ))
        .await;
    kubectl.network.stop().await;
}
