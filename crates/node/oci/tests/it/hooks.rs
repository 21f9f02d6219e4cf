//! Hooks: when, where and with what they are called, and what becomes of a container whose hooks fail.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Fixture, refused};

/// A hook outside that notes its name, its state and where it is.
fn note(folder: &std::path::Path, name: &str) -> Value {
    let at = folder.display();
    let line = format!(
        "cat > {at}/{name}.state; echo {name} >> {at}/order; readlink /proc/self/ns/uts > {at}/{name}.uts; pwd > {at}/{name}.pwd; env > {at}/{name}.env"
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin:/usr/bin", "HOOK=yes"]})
}

const OUTSIDE: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];

fn noted(fixture: &Fixture, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture.path(name)).unwrap()).unwrap()
}

/// A bundle with all hooks; its own folder is made first, since they write there.
fn with_all() -> (tempfile::TempDir, Fixture) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut hooks = json!({});
    for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        hooks[name] = json!([note(folder.path(), name)]);
    }
    // Inside there is no way to the folder.
    hooks["startContainer"] = json!([{"path": "/bin/sh", "env": ["PATH=/bin"], "args":
        ["sh", "-c", "cat > /start.state; readlink /proc/self/ns/uts > /start.uts; test ! -e /out && echo before > /start"]}]);
    let fixture = Fixture::new("echo ran > /out; sleep 1000", &json!({"hooks": hooks}));
    (folder, fixture)
}

#[test]
fn hooks_are_called_in_order_at_their_moments() {
    let (folder, fixture) = with_all();
    let order = || fs::read_to_string(folder.path().join("order")).unwrap_or_default();
    fixture.create();
    assert_eq!(order(), "prestart\ncreateRuntime\ncreateContainer\n");
    assert!(!fixture.path("bundle/rootfs/start").exists());
    fixture.start();
    assert_eq!(fs::read_to_string(fixture.path("bundle/rootfs/start")).unwrap(), "before\n");
    assert!(order().ends_with("createContainer\npoststart\n"));
    fixture.kill();
    assert!(!order().contains("poststop"));
    fixture.good(&["delete", &fixture.name]);
    assert!(order().ends_with("poststart\npoststop\n"));
}

#[test]
fn hooks_read_the_state_of_that_moment() {
    let (folder, fixture) = with_all();
    fixture.create();
    let pid = fixture.state()["pid"].clone();
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(folder.path().join(format!("{name}.state"))).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    for name in ["prestart", "createRuntime"] {
        assert_eq!(
            (&read(name)["status"], &read(name)["pid"]),
            (&json!("creating"), &pid),
            "{name}"
        );
    }
    // As seen from inside.
    assert_eq!(
        (&read("createContainer")["status"], &read("createContainer")["pid"]),
        (&json!("creating"), &json!(1))
    );
    fixture.start();
    let inside = noted(&fixture, "bundle/rootfs/start.state");
    assert_eq!((&inside["status"], &inside["pid"]), (&json!("created"), &json!(1)));
    assert_eq!(
        (&read("poststart")["status"], &read("poststart")["pid"]),
        (&json!("running"), &pid)
    );
    fixture.kill();
    fixture.good(&["delete", &fixture.name]);
    assert_eq!(read("poststop")["status"], "stopped");
    for name in OUTSIDE {
        let state = read(name);
        assert_eq!(
            (&state["id"], &state["annotations"]["note"]),
            (&json!(fixture.name), &json!("kept"))
        );
        assert_eq!(state["bundle"], json!(fs::canonicalize(fixture.path("bundle")).unwrap()));
    }
}

#[test]
fn hooks_run_outside_or_inside_as_their_kind_says() {
    let (folder, fixture) = with_all();
    fixture.create();
    let pid = fixture.state()["pid"].clone();
    let of = |path: PathBuf| fs::read_to_string(path).unwrap().trim().to_owned();
    let link = |path: &str| fs::read_link(path).unwrap().display().to_string();
    let (ours, theirs) = (link("/proc/self/ns/uts"), link(&format!("/proc/{pid}/ns/uts")));
    fixture.start();
    fixture.kill();
    fixture.good(&["delete", &fixture.name]);
    for name in OUTSIDE {
        assert_eq!(of(folder.path().join(format!("{name}.uts"))), ours, "{name}");
    }
    assert_eq!(of(folder.path().join("createContainer.uts")), theirs);
    assert_eq!(of(fixture.path("bundle/rootfs/start.uts")), theirs);
    let environment = of(folder.path().join("prestart.env"));
    assert!(environment.contains("HOOK=yes") && !environment.contains("CARGO"), "{environment}");
}

#[test]
fn the_root_is_in_its_place_before_it_is_entered() {
    let line = "read -r state; root=$(printf %s \"$state\" | sed 's/.*\"rootfs\":\"\\([^\"]*\\).*/\\1/'); \
        mount -t tmpfs tmpfs \"$root/added\" && echo from-the-hook > \"$root/added/file\"";
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin:/usr/bin:/usr/sbin"]});
    let fixture =
        Fixture::writing("cat /added/file", &json!({"hooks": {"createContainer": [hook]}}));
    fs::create_dir(fixture.path("bundle/rootfs/added")).unwrap();
    assert_eq!(fixture.probe(), (0, "from-the-hook\n".to_owned()));
    assert!(!fixture.path("bundle/rootfs/added/file").exists(), "the host does not see it");
}

#[test]
fn a_hook_that_fails_before_the_program_ends_the_container() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let folder = tempfile::tempdir().unwrap();
        let hooks = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo broken >&2; exit 5"]},
            note(folder.path(), "second")], "poststop": [note(folder.path(), "poststop")]});
        let said = refused(&json!({"hooks": hooks}));
        assert!(said.contains(kind) && said.contains("ended with 5: broken"), "{said}");
        let order = fs::read_to_string(folder.path().join("order")).unwrap();
        assert_eq!(
            order, "poststop\n",
            "those after it are not called, but what was begun is ended"
        );
    }
}

#[test]
fn a_hook_that_fails_at_the_start_ends_the_container() {
    for (kind, program_runs) in [("startContainer", false), ("poststart", true)] {
        let folder = tempfile::tempdir().unwrap();
        let hooks =
            json!({kind: [{"path": "/bin/false"}], "poststop": [note(folder.path(), "poststop")]});
        let fixture = Fixture::new("echo ran > /out; sleep 1000", &json!({"hooks": hooks}));
        fixture.create();
        let said = fixture.bad(&["start", &fixture.name]);
        assert!(said.contains(kind), "{said}");
        assert!(fixture.bad(&["state", &fixture.name]).contains("does not exist"));
        assert!(program_runs || !fixture.path("bundle/rootfs/out").exists());
        assert!(folder.path().join("poststop.state").exists());
    }
}

#[test]
fn a_hook_that_fails_afterwards_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = json!({"poststop": [{"path": "/bin/false"}, {"path": "/none"}, note(folder.path(), "last")]});
    let fixture = Fixture::new("true", &json!({"hooks": hooks}));
    let bundle = fixture.bundle();
    assert_eq!(fixture.command(&["run", "--bundle", &bundle, &fixture.name]).0, 0);
    assert_eq!(fs::read_to_string(folder.path().join("order")).unwrap(), "last\n");
    assert_eq!(fixture.log().matches("\"warning\"").count(), 2, "{}", fixture.log());
}

#[test]
fn a_hook_has_the_time_it_is_given() {
    let began = Instant::now();
    let hooks = json!({"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 100"], "env": ["PATH=/bin"], "timeout": 1}]});
    let said = refused(&json!({"hooks": hooks}));
    assert!(said.contains("longer than 1 s"), "{said}");
    assert!(began.elapsed().as_secs() < 20);
}

#[test]
fn hooks_with_wrong_paths_or_times_are_refused() {
    for (hook, wanted) in [
        (json!({"path": "bin/true"}), "not absolute"),
        (json!({"path": "/bin/true", "timeout": 0}), "no time"),
        (json!({"path": "/bin/true", "timeout": -3}), "no time"),
        (json!({"args": ["x"]}), "config.json"),
    ] {
        for kind in ["prestart", "startContainer", "poststop"] {
            let said = refused(&json!({"hooks": {kind: [hook]}}));
            assert!(said.contains(wanted), "{kind} {hook}: {said}");
        }
    }
    let nothing = refused(&json!({"hooks": {"createRuntime": [{"path": "/no/such/hook"}]}}));
    assert!(nothing.contains("No such file"), "{nothing}");
}

#[test]
fn a_hook_that_the_container_brings_has_no_more_rights_than_its_process() {
    let line = "grep -E '^(CapEff|CapBnd|Uid|NoNewPrivs|Seccomp:)' /proc/self/status > /rights; readlink /proc/self/ns/pid >> /rights; cat /proc/self/cgroup >> /rights";
    let hook = json!([{"path": "/bin/busybox", "args": ["sh", "-c", line], "env": ["PATH=/bin"]}]);
    let sets =
        json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
    let fixture = Fixture::new(
        "sleep 1000",
        &json!({"hooks": {"startContainer": hook}, "process": {"capabilities": sets, "user": {"uid": 9, "gid": 9}},
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}),
    );
    let file = fixture.path("bundle/rootfs/rights");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    fixture.create();
    let pid = fixture.state()["pid"].clone();
    fixture.start();
    let seen = fs::read_to_string(file).unwrap();
    let own = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap().display().to_string();
    let cgroup = format!("/berth-test/{}", fixture.name);
    for wanted in [
        "Uid:\t9\t9\t9\t9",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000020",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        &own,
        &cgroup,
    ] {
        assert!(seen.contains(wanted), "{wanted}: {seen}");
    }
}
