//! The process: where it runs, as whom, with which limits and privileges.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Fixture, refused, said};

fn status(name: &str, more: &Value) -> String {
    let seen = said(&format!("grep '^{name}:' /proc/self/status"), more);
    seen.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_process_runs_where_it_is_told() {
    assert_eq!(said("pwd", &json!({"process": {"cwd": "/made/for/it"}})), "/made/for/it\n");
    for cwd in [json!("relative"), json!(""), Value::Null] {
        assert!(refused(&json!({"process": {"cwd": cwd}})).contains("not absolute"), "{cwd}");
    }
}

#[test]
fn arguments_and_environment_are_as_given() {
    let line = "printf '%s|' \"$0\" \"$@\" > /out; env >> /out";
    let args = json!(["sh", "-c", line, "zero", "a b", "", "$HOME"]);
    let more =
        json!({"process": {"args": args, "env": ["PATH=/bin", "A=1=2", "EMPTY=", "HOME=/h"]}});
    let fixture = Fixture::new("", &more);
    let (code, seen) = fixture.probe();
    assert!(code == 0 && seen.starts_with("zero|a b||$HOME|"), "{seen}");
    for line in ["A=1=2", "EMPTY=", "HOME=/h", "PATH=/bin"] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    for args in [json!([]), Value::Null] {
        assert!(refused(&json!({"process": {"args": args}})).contains("no arguments"));
    }
}

#[test]
fn the_program_is_found_by_path_or_not_at_all() {
    let fixture =
        Fixture::new("", &json!({"process": {"args": ["true"], "env": ["PATH=/nowhere:/bin"]}}));
    assert_eq!(fixture.probe().0, 0);
    assert!(
        refused(&json!({"process": {"args": ["true"], "env": ["PATH=/nowhere"]}}))
            .contains("not found")
    );
    assert!(refused(&json!({"process": {"args": ["/no/such"]}})).contains("not found"));
    let fixture = Fixture::new("", &json!({"process": {"args": ["/plain"]}}));
    fs::write(fixture.path("bundle/rootfs/plain"), "text").unwrap();
    assert!(fixture.refused().contains("cannot execute"));
}

#[test]
fn a_process_runs_as_its_user() {
    let more = json!({"process": {"user": {"uid": 12, "gid": 34, "additionalGids": [56, 78], "umask": 0o027}}});
    let fixture = Fixture::writing("id -u; id -g; id -G; umask", &more);
    let out = fixture.path("bundle/rootfs/out");
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let (code, seen) = fixture.probe();
    assert_eq!((code, seen.as_str()), (0, "12\n34\n34 56 78\n0027\n"));
}

#[test]
fn limits_are_what_was_asked_for() {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_CPU", "soft": 50, "hard": 60}, {"type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 2_000_000},
        {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152}, {"type": "RLIMIT_MSGQUEUE", "soft": 10, "hard": 20}]);
    let seen = said("cat /proc/self/limits", &json!({"process": {"rlimits": limits}}));
    let row = |name: &str| -> Vec<String> {
        let line = seen.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(row("Max open files"), ["100", "200"]);
    assert_eq!(row("Max core file size"), ["0", "0"]);
    assert_eq!(row("Max cpu time"), ["50", "60"]);
    assert_eq!(row("Max file size"), ["1000000", "2000000"]);
    assert_eq!(row("Max stack size"), ["1048576", "2097152"]);
    assert_eq!(row("Max msgqueue size"), ["10", "20"]);
}

#[test]
fn limits_that_are_unknown_or_given_twice_are_errors() {
    let one = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100});
    assert!(refused(&json!({"process": {"rlimits": [one, one]}})).contains("twice"));
    let unknown = json!([{"type": "RLIMIT_PATIENCE", "soft": 1, "hard": 1}]);
    assert!(refused(&json!({"process": {"rlimits": unknown}})).contains("config.json"));
    let crossed = json!([{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 200}]);
    assert!(refused(&json!({"process": {"rlimits": crossed}})).contains("resource limits"));
}

#[test]
fn capabilities_are_those_of_the_sets() {
    let more = json!({"process": {"capabilities": {
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"],
        "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}}});
    assert_eq!(status("CapBnd", &more), "0000000000000021");
    assert_eq!(status("CapInh", &more), "0000000000000001");
    assert_eq!(status("CapAmb", &more), "0000000000000001");
    assert_eq!(status("CapPrm", &more), "0000000000000021");
    assert_eq!(status("CapBnd", &json!({})), "0000000000000000", "nothing said is nothing granted");
}

#[test]
fn ambient_capabilities_reach_a_user_who_is_not_root() {
    let sets = json!({"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]});
    let fixture = Fixture::writing(
        "grep ^CapEff: /proc/self/status",
        &json!({"process": {"user": {"uid": 5, "gid": 5}, "capabilities": sets}}),
    );
    let out = fixture.path("bundle/rootfs/out");
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(fixture.probe(), (0, "CapEff:\t0000000000000001\n".to_owned()));
}

#[test]
fn capabilities_that_cannot_be_granted_are_warnings() {
    let more = json!({"process": {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_TIME_TRAVEL"], "permitted": ["CAP_CHOWN"],
        "ambient": ["CAP_CHOWN"]}}});
    let fixture = Fixture::writing("grep ^CapBnd: /proc/self/status", &more);
    let (code, seen) = fixture.probe();
    assert!(code == 0 && seen.ends_with("01\n"), "{seen}");
    assert!(
        fixture.log().contains("CAP_TIME_TRAVEL") && fixture.log().contains("warning"),
        "{}",
        fixture.log()
    );
}

#[test]
fn new_privileges_are_refused_if_so_wished() {
    assert_eq!(status("NoNewPrivs", &json!({"process": {"noNewPrivileges": true}})), "1");
    assert_eq!(status("NoNewPrivs", &json!({"process": {"noNewPrivileges": false}})), "0");
}

#[test]
fn the_score_for_lack_of_memory_is_set_or_left() {
    let read = "cat /proc/self/oom_score_adj";
    assert_eq!(said(read, &json!({"process": {"oomScoreAdj": 345}})), "345\n");
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(said(read, &json!({})), own);
}

#[test]
fn scheduling_is_as_asked_for() {
    let with = |more: Value| json!({"process": {"scheduler": more}});
    // Nice value and policy.
    let read = "awk '{print $19, $41}' /proc/self/stat";
    assert_eq!(said(read, &with(json!({"policy": "SCHED_OTHER", "nice": 7}))), "7 0\n");
    assert_eq!(said(read, &with(json!({"policy": "SCHED_BATCH"}))), "0 3\n");
    assert_eq!(said(read, &with(json!({"policy": "SCHED_BATCH", "nice": 3}))), "3 3\n");
    assert_eq!(said(read, &with(json!({"policy": "SCHED_IDLE"}))), "0 5\n");
    assert_eq!(said(read, &json!({})), said(read, &json!({"process": {"scheduler": Value::Null}})));
    let reset =
        with(json!({"policy": "SCHED_BATCH", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}));
    assert_eq!(said(read, &reset), "0 3\n", "what it starts does not inherit it");
    assert!(
        refused(&with(json!({"policy": "SCHED_FIFO", "priority": 500}))).contains("scheduling")
    );
}

#[test]
fn input_and_output_have_their_priority() {
    let with = |class: &str, priority: i32| json!({"process": {"ioPriority": {"class": class, "priority": priority}}});
    assert_eq!(said("ionice", &with("IOPRIO_CLASS_BE", 6)), "best-effort: prio 6\n");
    assert!(said("ionice", &with("IOPRIO_CLASS_IDLE", 0)).starts_with("idle"));
    assert!(refused(&with("IOPRIO_CLASS_BE", 8)).contains("no priority"));
}

#[test]
fn a_further_process_runs_on_its_processors() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.start();
    let file = fixture.path("process.json");
    let process = |affinity: Value| {
        json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": affinity,
            "args": ["sh", "-c", "grep ^Cpus_allowed_list /proc/self/status > /cpus"]})
    };
    let path = file.display().to_string();
    fs::write(&file, process(json!({"initial": "0", "final": "0"})).to_string()).unwrap();
    // In a thread of its own, since it is moved to those processors for good.
    std::thread::scope(|scope| {
        scope.spawn(|| fixture.good(&["exec", "--process", &path, &fixture.name]));
    });
    assert_eq!(fixture.until("cpus"), "Cpus_allowed_list:\t0\n");
    for wrong in ["9-3", "x", "90000"] {
        fs::write(&file, process(json!({"final": wrong})).to_string()).unwrap();
        let said = fixture.bad(&["exec", "--process", &path, &fixture.name]);
        assert!(said.contains("processors") || said.contains("execCPUAffinity"), "{wrong}: {said}");
    }
}

#[test]
fn the_size_of_a_console_counts_with_a_terminal_alone() {
    let more = json!({"process": {"terminal": false, "consoleSize": {"height": 3, "width": 4}}});
    assert_eq!(said("echo in", &more), "in\n");
}

#[test]
fn a_further_process_has_what_its_flags_say() {
    let fixture = Fixture::new("sleep 1000", &json!({"process": {"noNewPrivileges": false}}));
    fixture.create();
    fixture.start();
    let line = "{ id -G; grep -E '^(NoNewPrivs|CapBnd):' /proc/self/status; } > /more";
    fixture.good(&[
        "exec",
        "--additional-gids",
        "77",
        "--cap",
        "CAP_KILL",
        "--no-new-privs",
        &fixture.name,
        "sh",
        "-c",
        line,
    ]);
    let seen = fixture.until("more");
    assert!(
        seen.contains("77")
            && seen.contains("CapBnd:\t0000000000000020")
            && seen.contains("NoNewPrivs:\t1"),
        "{seen}"
    );
}

#[test]
fn descriptors_are_handed_on_if_asked_for_and_no_others() {
    let line = "ls /proc/self/fd";
    let fixture = Fixture::writing(line, &json!({}));
    let seen = fixture.probe().1;
    let open: Vec<&str> = seen.lines().collect();
    // The three streams, and the directory that is being listed.
    assert_eq!(open, ["0", "1", "2", "3"], "{seen}");
    let wrong = Fixture::new("true", &json!({}));
    let (code, _) =
        wrong.command(&["create", "--preserve-fds", "900", "-b", &wrong.bundle(), &wrong.name]);
    assert_eq!(code, 1, "they have to be open");
}
