//! From creation to deletion.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::support::Fixture;

#[test]
fn a_container_is_made_and_then_started_and_ends() {
    let line = "hostname > /said; cat /proc/self/cgroup > /dev/null; sleep 1000";
    let fixture = Fixture::new(line, &json!({}));
    fixture.create();
    let state = fixture.state();
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!(fixture.name)));
    assert_eq!(state["annotations"]["note"], "kept");
    let pid = state["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(fixture.path("pid")).unwrap(), pid.to_string());
    assert!(!fixture.path("bundle/rootfs/said").exists(), "nothing runs before it is started");
    fixture.good(&["start", &fixture.name]);
    assert_eq!(fixture.until("said"), "harbour\n");
    assert_eq!(fixture.state()["status"], "running");
    let limit = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(limit.contains(&format!("/berth-test/{}", fixture.name)), "{limit}");
    let listed = fixture.good(&["list"]);
    assert!(listed.contains(&fixture.name), "{listed}");
    fixture.good(&["kill", &fixture.name, "KILL"]);
    fixture.until_status("stopped");
    assert_eq!(fixture.state()["pid"], 0);
    fixture.good(&["delete", &fixture.name]);
    assert!(fixture.bad(&["state", &fixture.name]).contains("does not exist"));
}

#[test]
fn each_command_needs_the_container_to_be_in_a_state() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    assert!(fixture.bad(&["start", &fixture.name]).contains("does not exist"));
    fixture.create();
    let bundle = fixture.path("bundle").display().to_string();
    let again = fixture.bad(&["create", "--bundle", &bundle, &fixture.name]);
    assert!(again.contains("exists already"), "{again}");
    assert_eq!(fixture.state()["status"], "created", "the first one is as it was");
    assert!(fixture.bad(&["delete", &fixture.name]).contains("it is created"));
    assert!(fixture.bad(&["exec", &fixture.name, "echo"]).contains("it is created"));
    fixture.good(&["start", &fixture.name]);
    assert!(fixture.bad(&["start", &fixture.name]).contains("it is running"));
    assert!(fixture.bad(&["delete", &fixture.name]).contains("it is running"));
    fixture.good(&["kill", &fixture.name, "9"]);
    fixture.until_status("stopped");
    assert!(fixture.bad(&["kill", &fixture.name, "TERM"]).contains("it is stopped"));
    assert!(fixture.bad(&["start", &fixture.name]).contains("it is stopped"));
    fixture.good(&["delete", &fixture.name]);
    fixture.good(&["delete", "--force", &fixture.name]);
    assert!(fixture.bad(&["delete", &fixture.name]).contains("does not exist"));
}

#[test]
fn what_runs_in_one_go_has_the_exit_code_of_its_program() {
    let fixture = Fixture::new("exit 7", &json!({}));
    let bundle = fixture.path("bundle").display().to_string();
    assert_eq!(fixture.command(&["run", "-b", &bundle, &fixture.name]).0, 7);
    assert_eq!(fixture.good(&["list", "--format", "json"]).trim(), "[]");
}

#[test]
fn a_further_process_joins_the_container() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.good(&["start", &fixture.name]);
    let words = ["exec", "--env", "A=b", "--cwd", "/bin", &fixture.name, "sh", "-c"];
    let (code, _) =
        fixture.command(&[&words[..], &["echo $A $(hostname) $PWD > /more; exit 5"]].concat());
    assert_eq!(code, 5);
    assert_eq!(fixture.until("more"), "b harbour /bin\n");
}

#[test]
fn a_terminal_goes_to_whoever_waits_for_it() {
    let more = json!({"process": {"terminal": true, "consoleSize": {"height": 40, "width": 100}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}]});
    let fixture = Fixture::new("echo here; sleep 1000", &more);
    let bundle = fixture.path("bundle").display().to_string();
    assert!(fixture.bad(&["create", "-b", &bundle, &fixture.name]).contains("--console-socket"));
    let path = fixture.path("console");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = path.display().to_string();
    fixture.good(&["create", "-b", &bundle, "--console-socket", &socket, &fixture.name]);
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = [0_u8; 64];
    let (_, mut descriptors) = berth_sys::socket::receive(stream.as_fd(), &mut bytes).unwrap();
    fixture.good(&["start", &fixture.name]);
    let mut terminal = fs::File::from(descriptors.pop().unwrap());
    let mut said = [0_u8; 6];
    terminal.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"here\r\n");
}

#[test]
fn a_container_is_paused_looked_into_and_given_other_limits() {
    let line = "while :; do echo tick; done > /dev/null & sleep 1000";
    let fixture = Fixture::new(line, &json!({}));
    fixture.create();
    assert!(fixture.bad(&["pause", &fixture.name]).contains("it is created"));
    fixture.good(&["start", &fixture.name]);
    fixture.good(&["pause", &fixture.name]);
    assert_eq!(fixture.state()["status"], "paused");
    assert!(fixture.bad(&["exec", &fixture.name, "echo"]).contains("it is paused"));
    let pid = fixture.state()["pid"].clone();
    let listed = fixture.good(&["ps", "--format", "json", &fixture.name]);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    assert!(listed.contains(&pid), "{listed:?}");
    fixture.good(&["resume", &fixture.name]);
    assert_eq!(fixture.state()["status"], "running");
    assert!(fixture.bad(&["resume", &fixture.name]).contains("it is running"));

    let limits = fixture.path("limits");
    fs::write(&limits, json!({"pids": {"limit": 17}}).to_string()).unwrap();
    let limits = limits.display().to_string();
    fixture.good(&["update", "--resources", &limits, &fixture.name]);
    let below = format!("berth-test/{}/pids.max", fixture.name);
    let places = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
    let found = places.iter().find_map(|place| fs::read_to_string(format!("{place}/{below}")).ok());
    assert_eq!(found.unwrap().trim(), "17");
    fixture.good(&["delete", "--force", &fixture.name]);
    assert!(fixture.bad(&["update", "--resources", &limits, &fixture.name]).contains("not exist"));
}

#[test]
fn a_paused_container_can_be_ended() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.good(&["start", &fixture.name]);
    fixture.good(&["pause", &fixture.name]);
    fixture.good(&["delete", "--force", &fixture.name]);
    assert_eq!(fixture.good(&["list", "--format", "json"]).trim(), "[]");
}
