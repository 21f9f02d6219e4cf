//! One container, as docker users run it.

use std::time::{Duration, Instant};

use crate::support::{Berth, free_port, http, until};

const SHORT: Duration = Duration::from_secs(20);

fn berth() -> Berth {
    let berth = Berth::new("one", 164);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth
}

#[test]
fn containers_run_stop_and_go_with_dockers_exit_codes() {
    let berth = berth();
    let run = |arguments: &[&str]| berth.berth(&[&["run", "--rm"], arguments].concat());
    assert_eq!(run(&["busybox", "echo", "hello"]).good(), "hello\n");
    assert_eq!(run(&["busybox", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(run(&["busybox", "no-such-command"]).code, 127);
    assert_eq!(run(&["busybox", "/etc/passwd"]).code, 126);
    let missing = run(&["localhost:1/no-such-image", "true"]).bad(125);
    assert!(missing.contains("localhost:1"), "{missing}");
    assert_eq!(
        run(&["-e", "GREETING=hi there", "busybox", "sh", "-c", "echo $GREETING"]).good(),
        "hi there\n"
    );
    assert_eq!(
        run(&["-u", "1000:1000", "-w", "/tmp", "busybox", "sh", "-c", "id -u; pwd"]).good(),
        "1000\n/tmp\n"
    );
    let both = run(&["busybox", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.output.as_str(), both.errors.as_str()), ("out\n", "err\n"));
    a_server_container(&berth);
    volumes_keep_what_is_written(&berth);
    until("nothing is left", SHORT, || berth.pods("berth-run", None).is_empty());
}

fn a_server_container(berth: &Berth) {
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let line = [
        "run", "-d", "--name", "web", "-p", &publish, "busybox", "httpd", "-f", "-p", "80", "-h",
        "/etc",
    ];
    assert_eq!(berth.berth(&line).good().trim(), "web");
    until("it answers", SHORT, || {
        http("GET", port, "/passwd", "").is_ok_and(|answer| answer.contains("root:"))
    });
    let taken = berth.berth(&["run", "-d", "-p", &publish, "busybox", "true"]).bad(125);
    assert!(taken.contains(&port.to_string()) && taken.contains("web"), "{taken}");
    assert_eq!(berth.berth(&["exec", "web", "--", "hostname"]).good(), "web\n");
    let began = Instant::now();
    berth.berth(&["stop", "web"]).good();
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(berth.berth(&["ps", "-a"]).good().contains("web"));
    berth.berth(&["rm", "web"]).good();
    assert!(!berth.berth(&["ps", "-a"]).good().contains("web"));
}

fn volumes_keep_what_is_written(berth: &Berth) {
    let directory = tempfile::tempdir().unwrap();
    let bind = format!("{}:/data", directory.path().display());
    berth
        .berth(&["run", "--rm", "-v", &bind, "busybox", "sh", "-c", "echo kept > /data/file"])
        .good();
    assert_eq!(std::fs::read_to_string(directory.path().join("file")).unwrap(), "kept\n");
    let readonly = format!("{bind}:ro");
    assert_ne!(
        berth.berth(&["run", "--rm", "-v", &readonly, "busybox", "touch", "/data/x"]).code,
        0
    );
}
