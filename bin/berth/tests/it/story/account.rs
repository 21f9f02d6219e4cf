//! A pod speaks to the API as its service account, with what is mounted into every pod.

use std::time::Duration;

use crate::support::{Berth, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// The machine's own curl, in a pod: it checks the server's certificate against the mounted one.
const POD: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: reader}]
---
apiVersion: v1
kind: Pod
metadata: {name: caller}
spec:
  serviceAccountName: reader
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    imagePullPolicy: Never
    command: [sleep, "600"]
    volumeMounts:
    - {name: usr, mountPath: /usr, readOnly: true}
    - {name: lib, mountPath: /lib, readOnly: true}
    - {name: lib64, mountPath: /lib64, readOnly: true}
  volumes:
  - {name: usr, hostPath: {path: /usr}}
  - {name: lib, hostPath: {path: /lib}}
  - {name: lib64, hostPath: {path: /lib64}}
"#;

#[test]
fn a_pod_asks_the_api_with_its_own_token_and_may_what_its_roles_say() {
    let berth = Berth::new("acc", 172);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    std::fs::write(berth.data.join("pod.yaml"), POD).unwrap();
    let file = berth.data.join("pod.yaml");
    // The machine's directories are not for ordinary pods.
    let label = "pod-security.kubernetes.io/enforce=privileged";
    berth.kubectl(&["label", "namespace", "default", label]).good();
    berth.kubectl(&["apply", "-f", file.to_str().unwrap()]).good();
    berth.kubectl(&["wait", "--for=condition=Ready", "pod/caller", "--timeout=30s"]).good();
    let ask = |path: &str| {
        let script = format!(
            "cd /var/run/secrets/kubernetes.io/serviceaccount && /usr/bin/curl -sS -m 10 --cacert ca.crt \
             -H \"Authorization: Bearer $(cat token)\" -w '\\n%{{http_code}} %{{ssl_verify_result}}' \
             https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT{path}"
        );
        berth.berth(&["exec", "caller", "--", "sh", "-c", &script]).good()
    };
    // The way there is set up when the node has heard of the Service.
    until("the API answers", PATIENCE, || ask("/version").ends_with("200 0"));
    let pods = ask("/api/v1/namespaces/default/pods");
    assert!(pods.contains("\"caller\"") && pods.ends_with("200 0"), "{pods}");
    let refused = ask("/api/v1/namespaces/default/secrets");
    assert!(refused.contains("system:serviceaccount:default:reader"), "{refused}");
    assert!(refused.ends_with("403 0"), "{refused}");
    let namespace = "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace";
    assert_eq!(berth.berth(&["exec", "caller", "--", "sh", "-c", namespace]).good(), "default");
    a_stolen_token_opens_nothing(&berth);
    let can = ["auth", "can-i", "list", "nodes", "--as", "system:serviceaccount:default:reader"];
    berth.kubectl(&can).bad(1);
    // Tokens and Secrets of pods are nobody else's on this machine.
    let pods = std::fs::metadata(berth.data.join("pods")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&pods) & 0o777, 0o700);
    // The components run with their own, small rights, and none of them is refused anything it needs.
    let log = std::fs::read_to_string(berth.data.with_extension("log")).unwrap();
    assert!(!log.contains("is forbidden"), "{log}");
}

/// What is tried first with the token of a pod that nobody gave any rights.
fn a_stolen_token_opens_nothing(berth: &Berth) {
    let pod = POD.rsplit("---").next().unwrap();
    let pod = pod.replace("serviceAccountName: reader", "serviceAccountName: default");
    let file = berth.data.join("thief.yaml");
    std::fs::write(&file, pod.replace("name: caller", "name: thief")).unwrap();
    berth.kubectl(&["apply", "-f", file.to_str().unwrap()]).good();
    berth.kubectl(&["wait", "--for=condition=Ready", "pod/thief", "--timeout=30s"]).good();
    let privileged = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"out"},"spec":{"hostPID":true,
        "containers":[{"name":"m","image":"busybox","securityContext":{"privileged":true}}]}}"#;
    let review = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#;
    let with = "-H \"Authorization: Bearer $(cat token)\"";
    let node = "/api/v1/nodes/node/proxy";
    let tries = [
        ("its own namespace's Secrets", with, "GET", "/api/v1/namespaces/default/secrets", "", 403),
        ("everybody's Secrets", with, "GET", "/api/v1/secrets", "", 403),
        ("a Secret by name", with, "GET", "/api/v1/namespaces/kube-system/secrets/x", "", 403),
        ("a pod with the host", with, "POST", "/api/v1/namespaces/default/pods", privileged, 403),
        (
            "another's token",
            with,
            "POST",
            "/api/v1/namespaces/default/serviceaccounts/reader/token",
            review,
            403,
        ),
        (
            "a command in another pod",
            with,
            "POST",
            "/api/v1/namespaces/default/pods/caller/exec?command=id",
            "",
            403,
        ),
        ("the node's pods", with, "GET", &format!("{node}/pods"), "", 403),
        (
            "the node's commands",
            with,
            "POST",
            &format!("{node}/exec/default/caller/main?command=id"),
            "",
            403,
        ),
        (
            "to be somebody else",
            &format!("{with} -H 'Impersonate-User: admin'"),
            "GET",
            "/api/v1/secrets",
            "",
            403,
        ),
        ("anything as nobody", "", "GET", "/api/v1/namespaces/default/pods", "", 401),
        (
            "anything with a made-up token",
            "-H 'Authorization: Bearer eyJhbGciOiJub25lIn0.e30.'",
            "GET",
            "/api/v1/pods",
            "",
            401,
        ),
    ];
    for (what, header, method, path, body, code) in tries {
        let script = format!(
            "cd /var/run/secrets/kubernetes.io/serviceaccount && /usr/bin/curl -sS -m 10 --cacert ca.crt {header} -X {method} \
             -H 'Content-Type: application/json' -d '{body}' -o /dev/null -w '%{{http_code}}' \
             \"https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT{path}\""
        );
        let said = berth.berth(&["exec", "thief", "--", "sh", "-c", &script]).good();
        assert_eq!(said, code.to_string(), "{what}");
    }
}
