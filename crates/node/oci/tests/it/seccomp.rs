//! Filters of system calls: every action, operator, flag and architecture, and somebody who is asked.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::support::{Fixture, refused, said};

fn filter(rules: Value) -> Value {
    json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules}}})
}

#[test]
fn actions_are_what_happens() {
    let mkdir = |action: &str| filter(json!([{"names": ["mkdir", "mkdirat"], "action": action}]));
    let line = "mkdir /made; echo $?";
    for (action, wanted) in [
        ("SCMP_ACT_ALLOW", "\n0\n"),
        ("SCMP_ACT_LOG", "\n0\n"),
        ("SCMP_ACT_ERRNO", "not permitted\n1\n"),
        ("SCMP_ACT_KILL", "\n159\n"),
        ("SCMP_ACT_KILL_THREAD", "\n159\n"),
        ("SCMP_ACT_KILL_PROCESS", "\n159\n"),
        ("SCMP_ACT_TRAP", "\n159\n"),
        // Nobody traces it.
        ("SCMP_ACT_TRACE", "not implemented\n1\n"),
    ] {
        let seen = format!("\n{}", said(line, &mkdir(action)));
        assert!(seen.ends_with(wanted), "{action}: {seen:?}");
    }
}

#[test]
fn an_error_code_is_returned_by_actions_that_return_one() {
    let rule =
        |action: &str| json!([{"names": ["mkdir", "mkdirat"], "action": action, "errnoRet": 28}]);
    assert!(
        said("mkdir /made; echo $?", &filter(rule("SCMP_ACT_ERRNO"))).contains("No space left")
    );
    assert!(
        refused(&filter(rule("SCMP_ACT_ALLOW"))).contains("seccomp")
            || refused(&filter(rule("SCMP_ACT_ALLOW"))).contains("filter")
    );
    let default =
        json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 5}}});
    assert!(refused(&default).contains("no error code"));
    let all = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 28, "syscalls":
        [{"names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW"}]}}});
    let fixture = Fixture::new("echo x", &all);
    assert_ne!(fixture.probe().0, 0, "hardly anything is allowed");
}

#[test]
fn operators_compare_arguments() {
    // The first argument of `kill` with signal 0 to a process that is there.
    for (operator, value, two, denied) in [
        ("SCMP_CMP_EQ", 1, None, true),
        ("SCMP_CMP_NE", 1, None, false),
        ("SCMP_CMP_LT", 2, None, true),
        ("SCMP_CMP_LE", 1, None, true),
        ("SCMP_CMP_GT", 1, None, false),
        ("SCMP_CMP_GE", 1, None, true),
        ("SCMP_CMP_MASKED_EQ", 0xff, Some(1), true),
        ("SCMP_CMP_MASKED_EQ", 0xff, Some(2), false),
    ] {
        let mut argument = json!({"index": 0, "value": value, "op": operator});
        if let Some(two) = two {
            argument["valueTwo"] = two.into();
        }
        let rules = json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": [argument]}]);
        let seen = said("kill -0 1; echo $?", &filter(rules));
        assert_eq!(seen.contains("No space left"), denied, "{operator} {value}: {seen}");
    }
    let beyond = json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]);
    assert!(refused(&filter(beyond)).contains("argument 6"));
}

#[test]
fn an_entry_names_calls_and_unknown_ones_are_passed_over() {
    assert!(
        refused(&filter(json!([{"names": [], "action": "SCMP_ACT_ERRNO"}])))
            .contains("names no system call")
    );
    assert_eq!(
        said("echo in", &filter(json!([{"names": ["no_such_call"], "action": "SCMP_ACT_KILL"}]))),
        "in\n"
    );
}

#[test]
fn flags_are_given_to_the_kernel() {
    for flags in [
        json!(["SECCOMP_FILTER_FLAG_LOG"]),
        json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]),
        json!([]),
    ] {
        let more =
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": flags}}});
        assert_eq!(said("grep ^Seccomp: /proc/self/status", &more), "Seccomp:\t2\n", "{flags}");
    }
    let unknown = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FUN"]}}});
    assert!(refused(&unknown).contains("config.json"));
}

#[test]
fn a_filter_holds_with_and_without_new_privileges() {
    for no_new in [true, false] {
        let mut more = filter(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
        more["process"] = json!({"noNewPrivileges": no_new});
        assert!(said("mkdir /made; echo $?", &more).ends_with("1\n"), "{no_new}");
    }
}

#[test]
fn a_filter_holds_for_further_processes() {
    let fixture = Fixture::new(
        "sleep 1000",
        &filter(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}])),
    );
    fixture.create();
    fixture.start();
    fixture.good(&[
        "exec",
        &fixture.name,
        "sh",
        "-c",
        "mkdir /made 2> /dev/null || echo refused > /more",
    ]);
    assert_eq!(fixture.until("more"), "refused\n");
}

fn asking(socket: &str) -> Value {
    json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket, "listenerMetadata": "words",
        "syscalls": [{"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_NOTIFY"}]}}})
}

#[test]
fn whoever_listens_gets_one_state_and_one_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    for no_new in [true, false] {
        let mut more = asking(&path.display().to_string());
        more["process"] = json!({"noNewPrivileges": no_new});
        let fixture = Fixture::new("sleep 1000", &more);
        fixture.create();
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0_u8; 65536];
        let (length, descriptors) = berth_sys::socket::receive(stream.as_fd(), &mut bytes).unwrap();
        let message: Value = serde_json::from_slice(&bytes[..length]).unwrap();
        assert_eq!(descriptors.len(), 1);
        assert_eq!(
            (&message["fds"], &message["metadata"]),
            (&json!(["seccompFd"]), &json!("words"))
        );
        assert_eq!(message["pid"], fixture.state()["pid"]);
        assert_eq!(
            (&message["state"]["id"], &message["state"]["status"]),
            (&json!(fixture.name), &json!("creating"))
        );
        assert!(message["ociVersion"].as_str().unwrap().starts_with("1."));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "the connection is closed after one state");
    }
}

#[test]
fn whoever_listens_is_told_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let asking = |names: Value, no_new: bool| {
        json!({"process": {"noNewPrivileges": no_new},
        "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]}}})
    };
    // Who answers goes at once, and with it what was asked: the kernel then says that there is no such call.
    let going = |listener: &UnixListener| {
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = [0_u8; 65536];
        let (_, descriptors) = berth_sys::socket::receive(stream.as_fd(), &mut bytes).unwrap();
        assert_eq!(descriptors.len(), 1);
    };
    for (names, no_new) in
        [(json!(["access", "faccessat", "faccessat2"]), true), (json!(["chdir"]), false)]
    {
        let fixture = Fixture::new("sleep 1000", &asking(names.clone(), no_new));
        let said = std::thread::scope(|scope| {
            scope.spawn(|| going(&listener));
            fixture.refused()
        });
        assert!(said.contains("not implemented"), "{names}: {said}");
    }
    let fixture = Fixture::new("sleep 1000", &asking(json!(["execve"]), true));
    std::thread::scope(|scope| {
        scope.spawn(|| going(&listener));
        fixture.create();
    });
    // Its own program is not executed either, so the process goes; what runs beside another one is asked about, too.
    let running = Fixture::new("sleep 1000", &json!({}));
    running.create();
    running.start();
    let state = running.path("root").join(&running.name).join("config.json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    kept["linux"]["seccomp"] = asking(json!(["execve"]), true)["linux"]["seccomp"].clone();
    std::fs::write(&state, kept.to_string()).unwrap();
    let said = std::thread::scope(|scope| {
        scope.spawn(|| going(&listener));
        running.bad(&["exec", &running.name, "true"])
    });
    assert!(said.contains("not implemented"), "{said}");
}

#[test]
fn a_listener_that_cannot_be_told_is_an_error() {
    assert!(refused(&asking("/no/such/listener")).contains("cannot connect"));
    let mut without = asking("");
    without["linux"]["seccomp"]["listenerPath"] = Value::Null;
    without["linux"]["seccomp"]["listenerMetadata"] = Value::Null;
    assert!(refused(&without).contains("names no listener"));
    let metadata =
        json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}}});
    assert!(refused(&metadata).contains("no listener"));
    let unused = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/listener"}}});
    assert_eq!(said("echo in", &unused), "in\n", "nobody is asked");
}
