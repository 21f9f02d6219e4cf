//! Defaults as tables: where, under which condition, which value.
//!
//! A path goes through `[]` into every element of a list. A row applies where the parent of its last name exists, so a
//! parent that is itself a default stands before its children.

mod cluster;
mod workload;

use berth_objects::{Object, Quantity, Resource};
use serde_json::{Map, Value, json};

/// When a row applies, judged on the object that holds the last name.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// A neighbour has one of these values.
    Is(&'static str, &'static [&'static str]),
}
use When::{Always, Is};

type Row = (&'static str, When, &'static str);

const POD_SPEC: &[Row] = &[
    ("restartPolicy", Always, r#""Always""#),
    ("terminationGracePeriodSeconds", Always, "30"),
    ("dnsPolicy", Always, r#""ClusterFirst""#),
    ("securityContext", Always, "{}"),
    ("schedulerName", Always, r#""default-scheduler""#),
    ("volumes[].secret.defaultMode", Always, "420"),
    ("volumes[].configMap.defaultMode", Always, "420"),
    ("volumes[].downwardAPI.defaultMode", Always, "420"),
    ("volumes[].downwardAPI.items[].fieldRef.apiVersion", Always, r#""v1""#),
    ("volumes[].projected.defaultMode", Always, "420"),
    ("volumes[].projected.sources[].serviceAccountToken.expirationSeconds", Always, "3600"),
    ("volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion", Always, r#""v1""#),
    ("volumes[].hostPath.type", Always, r#""""#),
    ("volumes[].ephemeral.volumeClaimTemplate.spec.volumeMode", Always, r#""Filesystem""#),
];

const CONTAINER: &[Row] = &[
    ("terminationMessagePath", Always, r#""/dev/termination-log""#),
    ("terminationMessagePolicy", Always, r#""File""#),
    ("resources", Always, "{}"),
    ("ports[].protocol", Always, r#""TCP""#),
    ("env[].valueFrom.fieldRef.apiVersion", Always, r#""v1""#),
    ("lifecycle.postStart.httpGet.path", Always, r#""/""#),
    ("lifecycle.postStart.httpGet.scheme", Always, r#""HTTP""#),
    ("lifecycle.preStop.httpGet.path", Always, r#""/""#),
    ("lifecycle.preStop.httpGet.scheme", Always, r#""HTTP""#),
];

const PROBE: &[Row] = &[
    ("timeoutSeconds", Always, "1"),
    ("periodSeconds", Always, "10"),
    ("successThreshold", Always, "1"),
    ("failureThreshold", Always, "3"),
    ("httpGet.path", Always, r#""/""#),
    ("httpGet.scheme", Always, r#""HTTP""#),
    ("grpc.service", Always, r#""""#),
];

const POD: &[Row] = &[
    ("spec.enableServiceLinks", Always, "true"),
    ("spec.serviceAccountName", Always, r#""default""#),
];

const ROLLING: When = Is("type", &["RollingUpdate"]);

const DEPLOYMENT: &[Row] = &[
    ("spec.replicas", Always, "1"),
    ("spec.revisionHistoryLimit", Always, "10"),
    ("spec.progressDeadlineSeconds", Always, "600"),
    ("spec.strategy", Always, "{}"),
    ("spec.strategy.type", Always, r#""RollingUpdate""#),
    ("spec.strategy.rollingUpdate", ROLLING, "{}"),
    ("spec.strategy.rollingUpdate.maxUnavailable", Always, r#""25%""#),
    ("spec.strategy.rollingUpdate.maxSurge", Always, r#""25%""#),
];

const SERVICE: &[Row] = &[
    ("spec.type", Always, r#""ClusterIP""#),
    ("spec.sessionAffinity", Always, r#""None""#),
    ("spec.sessionAffinityConfig", Is("sessionAffinity", &["ClientIP"]), r#"{"clientIP": {}}"#),
    ("spec.sessionAffinityConfig.clientIP.timeoutSeconds", Always, "10800"),
    ("spec.ports[].protocol", Always, r#""TCP""#),
    ("spec.externalTrafficPolicy", Is("type", &["NodePort", "LoadBalancer"]), r#""Cluster""#),
    (
        "spec.internalTrafficPolicy",
        Is("type", &["ClusterIP", "NodePort", "LoadBalancer"]),
        r#""Cluster""#,
    ),
    ("spec.allocateLoadBalancerNodePorts", Is("type", &["LoadBalancer"]), "true"),
];

const VOLUME: &[Row] = &[
    ("spec.persistentVolumeReclaimPolicy", Always, r#""Retain""#),
    ("spec.volumeMode", Always, r#""Filesystem""#),
    ("spec.hostPath.type", Always, r#""""#),
];

const STORAGE_CLASS: &[Row] =
    &[("reclaimPolicy", Always, r#""Delete""#), ("volumeBindingMode", Always, r#""Immediate""#)];

const NETWORK_POLICY: &[Row] = &[
    ("spec.ingress[].ports[].protocol", Always, r#""TCP""#),
    ("spec.egress[].ports[].protocol", Always, r#""TCP""#),
];

const ENDPOINT_SLICE: &[Row] =
    &[("ports[].protocol", Always, r#""TCP""#), ("ports[].name", Always, r#""""#)];

pub(crate) fn apply(resource: &Resource, object: &mut Value) {
    if resource.group == "rbac.authorization.k8s.io" {
        crate::validate::rbac::defaults(object);
    }
    match (resource.group, resource.kind) {
        (berth_custom::GROUP, _) => berth_custom::default(object),
        ("", kind) => core(kind, object),
        ("apps" | "batch" | "autoscaling", _) => workloads(resource, object),
        ("storage.k8s.io", "StorageClass") => rows(object, STORAGE_CLASS),
        ("storage.k8s.io", "CSIDriver") => rows(object, cluster::CSI_DRIVER),
        ("networking.k8s.io", "NetworkPolicy") => network_policy(object),
        ("networking.k8s.io", "IngressClass") => rows(object, cluster::INGRESS_CLASS),
        ("discovery.k8s.io", "EndpointSlice") => rows(object, ENDPOINT_SLICE),
        ("scheduling.k8s.io", "PriorityClass") => rows(object, cluster::PRIORITY_CLASS),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy",
        ) => {
            cluster::admission_policy(object);
        }
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => {
            rows(object, cluster::ADMISSION_BINDING);
        }
        ("admissionregistration.k8s.io", kind) => {
            rows(object, cluster::WEBHOOKS);
            if kind == "MutatingWebhookConfiguration" {
                rows(object, cluster::MUTATING);
            }
        }
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => rows(object, cluster::FLOW_SCHEMA),
        ("flowcontrol.apiserver.k8s.io", _) => rows(object, cluster::PRIORITY_LEVEL),
        ("apiregistration.k8s.io", _) => rows(object, cluster::API_SERVICE),
        ("resource.k8s.io", "ResourceClaim") => cluster::device_requests(object, "/spec"),
        ("resource.k8s.io", "ResourceClaimTemplate") => {
            cluster::device_requests(object, "/spec/spec");
        }
        _ => {}
    }
}

pub(crate) use workload::autoscaler;

fn core(kind: &str, object: &mut Value) {
    match kind {
        "Pod" => {
            // What a node runs of its own has no account, and so has its mirror.
            let rows_of_kind = if crate::is_mirror(object) { &POD[..1] } else { POD };
            rows(object, rows_of_kind);
            if let Some(spec) = object.get_mut("spec") {
                pod_spec(spec);
                requests(spec);
                tolerations(spec);
            }
        }
        "Service" => service(object),
        "Namespace" => {
            let name = object.name().to_owned();
            object.set(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
        }
        "Secret" => rows(object, &[("type", Always, r#""Opaque""#)]),
        "PersistentVolume" => rows(object, VOLUME),
        "PersistentVolumeClaim" => rows(object, &VOLUME[1..2]),
        "Endpoints" => rows(object, cluster::ENDPOINTS),
        "ReplicationController" => workload::replication_controller(object),
        "PodTemplate" => workload::pod_template(object),
        "LimitRange" => cluster::limit_range(object),
        "Node" => cluster::node(object),
        _ => {}
    }
}

fn workloads(resource: &Resource, object: &mut Value) {
    match (resource.kind, resource.version) {
        ("Deployment", _) => {
            rows(object, DEPLOYMENT);
            template(object);
        }
        ("ReplicaSet", _) => {
            rows(object, &DEPLOYMENT[..1]);
            template(object);
        }
        ("StatefulSet", _) => workload::stateful_set(object),
        ("DaemonSet", _) => workload::daemon_set(object),
        ("Job", _) => workload::job(object),
        ("CronJob", _) => workload::cron_job(object),
        ("HorizontalPodAutoscaler", "v1") => workload::autoscaler_v1(object),
        ("HorizontalPodAutoscaler", _) => autoscaler(object),
        _ => {}
    }
}

fn rows(object: &mut Value, rows: &[Row]) {
    for (path, when, value) in rows {
        let names: Vec<&str> = path.split('.').collect();
        row(object, &names, *when, value);
    }
}

fn row(object: &mut Value, names: &[&str], when: When, value: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    match names {
        [] => {}
        [last] => {
            let applies = match when {
                Always => true,
                Is(neighbour, values) => fields
                    .get(neighbour)
                    .and_then(Value::as_str)
                    .is_some_and(|found| values.contains(&found)),
            };
            // An empty text is as good as none: that is how the typed API behaves.
            let absent = fields.get(*last).is_none_or(|found| found.is_null() || found == "");
            if applies && absent {
                let value = serde_json::from_str(value).expect("the tables hold JSON");
                fields.insert((*last).to_owned(), value);
            }
        }
        [first, rest @ ..] => match first.strip_suffix("[]") {
            Some(name) => {
                let items = fields.get_mut(name).and_then(Value::as_array_mut);
                for item in items.into_iter().flatten() {
                    row(item, rest, when, value);
                }
            }
            None => {
                if let Some(inner) = fields.get_mut(*first) {
                    row(inner, rest, when, value);
                }
            }
        },
    }
}

fn template(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Value) {
    rows(spec, POD_SPEC);
    // The old name of the same field; whichever is given stands in both.
    for (from, to) in
        [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")]
    {
        if let Some(account) = spec.get(from).cloned() {
            spec.set_default(&[to], account);
        }
    }
    let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten().filter_map(Value::as_object_mut) {
        if volume.len() == 1 && volume.contains_key("name") {
            volume.insert("emptyDir".into(), json!({}));
        }
    }
    let host_network = spec.flag(&["hostNetwork"]);
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            self::container(container, host_network);
        }
    }
}

fn container(container: &mut Value, host_network: bool) {
    rows(container, CONTAINER);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            rows(probe, PROBE);
        }
    }
    let image = container.text(&["image"]);
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    let policy = if latest { r#""Always""# } else { r#""IfNotPresent""# };
    row(container, &["imagePullPolicy"], Always, policy);
    if host_network {
        let ports = container.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            if let Some(number) = port.get("containerPort").cloned() {
                port.set_default(&["hostPort"], number);
            }
        }
    }
}

/// A limit without a request is a request, too.
fn requests(spec: &mut Value) {
    for field in ["initContainers", "containers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let limits = container.map(&["resources", "limits"]).cloned().unwrap_or_default();
            for (name, limit) in limits {
                container.set_default(&["resources", "requests", &name], limit);
            }
        }
    }
    // A pod that says only what it may use asks for what its containers do, else for all of it.
    let limits = spec.map(&["resources", "limits"]).cloned().unwrap_or_default();
    let asked = crate::usage::of_containers(spec, "requests");
    for (name, limit) in limits {
        let request = asked.get(&name).map_or(limit, |sum| sum.to_string().into());
        spec.set_default(&["resources", "requests", &name], request);
    }
}

/// A pod outlives a short absence of its node, unless it says otherwise.
fn tolerations(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = spec.list(&["tolerations"]).iter().any(|toleration| {
            let effect = toleration.text(&["effect"]);
            let any =
                toleration.text(&["key"]).is_empty() && toleration.text(&["operator"]) == "Exists";
            (any || toleration.text(&["key"]) == key) && ["", "NoExecute"].contains(&effect)
        });
        if !tolerated {
            let place = spec.place(&["tolerations"]);
            if !place.is_array() {
                *place = json!([]);
            }
            if let Some(all) = place.as_array_mut() {
                all.push(json!({"effect": "NoExecute", "key": key, "operator": "Exists",
                    "tolerationSeconds": 300}));
            }
        }
    }
}

fn service(object: &mut Value) {
    rows(object, SERVICE);
    let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        let target = port.get("targetPort");
        if target.is_none_or(|target| *target == 0 || *target == "")
            && let Some(number) = port.get("port").cloned()
        {
            port.set(&["targetPort"], number);
        }
    }
}

fn network_policy(object: &mut Value) {
    rows(object, NETWORK_POLICY);
    let egress = !object.list(&["spec", "egress"]).is_empty();
    let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    if object.get("spec").is_some_and(Value::is_object) {
        object.set_default(&["spec", "podSelector"], Map::new());
        if object.list(&["spec", "policyTypes"]).is_empty() {
            object.set(&["spec", "policyTypes"], types);
        }
    }
}

/// The quality of service the pod gets from its requests and limits.
pub(crate) fn quality(spec: &Value) -> &'static str {
    let resources = ["cpu", "memory"];
    // Resources of the pod as a whole stand for those of its containers.
    let of_pod = ["requests", "limits"].iter().any(|side| {
        let list = spec.map(&["resources", side]);
        list.is_some_and(|list| resources.iter().any(|name| list.contains_key(*name)))
    });
    let containers = || {
        let each = spec.list(&["initContainers"]).iter().chain(spec.list(&["containers"]));
        each.filter(move |_| !of_pod).chain(of_pod.then_some(spec))
    };
    let amount = |container: &Value, side: &str, name: &str| {
        let amount = container.text(&["resources", side, name]).parse::<Quantity>().ok()?;
        (amount > Quantity::ZERO).then_some(amount)
    };
    let any = containers().any(|container| {
        resources.iter().any(|name| {
            amount(container, "requests", name).or(amount(container, "limits", name)).is_some()
        })
    });
    let all = containers().all(|container| {
        resources.iter().all(|name| {
            let limit = amount(container, "limits", name);
            limit.is_some() && amount(container, "requests", name) == limit
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(plural: &str, group: &str, mut object: Value) -> Value {
        apply(crate::find(group, "v1", plural).unwrap(), &mut object);
        object
    }

    #[test]
    fn a_pod_gets_what_it_left_out() {
        let pod = run(
            "pods",
            "",
            json!({"spec": {"volumes": [{"name": "v"}], "containers": [
            {"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
             "readinessProbe": {"httpGet": {"port": 80}},
             "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
            {"name": "b", "image": "r.example:5000/x:1"}]}}),
        );
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["containers"][1]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(
            pod["spec"]["containers"][0]["readinessProbe"],
            json!({"httpGet":
            {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
            "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["memory"], "1Gi");
        assert_eq!(pod["spec"]["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(pod["spec"]["serviceAccount"], "default");
        assert_eq!(quality(&pod["spec"]), "Burstable");
        let again = run("pods", "", pod.clone());
        assert_eq!(again, pod, "defaults settle at once");
    }

    #[test]
    fn strategies_and_services_default_by_their_type() {
        let rolling = run("deployments", "apps", json!({"spec": {}}));
        assert_eq!(rolling["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        let recreate =
            run("deployments", "apps", json!({"spec": {"strategy": {"type": "Recreate"}}}));
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
        let service = run("services", "", json!({"spec": {"ports": [{"port": 80}]}}));
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
        assert_eq!(service["spec"]["internalTrafficPolicy"], "Cluster");
        assert!(service["spec"].get("externalTrafficPolicy").is_none());
    }
}
