//! What services become in a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_compose::{HealthCheck, ObjectsError, Protocol, ServiceImage, objects, published};
use serde_json::{Value, json};

use super::support::{Folder, Plan, one, web};

fn image(reference: &str) -> ServiceImage {
    ServiceImage {
        reference: reference.to_owned(),
        digest: Some("sha256:1".to_owned()),
        ..ServiceImage::default()
    }
}

#[test]
fn a_service_is_a_deployment_that_rolls_without_a_gap() {
    let images = BTreeMap::from([("web".to_owned(), image("nginx:1"))]);
    let plan = one("services:\n  web: {image: nginx}\n").plan(&images);
    let expected = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "app",
            "labels": {
                "app.kubernetes.io/name": "web",
                "app.kubernetes.io/part-of": "app",
                "app.kubernetes.io/managed-by": "berth",
                "berth.dev/project": "app",
                "berth.dev/service": "web",
            },
        },
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 3,
            "minReadySeconds": 1,
                "progressDeadlineSeconds": 120,
            "selector": {
                "matchLabels": { "berth.dev/project": "app", "berth.dev/service": "web" },
            },
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 },
            },
            "template": {
                "metadata": {
                    "labels": {
                        "app.kubernetes.io/name": "web",
                        "app.kubernetes.io/part-of": "app",
                        "app.kubernetes.io/managed-by": "berth",
                        "berth.dev/project": "app",
                        "berth.dev/service": "web",
                        "network.berth.dev/default": "true",
                    },
                    "annotations": { "berth.dev/image-digest": "sha256:1" },
                },
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": "web",
                        "image": "nginx:1",
                        "imagePullPolicy": "IfNotPresent",
                    }],
                },
            },
        },
    });
    assert_eq!(*plan.get("Deployment", "web"), expected);
    assert_eq!(
        plan.names(),
        ["Namespace/app", "NetworkPolicy/network-default", "Service/web", "Deployment/web"]
    );
}

#[test]
fn the_image_tells_ports_volumes_and_health() {
    let image = ServiceImage {
        reference: "registry/x".to_owned(),
        exposed_ports: vec![(5432, Protocol::Tcp)],
        volumes: vec!["/var/lib/data/".to_owned(), "/cache".to_owned()],
        healthcheck: Some(HealthCheck {
            command: Some(vec!["check".to_owned()]),
            ..HealthCheck::default()
        }),
        digest: None,
    };
    let images = BTreeMap::from([("db".to_owned(), image)]);
    let folder = Folder::new(&[
        ("Dockerfile", "FROM scratch"),
        (
            "compose.yaml",
            "services: {db: {build: ., volumes: ['data:/var/lib/data']}}\nvolumes: {data: }",
        ),
    ]);
    let plan = folder.plan(&images);
    let container = plan.container("db");
    assert_eq!(container["imagePullPolicy"], "Never");
    assert_eq!(container["ports"], json!([{ "containerPort": 5432, "protocol": "TCP" }]));
    assert_eq!(
        container["volumeMounts"],
        json!([
            { "mountPath": "/var/lib/data", "name": "volume-0" },
            { "mountPath": "/cache", "name": "data-1" },
        ])
    );
    assert_eq!(container["readinessProbe"]["exec"]["command"], json!(["check"]));
    assert_eq!(plan.get("Service", "db")["spec"]["ports"][0]["name"], "tcp-5432");
    assert_eq!(plan.get("Deployment", "db")["spec"]["strategy"], json!({ "type": "Recreate" }));
    let project = folder.project();
    assert_eq!(
        objects(&project, &BTreeMap::new()),
        Err(ObjectsError::Image { service: "db".to_owned() })
    );
}

#[test]
fn health_checks_are_startup_and_readiness_and_never_liveness() {
    let plan = web(
        "healthcheck: {test: 'curl -f localhost', interval: 5s, timeout: 3500ms, retries: 4, start_period: 30s, start_interval: 2s}",
    );
    let container = plan.container("web");
    let command = json!({ "command": ["/bin/sh", "-c", "curl -f localhost"] });
    assert_eq!(
        container["startupProbe"],
        json!({ "exec": command, "periodSeconds": 2, "timeoutSeconds": 4, "failureThreshold": 25 })
    );
    assert_eq!(
        container["readinessProbe"],
        json!({ "exec": command, "periodSeconds": 5, "timeoutSeconds": 4, "failureThreshold": 4 })
    );
    assert!(container.get("livenessProbe").is_none());
    for none in ["healthcheck: {disable: true, test: [CMD, x]}", "healthcheck: {test: [NONE]}"] {
        assert!(web(none).container("web").get("readinessProbe").is_none(), "{none}");
    }
    let slow = web("healthcheck: {test: [CMD, x], interval: 1m, retries: 10}");
    let deadline =
        slow.get("Deployment", "web")["spec"]["progressDeadlineSeconds"].as_u64().unwrap();
    assert!(Duration::from_secs(deadline) > Duration::from_secs(600), "{deadline}");
}

#[test]
fn entry_point_and_command_replace_what_docker_would_replace() {
    let words = |body: &str| {
        let plan = web(body);
        let container = plan.container("web");
        (container["command"].clone(), container["args"].clone())
    };
    assert_eq!(words("command: 'a \"b c\"'"), (Value::Null, json!(["a", "b c"])));
    assert_eq!(words("entrypoint: [e], command: [a]"), (json!(["e"]), json!(["a"])));
    assert_eq!(words("entrypoint: [], command: [a]"), (json!(["a"]), Value::Null));
    assert_eq!(
        words("command: ['$$(date) $$$$x $$HOME']"),
        (Value::Null, json!(["$$(date) $$$$x $$HOME"]))
    );
    assert_eq!(words("command: ['$$HOME']"), (Value::Null, json!(["$HOME"])));
}

#[test]
fn published_ports_are_load_balancers_and_open_to_all() {
    let folder = one(
        "services:\n  web: {image: a, ports: ['8080:80', '127.0.0.1:9090-9091:9090-9091', '53/udp']}\n",
    );
    let plan = folder.plan(&BTreeMap::new());
    let first = plan.get("Service", "web-published");
    assert_eq!(first["spec"]["type"], "LoadBalancer");
    assert_eq!(
        first["spec"]["ports"],
        json!([{ "name": "tcp-8080", "port": 8080, "targetPort": 80, "protocol": "TCP" }])
    );
    let second = plan.get("Service", "web-published-2");
    assert_eq!(
        second["metadata"]["annotations"],
        json!({ "berth.dev/listen-address": "127.0.0.1" })
    );
    assert_eq!(second["spec"]["ports"].as_array().unwrap().len(), 2);
    let third = plan.get("Service", "web-published-3");
    assert_eq!(third["spec"]["type"], "NodePort");
    assert!(third["spec"]["ports"][0].get("nodePort").is_none());
    let open = &plan.get("NetworkPolicy", "web-published")["spec"]["ingress"];
    assert_eq!(open[0]["ports"].as_array().unwrap().len(), 4);
    assert!(open[0].get("from").is_none());
    let shown: Vec<String> = published(&folder.project())
        .iter()
        .map(|p| format!("{} {}:{:?}>{}/{}", p.service, p.host, p.port, p.target, p.protocol))
        .collect();
    assert_eq!(
        shown,
        [
            "web localhost:Some(8080)>80/tcp",
            "web 127.0.0.1:Some(9090)>9090/tcp",
            "web 127.0.0.1:Some(9091)>9091/tcp",
            "web localhost:None>53/udp",
        ]
    );
}

#[test]
fn long_names_stay_valid() {
    let long = "a".repeat(63);
    let plan =
        one(&format!("services:\n  {long}: {{image: a, ports: ['1:1']}}\n")).plan(&BTreeMap::new());
    let names = plan.names();
    let names: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("Service/")).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
}

#[test]
fn services_without_known_ports_are_headless() {
    let plan = web("tty: true");
    let spec = &plan.get("Service", "web")["spec"];
    assert_eq!(spec["clusterIP"], "None");
    assert_eq!(spec["publishNotReadyAddresses"], false);
    let plan = web("expose: [80], container_name: front");
    assert!(plan.get("Service", "web")["spec"].get("clusterIP").is_none());
    assert_eq!(plan.get("Service", "front")["spec"], plan.get("Service", "web")["spec"]);
}

#[test]
fn networks_are_policies() {
    let plan = one(
        "services:\n  web: {image: a, networks: [front, back]}\n  db: {image: a, networks: [back]}\n  lone: {image: a, network_mode: none}\n  host: {image: a, network_mode: host}\nnetworks: {front: , back: {internal: true}}\n",
    )
    .plan(&BTreeMap::new());
    let labels = |service: &str| {
        plan.get("Deployment", service)["spec"]["template"]["metadata"]["labels"].clone()
    };
    assert_eq!(labels("web")["network.berth.dev/front"], "true");
    assert!(labels("web").get("berth.dev/internal-only").is_none());
    assert_eq!(labels("db")["berth.dev/internal-only"], "true");
    let back = json!({ "matchLabels": { "network.berth.dev/back": "true" } });
    assert_eq!(
        plan.get("NetworkPolicy", "network-back")["spec"],
        json!({
            "podSelector": back,
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": back }] }],
        })
    );
    let internal = &plan.get("NetworkPolicy", "network-back-internal")["spec"];
    assert_eq!(internal["policyTypes"], json!(["Egress"]));
    assert_eq!(internal["egress"][0]["to"], json!([{ "podSelector": back }]));
    assert_eq!(internal["egress"][1]["ports"][0], json!({ "protocol": "UDP", "port": 53 }));
    assert!(plan.find("NetworkPolicy", "network-default").is_none());
    assert_eq!(
        plan.get("NetworkPolicy", "lone-isolated")["spec"]["policyTypes"],
        json!(["Ingress", "Egress"])
    );
    assert!(plan.find("Service", "lone").is_none());
    assert_eq!(plan.pod("host")["hostNetwork"], true);
    assert_eq!(plan.pod("host")["dnsPolicy"], "ClusterFirstWithHostNet");
    assert_eq!(
        plan.get("Namespace", "app")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "privileged"
    );
}

#[test]
fn secrets_and_configs_are_files_and_roll_their_services() {
    let folder = Folder::new(&[
        ("pw.txt", "one"),
        (
            "compose.yaml",
            "services:\n  web:\n    image: a\n    secrets: [pw, {source: key, target: api/key, mode: 0400}]\n    configs: [{source: conf, target: /etc/x.conf}, plain]\nsecrets: {pw: {file: pw.txt}, key: {environment: KEY}}\nconfigs: {conf: {content: 'port=${P:-1}'}, plain: {external: true, name: shared}}\n",
        ),
    ])
    .variable("KEY", "k");
    let plan = folder.plan(&BTreeMap::new());
    assert_eq!(plan.get("Secret", "pw")["data"], json!({ "content": "b25l" }));
    assert_eq!(plan.get("ConfigMap", "conf")["data"], json!({ "content": "port=1" }));
    assert!(plan.find("ConfigMap", "shared").is_none());
    let mounts = &plan.container("web")["volumeMounts"];
    assert_eq!(
        *mounts,
        json!([
            { "mountPath": "/run/secrets/pw", "subPath": "content", "readOnly": true, "name": "secret-0" },
            { "mountPath": "/run/secrets/api/key", "subPath": "content", "readOnly": true, "name": "secret-1" },
            { "mountPath": "/etc/x.conf", "subPath": "content", "readOnly": true, "name": "config-2" },
            { "mountPath": "/plain", "subPath": "shared", "readOnly": true, "name": "config-3" },
        ])
    );
    assert_eq!(plan.pod("web")["volumes"][1]["secret"]["defaultMode"], 0o400);
    let hash = |plan: &Plan| {
        plan.get("Deployment", "web")["spec"]["template"]["metadata"]["annotations"]["berth.dev/config-hash"].clone()
    };
    folder.write("pw.txt", "two");
    let changed = hash(&folder.plan(&BTreeMap::new()));
    assert!(changed.is_string());
    assert_ne!(hash(&plan), changed);
}

#[test]
fn volumes_are_claims_paths_and_memory() {
    let folder = one(
        "services:\n  web:\n    image: a\n    shm_size: 64m\n    volumes: ['data:/a', 'data:/b:ro', 'kept:/c', './x:/d', 'named:/e']\n    tmpfs: ['/t:size=1m']\nvolumes: {data: , kept: {external: true, name: old}, named: {driver_opts: {type: none, o: bind, device: ./dev}}}\n",
    );
    let plan = folder.plan(&BTreeMap::new());
    let claim = plan.get("PersistentVolumeClaim", "data");
    assert_eq!(
        claim["spec"],
        json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } })
    );
    assert!(plan.find("PersistentVolumeClaim", "old").is_none());
    assert!(plan.find("PersistentVolumeClaim", "named").is_none());
    let path = |name: &str| folder.path().join(name);
    assert_eq!(
        plan.pod("web")["volumes"],
        json!([
            { "name": "volume-0", "persistentVolumeClaim": { "claimName": "data" } },
            { "name": "volume-1", "persistentVolumeClaim": { "claimName": "old" } },
            { "name": "bind-2", "hostPath": { "path": path("x"), "type": "DirectoryOrCreate" } },
            { "name": "volume-3", "hostPath": { "path": path("dev"), "type": "DirectoryOrCreate" } },
            { "name": "memory-4", "emptyDir": { "medium": "Memory", "sizeLimit": "1048576" } },
            { "name": "shm-5", "emptyDir": { "medium": "Memory", "sizeLimit": "67108864" } },
        ])
    );
    assert_eq!(plan.container("web")["volumeMounts"][1]["readOnly"], true);
}

#[test]
fn what_others_wait_for_runs_once() {
    let plan = one(
        "services:\n  web: {image: a, depends_on: {job: {condition: service_completed_successfully}, retry: {condition: service_completed_successfully}}}\n  job: {image: a, healthcheck: {test: [CMD, x]}}\n  retry: {image: a, restart: on-failure}\n",
    )
    .plan(&BTreeMap::new());
    let job = plan.get("Pod", "job");
    assert_eq!(job["spec"]["restartPolicy"], "Never");
    assert_eq!(job["metadata"]["namespace"], "app");
    assert_eq!(job["metadata"]["labels"]["berth.dev/service"], "job");
    assert!(job["spec"]["containers"][0].get("readinessProbe").is_none());
    assert_eq!(plan.get("Pod", "retry")["spec"]["restartPolicy"], "OnFailure");
    let names = plan.names();
    assert_eq!(names.last().unwrap(), "Deployment/web");
    assert!(plan.find("Deployment", "job").is_none());
}

#[test]
fn containers_keep_their_settings() {
    let plan = web(
        "user: '1000:100', working_dir: /w, read_only: true, cap_add: [CAP_NET_ADMIN], cap_drop: [all], security_opt: ['no-new-privileges:true', seccomp=unconfined], stop_grace_period: 1m30s, stop_signal: INT, tty: true, stdin_open: true, hostname: box, extra_hosts: ['a=10.0.0.1', 'b:10.0.0.1'], dns: 1.1.1.1, dns_opt: ['ndots:2'], sysctls: {net.core.somaxconn: 1024}, pid: host, ipc: host, group_add: [7], cpus: 0.5, mem_limit: 1g, pids_limit: 9, ulimits: {nofile: {soft: 1, hard: 2}}, labels: {a.b/c: x}, deploy: {replicas: 3, resources: {reservations: {memory: 64m}}, labels: {d: y}}, platform: linux/arm64/v8",
    );
    let deployment = plan.get("Deployment", "web");
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(deployment["metadata"]["annotations"], json!({ "d": "y" }));
    let pod = plan.pod("web");
    assert_eq!(pod["terminationGracePeriodSeconds"], 90);
    assert_eq!(pod["os"], json!({ "name": "linux" }));
    assert_eq!(pod["hostPID"], true);
    assert_eq!(pod["hostIPC"], true);
    assert_eq!(pod["hostname"], "box");
    assert_eq!(pod["nodeSelector"], json!({ "kubernetes.io/arch": "arm64" }));
    assert_eq!(pod["hostAliases"], json!([{ "ip": "10.0.0.1", "hostnames": ["a", "b"] }]));
    assert_eq!(
        pod["dnsConfig"],
        json!({ "nameservers": ["1.1.1.1"], "options": [{ "name": "ndots", "value": "2" }] })
    );
    assert_eq!(
        pod["securityContext"],
        json!({ "supplementalGroups": [7], "sysctls": [{ "name": "net.core.somaxconn", "value": "1024" }] })
    );
    let container = plan.container("web");
    assert_eq!(container["workingDir"], "/w");
    assert_eq!(container["lifecycle"], json!({ "stopSignal": "SIGINT" }));
    assert_eq!(container["tty"], true);
    assert_eq!(container["stdin"], true);
    assert_eq!(
        container["resources"],
        json!({
            "limits": { "cpu": "500m", "memory": "1073741824" },
            "requests": { "cpu": "0", "memory": "67108864" },
        })
    );
    assert_eq!(
        container["securityContext"],
        json!({
            "runAsUser": 1000,
            "runAsGroup": 100,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "seccompProfile": { "type": "Unconfined" },
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
        })
    );
    assert_eq!(
        deployment["spec"]["template"]["metadata"]["annotations"],
        json!({
            "a.b/c": "x",
            "berth.dev/pids-limit": "9",
            "berth.dev/ulimits": "{\"nofile\":{\"soft\":1,\"hard\":2}}",
        })
    );
}

#[test]
fn users_by_name_are_left_to_the_node() {
    let plan = web("user: postgres");
    assert!(plan.container("web").get("securityContext").is_none());
    let annotations = &plan.get("Deployment", "web")["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["user.berth.dev/web"], "postgres");
    assert_eq!(web("user: root").container("web")["securityContext"], json!({ "runAsUser": 0 }));
}

#[test]
fn updates_may_be_asked_to_stop_first() {
    let strategy =
        |body: &str| web(body).get("Deployment", "web")["spec"]["strategy"]["type"].clone();
    assert_eq!(strategy("volumes: ['/x:/x']"), "Recreate");
    assert_eq!(strategy("volumes: ['/x:/x:ro']"), "RollingUpdate");
    assert_eq!(
        strategy("volumes: ['/x:/x'], deploy: {update_config: {order: start-first}}"),
        "RollingUpdate"
    );
    let plan = web("deploy: {update_config: {order: stop-first}}");
    assert_eq!(
        plan.get("Deployment", "web")["spec"]["strategy"]["rollingUpdate"],
        json!({ "maxSurge": 0, "maxUnavailable": 1 })
    );
}
