//! The operations and the state of a container, as `runtime.md` of the specification has them.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Fixture, refused};

#[test]
fn the_state_says_all_that_is_required() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    let state = fixture.state();
    assert_eq!(state["id"], json!(fixture.name));
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(state["status"], "created");
    let bundle = fs::canonicalize(fixture.path("bundle")).unwrap();
    assert_eq!(state["bundle"], json!(bundle));
    assert_eq!(state["annotations"], json!({"note": "kept"}));
    let pid = state["pid"].as_i64().unwrap();
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    fixture.start();
    assert_eq!(
        (&fixture.state()["status"], &fixture.state()["pid"]),
        (&json!("running"), &json!(pid))
    );
    fixture.kill();
    assert_eq!(fixture.state()["status"], "stopped");
}

#[test]
fn operations_need_the_name_of_a_container_that_is_there() {
    let fixture = Fixture::new("true", &json!({}));
    for operation in ["state", "start", "kill", "delete", "create"] {
        let (code, output) = fixture.command(&[operation]);
        assert!(code != 0 && output.is_empty(), "{operation}");
    }
    for words in [
        &["state", "nobody"][..],
        &["start", "nobody"],
        &["kill", "nobody", "9"],
        &["delete", "nobody"],
    ] {
        assert!(fixture.bad(words).contains("does not exist"), "{words:?}");
    }
    let nowhere = fixture.path("nowhere").display().to_string();
    assert!(fixture.bad(&["create", "--bundle", &nowhere, &fixture.name]).contains("cannot open"));
}

#[test]
fn a_name_is_taken_once() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    let again = fixture.bad(&["create", "--bundle", &fixture.bundle(), &fixture.name]);
    assert!(again.contains("exists already"), "{again}");
    let taken = fixture.bad(&["create", "--bundle", &fixture.bundle(), "not/a/name"]);
    assert!(taken.contains("is no name"), "{taken}");
    fixture.good(&["delete", "--force", &fixture.name]);
    fixture.create();
    assert_eq!(fixture.state()["status"], "created", "a name is free after its container");
}

#[test]
fn nothing_of_the_program_runs_before_it_is_started() {
    let fixture = Fixture::new("echo ran > /out", &json!({}));
    fixture.create();
    assert!(!fixture.path("bundle/rootfs/out").exists());
    fixture.start();
    assert_eq!(fixture.until("out"), "ran\n");
}

#[test]
fn what_becomes_of_the_configuration_later_changes_nothing() {
    let fixture = Fixture::new("echo first > /out; sleep 1000", &json!({}));
    fixture.create();
    let path = fixture.path("bundle/config.json");
    fs::write(&path, "not even JSON").unwrap();
    fixture.start();
    assert_eq!(fixture.until("out"), "first\n");
    let entered = ["exec", &fixture.name, "sh", "-c", "echo second > /more"];
    fixture.good(&entered);
    assert_eq!(fixture.until("more"), "second\n");
    fixture.kill();
    fixture.good(&["delete", &fixture.name]);
}

#[test]
fn a_container_without_a_process_is_made_and_not_started() {
    let fixture = Fixture::new("true", &json!({"process": Value::Null}));
    fixture.create();
    assert_eq!(fixture.state()["status"], "created");
    assert!(fixture.bad(&["start", &fixture.name]).contains("no process to start"));
    assert_eq!(fixture.state()["status"], "created", "that changed nothing");
}

#[test]
fn what_is_wrong_is_an_error_and_leaves_nothing() {
    let more =
        json!({"mounts": [{"destination": "/x", "type": "no-such-file-system", "source": "none"}]});
    assert!(refused(&more).contains("`/x`"));
    assert!(refused(&json!({"process": {"args": ["/bin/none"]}})).contains("not found"));
    let limits = json!({"linux": {"resources": {"unified": {"no.such": "1"}}}});
    assert!(refused(&limits).contains("limit the cgroup"));
}

#[test]
fn only_created_containers_start() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.start();
    assert!(fixture.bad(&["start", &fixture.name]).contains("it is running"));
    assert_eq!(fixture.state()["status"], "running");
    fixture.kill();
    assert!(fixture.bad(&["start", &fixture.name]).contains("it is stopped"));
}

#[test]
fn the_signal_that_was_asked_for_arrives() {
    let line = "trap 'echo usr1 > /out' USR1; echo ready > /ready; while :; do sleep 0.05; done";
    let fixture = Fixture::new(line, &json!({}));
    fixture.create();
    fixture.start();
    fixture.until("ready");
    fixture.good(&["kill", &fixture.name, "SIGUSR1"]);
    assert_eq!(fixture.until("out"), "usr1\n");
}

#[test]
fn signals_reach_created_and_running_containers_alone() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.good(&["kill", &fixture.name, "KILL"]);
    fixture.until_status("stopped");
    assert!(fixture.bad(&["kill", &fixture.name, "KILL"]).contains("it is stopped"));
    assert_eq!(fixture.state()["status"], "stopped");
}

#[test]
fn only_stopped_containers_are_deleted() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    assert!(fixture.bad(&["delete", &fixture.name]).contains("it is created"));
    fixture.start();
    assert!(fixture.bad(&["delete", &fixture.name]).contains("it is running"));
    assert_eq!(fixture.state()["status"], "running");
    fixture.kill();
    fixture.good(&["delete", &fixture.name]);
}

#[test]
fn deleting_removes_what_was_made_and_nothing_else() {
    let fixture = Fixture::new(
        "mkdir /sys/fs/cgroup/pids/inner 2> /dev/null; sleep 1000",
        &json!({
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]}),
    );
    fixture.create();
    fixture.start();
    fixture.kill();
    fixture.good(&["delete", &fixture.name]);
    for place in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let cgroup = place.unwrap().path().join("berth-test").join(&fixture.name);
        assert!(!cgroup.exists(), "{}", cgroup.display());
    }
    assert!(
        fixture.path("bundle/config.json").exists()
            && fixture.path("bundle/rootfs/bin/sh").exists()
    );
}

#[test]
fn a_cgroup_that_was_there_stays_there() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    let place = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let root = place.iter().find(|it| fs::exists(format!("{it}/cgroup.procs")).unwrap()).unwrap();
    let own = std::path::Path::new(root).join("berth-test").join(&fixture.name);
    fs::create_dir_all(&own).unwrap();
    fixture.create();
    fixture.good(&["delete", "--force", &fixture.name]);
    let stays = own.exists();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let _not_there =
            fs::remove_dir(hierarchy.unwrap().path().join("berth-test").join(&fixture.name));
    }
    let _not_there = fs::remove_dir(&own);
    assert!(stays, "what the runtime has not made it does not remove");
}

#[test]
fn a_container_runs_without_anybody_who_waits() {
    let fixture = Fixture::new("echo here > /out; sleep 1000", &json!({}));
    let bundle = fixture.bundle();
    fixture.good(&["run", "--detach", "--bundle", &bundle, &fixture.name]);
    assert_eq!(fixture.state()["status"], "running");
    assert_eq!(fixture.until("out"), "here\n");
}

#[test]
fn what_has_run_stays_if_it_is_to_be_kept() {
    let fixture = Fixture::new("exit 9", &json!({}));
    let bundle = fixture.bundle();
    assert_eq!(fixture.command(&["run", "--keep", "--bundle", &bundle, &fixture.name]).0, 9);
    assert_eq!(fixture.state()["status"], "stopped");
}

#[test]
fn containers_and_processes_are_listed_as_tables_and_as_json() {
    let fixture = Fixture::new("sleep 1234", &json!({}));
    fixture.create();
    fixture.start();
    let table = fixture.good(&["list"]);
    assert!(table.starts_with("ID") && table.contains(&fixture.name) && table.contains("running"));
    assert_eq!(fixture.good(&["list", "-q"]).trim(), fixture.name);
    let all: Value = serde_json::from_str(&fixture.good(&["list", "--format=json"])).unwrap();
    assert_eq!(all[0]["id"], json!(fixture.name));
    let pid = fixture.state()["pid"].to_string();
    let table = fixture.good(&["ps", &fixture.name]);
    assert!(table.lines().count() == 2 && table.contains(&pid), "{table}");
    let chosen = fixture.good(&["ps", &fixture.name, "-o", "pid,comm"]);
    assert!(chosen.lines().nth(1).unwrap().contains(&pid), "{chosen}");
    assert!(fixture.bad(&["ps", &fixture.name, "-o", "comm"]).contains("PID"));
}

#[test]
fn what_is_used_is_told_once_or_until_the_end() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.start();
    let once: Value =
        serde_json::from_str(&fixture.good(&["events", "--stats", &fixture.name])).unwrap();
    assert_eq!((&once["type"], &once["id"]), (&json!("stats"), &json!(fixture.name)));
    let data = &once["data"];
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    assert_eq!((&data["pids"]["current"], &data["pids"]["limit"]), (&json!(1), &json!(64)));
    assert_eq!(data["network_interfaces"][0]["Name"], "lo");
    // One that ends by itself, while it is listened to.
    let fixture = Fixture::new("sleep 2", &json!({}));
    fixture.create();
    fixture.start();
    let stream = fixture.good(&["events", "--interval", "10ms", &fixture.name]);
    assert!(stream.lines().count() > 1, "{stream}");
    assert!(
        stream.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["type"] == "stats")
    );
    assert!(fixture.bad(&["events", "--stats", &fixture.name]).contains("stopped"));
}

#[test]
fn limits_are_changed_by_flags_too() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.good(&["update", "--pids-limit", "33", &fixture.name]);
    let stats: Value =
        serde_json::from_str(&fixture.good(&["events", "--stats", &fixture.name])).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 33);
    let (code, _) = fixture.command(&["update", "--pids-limit", "many", &fixture.name]);
    assert_eq!(code, 2, "that is wrong use");
}

#[test]
fn a_container_that_is_being_made_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display();
    let line = format!("echo > {at}/begun; while ! test -e {at}/on; do sleep 0.02; done");
    let hook =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin:/usr/bin"]}]);
    let fixture = Fixture::new("sleep 1000", &json!({"hooks": {"createRuntime": hook}}));
    std::thread::scope(|scope| {
        let making = scope.spawn(|| fixture.create());
        while !folder.path().join("begun").exists() && !making.is_finished() {
            std::thread::yield_now();
        }
        let during = fixture.state();
        let refused = [
            &["delete", "--force", &fixture.name][..],
            &["start", &fixture.name],
            &["kill", &fixture.name],
        ]
        .map(|words| fixture.command(words).0);
        fs::write(folder.path().join("on"), "").unwrap();
        making.join().unwrap();
        assert_eq!((&during["status"], &during["pid"]), (&json!("creating"), &json!(0)));
        assert_eq!(refused, [1; 3]);
    });
    assert_eq!(fixture.state()["status"], "created");
}

#[test]
fn what_somebody_left_who_was_killed_on_the_way_is_removed() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    let note = fixture.path("root").join(&fixture.name).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    let pid = state["pid"].take();
    state["pid"] = 0.into();
    fs::write(&note, state.to_string()).unwrap();
    assert_eq!(fixture.state()["status"], "stopped");
    fixture.good(&["delete", &fixture.name]);
    let gone = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(gone.is_empty() || gone.contains(") Z "), "{gone}");
}

#[test]
fn signals_for_real_time_are_signals() {
    let line = "trap 'echo 37 >> /told' 37; trap 'echo 62 >> /told; exit' 62; echo ready > /ready; while :; do sleep 0.01; done";
    let fixture = Fixture::new(line, &json!({}));
    fixture.create();
    fixture.start();
    fixture.until("ready");
    for no_signal in ["0", "65", "-1", "RTMIN+31", "RTMAX-x", "RTMIN-1", "RTMAX+1", "NOTHING", ""] {
        let said = fixture.bad(&["kill", &fixture.name, "--", no_signal]);
        assert!(said.contains("is no signal"), "{no_signal}: {said}");
    }
    fixture.good(&["kill", &fixture.name, "SIGRTMIN+3"]);
    assert_eq!(fixture.until("told"), "37\n");
    fixture.good(&["kill", &fixture.name, "rtmax-2"]);
    fixture.until_status("stopped");
    assert_eq!(fixture.until("told"), "37\n62\n");
}

#[test]
fn a_process_whose_pid_cannot_be_told_does_not_stay() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.start();
    let count = || fixture.good(&["ps", "--format", "json", &fixture.name]).matches(',').count();
    assert_eq!(count(), 0);
    let words =
        ["exec", "--detach", "--pid-file", "/no/such/place", &fixture.name, "sleep", "1000"];
    assert!(fixture.bad(&words).contains("/no/such/place"));
    assert_eq!(count(), 0);
}

#[test]
fn limits_that_are_no_object_are_refused() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    let path = fixture.path("resources");
    for text in ["[]", "5", r#"{"memory": 1}"#, r#"{"cpu": []}"#] {
        fs::write(&path, text).unwrap();
        let file = path.display().to_string();
        let more = ["--memory", "134217728", "--cpuset-cpus", "0"];
        let words = [&["update", "--resources", &file][..], &more, &[&fixture.name]].concat();
        assert_eq!(fixture.command(&words), (2, String::new()), "{text}: that is wrong use");
    }
}
