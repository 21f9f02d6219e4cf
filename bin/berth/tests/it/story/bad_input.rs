//! What goes wrong ends with one clear error and leaves nothing behind.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::support::Berth;

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn each_mistake_is_named_with_its_place() {
    let berth = Berth::new("bad", 168);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let folder = tempfile::tempdir().unwrap();
    let fails = |text: &str, expected: &[&str]| {
        let file = write(folder.path(), "compose.yaml", text);
        let said = berth.berth(&["up", "--timeout", "15s", &file]).bad(1);
        for part in expected {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
        assert!(said.contains("error:"), "{said}");
    };
    fails("services:\n  a: [\n", &["compose.yaml:"]);
    fails("services:\n  a:\n    image: busybox\n    imagee: x\n", &["compose.yaml:4", "imagee"]);
    fails(
        "services:\n  a:\n    image: ${NOT_SET:?say what it is}\n",
        &["compose.yaml:3", "say what it is"],
    );
    fails(
        "services:\n  a: { image: busybox, depends_on: [b] }\n  b: { image: busybox, depends_on: [a] }\n",
        &["compose.yaml", "a", "b"],
    );
    fails("services:\n  a:\n    build: ./nowhere\n", &["compose.yaml:3", "nowhere"]);
    fs::create_dir(folder.path().join("broken")).unwrap();
    write(&folder.path().join("broken"), "Dockerfile", "FROM busybox\nRUN echo before && exit 9\n");
    fails("services:\n  a:\n    build: ./broken\n", &["Dockerfile:2", "9"]);
    fails("services:\n  a:\n    image: localhost:1/nothing:1\n", &["localhost:1"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fails(
        &format!(
            "services:\n  a:\n    image: busybox\n    command: sleep 100\n    ports: ['127.0.0.1:{port}:80']\n"
        ),
        &[&port.to_string(), "in use"],
    );
    fails(
        "services:\n  a:\n    image: busybox\n    command: no-such-command\n",
        &["no-such-command"],
    );
    fails(
        "services:\n  a:\n    image: busybox\n    command: sh -c 'echo last words; exit 3'\n",
        &["last words", "3"],
    );
    fails(
        "services:\n  a:\n    image: busybox\n    command: sleep 100\n    healthcheck: { test: 'echo not well; exit 1', interval: 1s, retries: 1 }\n",
        &["not well"],
    );
    let file = folder.path().join("compose.yaml").display().to_string();
    berth.berth(&["down", "-f", &file, "--volumes"]).good();
}

#[test]
fn without_privilege_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let program = folder.path().join("berth");
    fs::copy(env!("CARGO_BIN_EXE_berth"), &program).unwrap();
    let data = folder.path().join("data");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .arg("--data-dir")
        .arg(&data)
        .args(["run", "--rm", "busybox", "true"])
        .current_dir(folder.path())
        .output()
        .expect("util-linux is needed for setpriv");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("root"), "{output:?}");
    assert!(!data.exists());
}
