//! What happens around a container's start and end: hooks, probes, deadlines, last words. With kubectl, as people look at it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Berth, create, until};

const SHORT: Duration = Duration::from_secs(20);
const SPACE: &str = "life";

#[test]
fn containers_begin_and_end_as_their_pods_say() {
    let berth = Berth::new("life", 182);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.kubectl(&["create", "namespace", SPACE]).good();
    berth.kubectl(&["create", "service", "clusterip", "my-db", "-n", SPACE, "--tcp=5432"]).good();
    for pod in [hooked(), failing(), gated(), probed(), overdue()] {
        create(&berth, &[pod]).good();
    }
    hooks_run_around_the_container(&berth);
    a_hook_that_fails_is_told_and_the_container_tried_again(&berth);
    the_log_stands_in_for_a_last_message(&berth);
    a_gate_keeps_a_pod_from_being_ready(&berth);
    probes_see_what_they_should(&berth);
    a_pod_that_takes_too_long_fails(&berth);
}

fn container(name: &str, line: &str) -> Value {
    json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", line]})
}

fn pod(name: &str, containers: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SPACE},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 10}})
}

fn exec(line: &str) -> Value {
    json!({"exec": {"command": ["sh", "-c", line]}})
}

fn field(berth: &Berth, pod: &str, path: &str) -> String {
    let path = format!("jsonpath={path}");
    berth.kubectl(&["get", "pod", pod, "-n", SPACE, "-o", &path]).good()
}

fn events(berth: &Berth, pod: &str) -> String {
    let about = format!("involvedObject.name={pod}");
    berth.kubectl(&["get", "events", "-n", SPACE, "--field-selector", &about]).good()
}

/// Its first container waits until somebody lets its hook go on; the second starts after that. On its end it tells a server.
fn hooked() -> Value {
    let mut main = container("main", "trap 'sleep 0.5; exit 0' TERM; while :; do sleep 0.1; done");
    main["lifecycle"] = json!({
        "postStart": exec("while [ ! -e /tmp/go ]; do sleep 0.05; done; echo done > /tmp/post"),
        "preStop": {"httpGet": {"port": 8080, "path": "/cgi-bin/x"}},
    });
    // The first process of a container heeds no signal it has no handler for, so this one serves to the end.
    let mut pod = pod("hooked", &[main, server("second")]);
    pod["spec"]["terminationGracePeriodSeconds"] = 4.into();
    pod
}

/// Writes down what it is asked and redirects to elsewhere.
fn server(name: &str) -> Value {
    let script = "#!/bin/sh\necho asked $REQUEST_METHOD $HTTP_USER_AGENT >> /tmp/asked\n\
                  printf 'Status: 302 Found\\r\\nLocation: http://elsewhere.invalid/\\r\\n\\r\\n'\n";
    let line = "mkdir -p /www/cgi-bin; printf %s \"$SCRIPT\" > /www/cgi-bin/x; \
                chmod +x /www/cgi-bin/x; exec httpd -f -p 8080 -h /www";
    let mut server = container(name, line);
    server["env"] = json!([{"name": "SCRIPT", "value": script}]);
    server
}

fn hooks_run_around_the_container(berth: &Berth) {
    let on = |words: &[&str]| {
        let line = [&["exec", "-n", SPACE, "hooked"], words].concat();
        berth.kubectl(&line)
    };
    until("the hook runs", SHORT, || on(&["-c", "main", "--", "true"]).code == 0);
    let state = "{.status.containerStatuses[*].state.waiting.reason}";
    assert_eq!(field(berth, "hooked", state), "ContainerCreating ContainerCreating");
    assert_ne!(on(&["-c", "second", "--", "true"]).code, 0, "the second waits for the hook");
    on(&["-c", "main", "--", "touch", "/tmp/go"]).good();
    berth.kubectl(&["wait", "-n", SPACE, "--for=condition=Ready", "pod/hooked"]).good();
    assert_eq!(on(&["-c", "main", "--", "cat", "/tmp/post"]).good(), "done\n");
    until("somebody listens", SHORT, || {
        on(&["-c", "second", "--", "sh", "-c", "netstat -ltn | grep -q :8080"]).code == 0
    });
    let follow = ["exec", "-n", SPACE, "hooked", "-c", "second", "--", "sh", "-c"];
    let asked = "touch /tmp/asked; until [ -s /tmp/asked ]; do sleep 0.02; done; cat /tmp/asked";
    let mut watching = berth.kubectl_command(&[&follow[..], &[asked]].concat());
    let watching = watching.stdout(std::process::Stdio::piped()).spawn().expect("kubectl starts");
    until("it is watched", SHORT, || {
        on(&["-c", "second", "--", "test", "-e", "/tmp/asked"]).code == 0
    });
    let began = Instant::now();
    berth.kubectl(&["delete", "pod", "hooked", "-n", SPACE]).good();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let said = watching.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("asked GET kube-lifecycle/"), "{said}{}", events(berth, "hooked"));
}

/// Its hook fails, and so does the container, without a message of its own.
fn failing() -> Value {
    let mut main = container("main", "echo started; sleep 600");
    main["lifecycle"] = json!({"postStart": exec("echo no luck; exit 3")});
    let mut last = container("last", "echo first; echo the disk is on fire; exit 4");
    last["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    let mut own = container("own", "echo said; echo written > /dev/termination-log; exit 5");
    own["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    let mut pod = pod("failing", &[last, own, main]);
    pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pod
}

fn a_hook_that_fails_is_told_and_the_container_tried_again(berth: &Berth) {
    let count = "{.status.containerStatuses[?(@.name==\"main\")].restartCount}";
    until("it was tried again", SHORT, || {
        field(berth, "failing", count).parse::<u32>().is_ok_and(|count| count >= 2)
    });
    let events = events(berth, "failing");
    let wanted = "PostStartHook failed: exit code 3: no luck";
    assert!(events.contains("FailedPostStartHook") && events.contains(wanted), "{events}");
}

fn the_log_stands_in_for_a_last_message(berth: &Berth) {
    let message = |name: &str| {
        let path = "{.status.containerStatuses[?(@.name==\"NAME\")].lastState.terminated.message}";
        field(berth, "failing", &path.replace("NAME", name))
    };
    until("they have ended", SHORT, || !message("last").is_empty() && !message("own").is_empty());
    assert_eq!(message("last"), "first\nthe disk is on fire");
    assert_eq!(message("own"), "written\n");
}

fn gated() -> Value {
    let mut pod = pod("gated", &[container("main", "sleep 600")]);
    pod["spec"]["readinessGates"] = json!([{"conditionType": "example.com/ok"}]);
    pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
    pod
}

fn a_gate_keeps_a_pod_from_being_ready(berth: &Berth) {
    let wait = |what: &str| {
        let condition = format!("--for=condition={what}");
        berth.kubectl(&["wait", "-n", SPACE, &condition, "pod/gated", "--timeout=20s"]).good()
    };
    wait("ContainersReady");
    // It knows the Services.
    let line = "echo $MY_DB_SERVICE_PORT";
    let link = ["exec", "-n", SPACE, "gated", "--", "sh", "-c", line];
    assert_eq!(berth.kubectl(&link).good(), "5432\n");
    let reason = "{.status.conditions[?(@.type==\"Ready\")].reason}";
    assert_eq!(field(berth, "gated", reason), "ReadinessGatesNotReady");
    let patch = r#"{"status":{"conditions":[{"type":"example.com/ok","status":"True"}]}}"#;
    let line = ["patch", "pod", "gated", "-n", SPACE, "--subresource=status", "--type=strategic"];
    berth.kubectl(&[&line[..], &["-p", patch]].concat()).good();
    wait("Ready");
    let kept = "{.status.conditions[?(@.type==\"example.com/ok\")].status}";
    assert_eq!(field(berth, "gated", kept), "True");
}

/// Ready by HTTP through a redirect; never alive by gRPC, since nobody speaks it, with a grace period of the probe's own.
fn probed() -> Value {
    let mut ready = server("ready");
    ready["readinessProbe"] =
        json!({"httpGet": {"port": 8080, "path": "/cgi-bin/x"}, "periodSeconds": 1});
    let mut dead = container("dead", "trap '' TERM; while :; do sleep 0.1; done");
    dead["livenessProbe"] = json!({"grpc": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1,
        "terminationGracePeriodSeconds": 1});
    let mut pod = pod("probed", &[ready, dead]);
    pod["spec"]["terminationGracePeriodSeconds"] = 600.into();
    pod
}

fn probes_see_what_they_should(berth: &Berth) {
    until("the server that redirects is ready", SHORT, || {
        let path = "{.status.containerStatuses[?(@.name==\"ready\")].ready}";
        field(berth, "probed", path) == "true"
    });
    until("the other was killed for its probe, within the probe's own time", SHORT, || {
        let path = "{.status.containerStatuses[?(@.name==\"dead\")].lastState.terminated.exitCode}";
        field(berth, "probed", path) == "137"
    });
    let events = events(berth, "probed");
    assert!(events.contains("Liveness probe failed: cannot connect to"), "{events}");
    // More urgent than the ten minutes that are under way.
    berth.kubectl(&["delete", "pod", "probed", "-n", SPACE, "--wait=false"]).good();
    berth.kubectl(&["delete", "pod", "probed", "-n", SPACE, "--grace-period=1"]).good();
}

fn overdue() -> Value {
    let mut pod = pod("overdue", &[container("main", "sleep 600")]);
    pod["spec"]["activeDeadlineSeconds"] = 2.into();
    pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pod
}

fn a_pod_that_takes_too_long_fails(berth: &Berth) {
    until("the deadline has passed", SHORT, || {
        field(berth, "overdue", "{.status.phase} {.status.reason}") == "Failed DeadlineExceeded"
    });
}
