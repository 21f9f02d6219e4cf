//! Starting, ending, exit codes, further processes, terminals.

use std::io::Write;
use std::os::fd::AsFd;

use berth_runtime::{Container, CreateError, ExecRequest, Stdio};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::support::{Fixture, MAPPING, captured, finish, spec, value, wait};

#[test]
fn runs_a_command_and_returns_its_output_and_code() {
    for mapping in [None, Some(MAPPING)] {
        let fixture = Fixture::new(mapping);
        let (code, output) =
            fixture.shell("echo $GREETING from $(hostname) as pid $$ in $(pwd) home $HOME; exit 7");
        assert_eq!((code, output.as_str()), (7, "hello from harbour as pid 1 in / home /root\n"));
    }
}

#[test]
fn a_missing_command_and_an_unusable_one_have_the_shells_exit_codes() {
    let fixture = Fixture::new(Some(MAPPING));
    let missing = fixture.start(&spec(&["no-such-thing"]), None, captured().0).unwrap_err();
    assert_eq!(missing.to_string(), "`no-such-thing` is not in the image, or not in its PATH");
    assert_eq!(missing.exit_code(), 127);
    let unusable = fixture.start(&spec(&["/etc/passwd"]), None, captured().0).unwrap_err();
    assert!(
        matches!(&unusable, CreateError::NotExecutable { command, .. } if command == "/etc/passwd")
    );
    assert_eq!(unusable.exit_code(), 126);
    assert!(fixture.cgroup.processes().unwrap().is_empty(), "a failed start leaves no process");
}

#[test]
fn a_killed_container_reports_its_signal() {
    let fixture = Fixture::new(None);
    let container = fixture.start(&spec(&["sleep", "60"]), None, captured().0).unwrap();
    pidfd_send_signal(&container.pidfd, Signal::KILL).unwrap();
    assert_eq!(wait(&container), 137);
}

#[test]
fn a_further_process_shares_the_containers_world() {
    for mapping in [None, Some(MAPPING)] {
        let fixture = Fixture::new(mapping);
        let first = fixture
            .start(&spec(&["sh", "-c", "echo here > /tmp/mark; exec sleep 60"]), None, captured().0)
            .unwrap();
        let process =
            spec(&["sh", "-c", "until [ -s /tmp/mark ]; do :; done; cat /tmp/mark; id -u; exit 3"]);
        let (stdio, output) = captured();
        let further = Container::exec(ExecRequest {
            process: process.process().as_ref().unwrap(),
            user: Some("app"),
            container: first.pidfd.as_fd(),
            mapped: mapping.is_some(),
            cgroup: Some(&fixture.cgroup),
            seccomp: None,
            stdio,
        })
        .unwrap();
        assert_eq!(finish(&further, output), (3, "here\n70\n".to_owned()));
        pidfd_send_signal(&first.pidfd, Signal::KILL).unwrap();
        assert_eq!(wait(&first), 137);
    }
}

/// A container may stop whatever enters it, before that is the program.
#[test]
fn a_joining_process_that_is_stopped_is_given_up() {
    let fixture = Fixture::new(Some(MAPPING));
    let line = "trap '' TERM; while :; do kill -STOP -1 2>/dev/null; done";
    let first = fixture.start(&spec(&["sh", "-c", line]), None, captured().0).unwrap();
    let process = spec(&["true"]);
    let mut given_up = None;
    for _ in 0..50 {
        let further = Container::exec(ExecRequest {
            process: process.process().as_ref().unwrap(),
            user: None,
            container: first.pidfd.as_fd(),
            mapped: true,
            cgroup: Some(&fixture.cgroup),
            seccomp: None,
            stdio: captured().0,
        });
        match further {
            // The program is the container's to stop; unreaped it would keep the container.
            Ok(further) => {
                pidfd_send_signal(&further.pidfd, Signal::KILL).unwrap();
                wait(&further);
            }
            Err(error) => {
                given_up = Some(error.to_string());
                break;
            }
        }
    }
    pidfd_send_signal(&first.pidfd, Signal::KILL).unwrap();
    assert_eq!(wait(&first), 137);
    let why = given_up.expect("one of fifty was stopped in time");
    assert!(why.contains("container's process"), "{why}");
}

/// A process that fails at once may be heard of before the one that made it says its pid. Left unreaped, it would keep the
/// container's pid namespace from ever ending.
#[test]
fn no_process_that_fails_to_start_is_left() {
    let fixture = Fixture::new(Some(MAPPING));
    let first = fixture.start(&spec(&["sleep", "60"]), None, captured().0).unwrap();
    let process = spec(&["no-such-thing"]);
    // All on one processor, so that the order is any.
    let mut only = rustix::thread::CpuSet::new();
    only.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &only).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let fail = || {
        let error = Container::exec(ExecRequest {
            process: process.process().as_ref().unwrap(),
            user: None,
            container: first.pidfd.as_fd(),
            mapped: true,
            cgroup: Some(&fixture.cgroup),
            seccomp: None,
            stdio: captured().0,
        });
        error.unwrap_err().exit_code()
    };
    let codes: Vec<i32> = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let codes = (0..200).map(|_| fail()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        codes
    });
    assert!(codes.iter().all(|code| *code == 127), "{codes:?}");
    pidfd_send_signal(&first.pidfd, Signal::KILL).unwrap();
    assert_eq!(wait(&first), 137);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let left = waitid(WaitId::All, options);
    assert!(matches!(left, Err(rustix::io::Errno::CHILD)), "none is left: {left:?}");
}

#[test]
fn a_terminal_is_the_containers_own() {
    let fixture = Fixture::new(Some(MAPPING));
    let container = fixture
        .start(
            &spec(&["sh", "-c", "tty; read line; echo got $line"]),
            None,
            Stdio::Terminal { rows: 40, columns: 100 },
        )
        .unwrap();
    let terminal = container.terminal.as_ref().unwrap();
    std::fs::File::from(rustix::io::dup(terminal).unwrap()).write_all(b"cargo\n").unwrap();
    let mut output = Vec::new();
    let mut buffer = [0_u8; 256];
    // The controlling side ends with EIO once the container has closed the other.
    while let Ok(length) = rustix::io::read(terminal, &mut buffer) {
        output.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(wait(&container), 0);
    let output = String::from_utf8(output).unwrap();
    assert!(output.contains("/dev/pts/0") && output.contains("got cargo"), "{output:?}");
}

#[test]
fn a_bad_mount_says_which() {
    let fixture = Fixture::new(Some(MAPPING));
    let mut bad = value(&["true"]);
    bad["mounts"].as_array_mut().unwrap().push(serde_json::json!(
        { "destination": "/data", "type": "nosuchfs", "source": "x" }
    ));
    let spec = serde_json::from_value(bad).unwrap();
    let error = fixture.start(&spec, None, captured().0).unwrap_err();
    assert_eq!(error.to_string(), "cannot open the file system for `/data`");
    assert!(fixture.cgroup.processes().unwrap().is_empty());
}

#[test]
fn a_held_container_is_made_and_runs_nothing_until_it_is_let_on() {
    let fixture = Fixture::new(Some(MAPPING));
    let (gate, opener) = rustix::pipe::pipe().unwrap();
    let (stdio, output) = captured();
    let line = spec(&["sh", "-c", "echo on"]);
    let container = fixture.hold(&line, stdio, gate.as_fd()).unwrap();
    let proc = std::path::PathBuf::from(format!("/proc/{}", container.pid.as_raw_nonzero()));
    assert!(proc.join("root/bin/busybox").exists(), "it is inside");
    let program = || std::fs::read_link(proc.join("exe")).unwrap();
    assert!(!program().ends_with("busybox"), "{:?}", program());
    rustix::io::write(&opener, b"1").unwrap();
    assert_eq!(finish(&container, output), (0, "on\n".to_owned()));

    // Who is not let on can be ended like any other.
    let container = fixture.hold(&line, captured().0, gate.as_fd()).unwrap();
    pidfd_send_signal(&container.pidfd, Signal::KILL).unwrap();
    assert_eq!(wait(&container), 137);
}
