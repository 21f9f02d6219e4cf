//! This program never runs in a container, nor is its file within reach there (CVE-2019-5736).

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::support::Fixture;

/// A container in which this program would find its libraries.
fn fixture(program: &str, more: &Value) -> Fixture {
    let fixture = Fixture::new("sleep 1000", &json!({"process": {"args": [program]}}));
    let path = fixture.path("bundle/config.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for library in ["/lib", "/lib64", "/usr/lib"] {
        let mount = json!({"destination": library, "type": "bind", "source": library,
            "options": ["rbind", "ro"]});
        value["mounts"].as_array_mut().unwrap().push(mount);
    }
    for (name, more) in more.as_object().unwrap() {
        value[name] = more.clone();
    }
    fs::write(path, value.to_string()).unwrap();
    fixture
}

/// Whether tracing is for another's policy to decide, so that this program runs from elsewhere instead.
fn judged() -> bool {
    let modules = berth_runtime::labels::Modules::here();
    modules.app_armor || modules.se_linux
}

#[track_caller]
fn killed_before_it_ran(fixture: &Fixture) {
    if judged() {
        let bundle = fixture.bundle();
        assert!(shelters(fixture, &["create", "--bundle", &bundle, &fixture.name]));
        return;
    }
    fixture.create();
    let said = fixture.bad(&["start", &fixture.name]);
    assert!(said.contains("is this runtime itself"), "{said}");
    assert_eq!(fixture.good(&["list", "--quiet"]), "", "nothing is left");
}

#[test]
fn a_link_to_this_program_is_not_run() {
    let fixture = fixture("/bin/evil", &json!({}));
    symlink("/proc/self/exe", fixture.path("bundle/rootfs/bin/evil")).unwrap();
    killed_before_it_ran(&fixture);
}

#[test]
fn a_script_for_this_program_is_not_run() {
    let fixture = fixture("/bin/evil", &json!({}));
    let evil = fixture.path("bundle/rootfs/bin/evil");
    fs::write(&evil, "#!/proc/self/exe --version\n").unwrap();
    fs::set_permissions(&evil, PermissionsExt::from_mode(0o755)).unwrap();
    killed_before_it_ran(&fixture);
}

#[test]
fn others_run_and_their_ends_are_told() {
    let missing = fixture("/bin/sh", &json!({}));
    // Gone after it was looked for: it ends with the code for that, and the start has nothing to tell.
    missing.create();
    fs::remove_file(missing.path("bundle/rootfs/bin/sh")).unwrap();
    missing.start();
    missing.until_status("stopped");

    let fixture = Fixture::new("exit 7", &json!({}));
    let (code, _) = fixture.probe();
    assert_eq!(code, 7);
    let sleeping = Fixture::new("sleep 1000", &json!({}));
    sleeping.create();
    sleeping.start();
    let pid = &sleeping.state()["pid"];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("TracerPid:\t0"), "nobody follows it any more: {status}");
    sleeping.kill();
}

/// What waits for the gate is stopped and told to end while it is followed: the one lasts until it is continued, the other is passed on.
#[test]
fn signals_on_the_way_reach_whom_they_are_meant_for() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.good(&["kill", &fixture.name, "STOP"]);
    let pid = fixture.state()["pid"].to_string();
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let until = |letters: &[&str]| {
        let before = std::time::Instant::now();
        while !letters.iter().any(|it| stat().contains(&format!(") {it} "))) {
            assert!(before.elapsed().as_secs() < 10, "{}", stat());
            std::thread::yield_now();
        }
    };
    until(&["T", "t"]);
    std::thread::scope(|scope| {
        let started = scope.spawn(|| fixture.command(&["start", &fixture.name]).0);
        // It is not told to be running before its program is.
        assert_eq!(fixture.state()["status"], "created");
        fixture.good(&["kill", &fixture.name, "CONT"]);
        assert_eq!(started.join().unwrap(), 0);
    });
    assert_eq!(fixture.state()["status"], "running");
    fixture.kill();
}

#[test]
fn who_is_killed_on_the_way_has_ended() {
    let fixture = Fixture::new("sleep 1000", &json!({}));
    fixture.create();
    fixture.good(&["kill", &fixture.name, "STOP"]);
    std::thread::scope(|scope| {
        let started = scope.spawn(|| fixture.command(&["start", &fixture.name]).0);
        fixture.good(&["kill", &fixture.name, "KILL"]);
        // Before it was let in or after: it is not there any more, and nobody waits for it.
        let _either = started.join().unwrap();
    });
    let (_, left) = fixture.command(&["list", "--quiet"]);
    if !left.is_empty() {
        fixture.until_status("stopped");
    }
}

/// Whether the program is started anew from where nobody can write before a command is carried out.
fn shelters(fixture: &Fixture, words: &[&str]) -> bool {
    let called = Cell::new(false);
    let shelter = || {
        called.set(true);
        Ok(())
    };
    let root = fixture.path("root").display().to_string();
    let words = ["--root", &root].into_iter().chain(words.iter().copied()).map(Into::into);
    assert_eq!(berth_oci::main(words, &mut Vec::new(), &shelter), 0);
    called.get()
}

#[test]
fn where_watching_is_not_enough_the_program_runs_from_elsewhere() {
    let hook = json!({"path": "/bin/true", "args": ["true"]});
    let shared = json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}]);
    for (more, [at_create, at_start]) in [
        (json!({}), [judged(), false]),
        (json!({"hooks": {"createRuntime": [hook]}}), [judged(), false]),
        (json!({"hooks": {"createContainer": [hook]}}), [true, false]),
        (json!({"hooks": {"startContainer": [hook]}}), [true, true]),
        (json!({"linux": {"namespaces": shared}}), [true, false]),
    ] {
        let fixture = fixture("/bin/sleep", &more);
        let path = fixture.path("bundle/config.json");
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        value["process"]["args"] = json!(["sleep", "1000"]);
        value["linux"]["cgroupsPath"] = json!(format!("/berth-test/{}", fixture.name));
        fs::write(path, value.to_string()).unwrap();
        let bundle = fixture.bundle();
        let name = fixture.name.as_str();
        assert_eq!(shelters(&fixture, &["create", "--bundle", &bundle, name]), at_create, "{more}");
        assert_eq!(shelters(&fixture, &["start", name]), at_start, "{more}");
        assert!(shelters(&fixture, &["exec", name, "true"]), "others may look by then");
        assert!(!shelters(&fixture, &["state", name]));
        fixture.kill();
    }
}
