//! What somebody who has broken into a container tries, and does not get: the attempts of `tests/abuse/abuse.c`, as the container's own
//! process and as one that was added. On the host, where they are allowed, they succeed, so they are real.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::support::{Berth, Said};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/abuse/abuse.c");

/// An attempt, its argument, and whether root of the host succeeds with it without any harm.
type Attempt = (&'static str, String, bool);

fn compile(folder: &Path) -> PathBuf {
    let program = folder.join("abuse");
    let said = Command::new("gcc")
        .args(["-O1", "-static", "-o"])
        .arg(&program)
        .arg(SOURCE)
        .output()
        .expect("gcc is needed");
    Said::of(&said).good();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
    program
}

/// A disk of the host, as `major:minor`.
fn disk() -> String {
    let mut all = std::fs::read_dir("/sys/block").unwrap().map(|it| it.unwrap().path());
    let disk = all.find_map(|path| std::fs::read_to_string(path.join("dev")).ok());
    disk.expect("the host has a block device").trim().to_owned()
}

fn attempts(marker: &str, pid: &str, name: &str) -> Vec<Attempt> {
    let none = String::new;
    vec![
        ("cgroup-mount", none(), false),
        ("cgroup2-mount", none(), true),
        ("debugfs-mount", none(), false),
        ("tracefs-mount", none(), false),
        ("tmpfs-mount", none(), true),
        ("userns-then-cgroup", none(), false),
        ("unshare-then-mount", none(), true),
        ("unshare-user", none(), true),
        ("cgroup-write", none(), false),
        ("read-disk", disk(), false),
        ("mount-disk", disk(), false),
        ("core-pattern", none(), true),
        ("modprobe-path", none(), false),
        ("uevent-helper", none(), false),
        ("sysrq", none(), false),
        ("kcore", none(), false),
        ("open-by-handle", "/etc/hosts".to_owned(), false),
        ("host-root", marker.to_owned(), true),
        ("host-descriptors", marker.to_owned(), false),
        ("trace", pid.to_owned(), false),
        ("read-memory", pid.to_owned(), false),
        ("write-memory", pid.to_owned(), true),
        ("join-first", none(), false),
        ("load-module", none(), false),
        ("load-bpf", none(), true),
        ("count-events", none(), true),
        ("keyring", none(), true),
        ("fault-handler", none(), true),
        ("uring", none(), true),
        ("abstract-socket", name.to_owned(), true),
        ("engine-socket", none(), false),
        ("writable-mount", none(), true),
        ("packet-socket", none(), true),
        ("clock", none(), false),
        ("host-name", none(), true),
        ("memory-exec", none(), true),
        ("dropped-exec", "/dev/shm".to_owned(), false),
        ("dropped-map", "/dev/shm".to_owned(), false),
    ]
}

#[test]
fn nobody_gets_out_of_a_container() {
    let berth = Berth::new("abuse", 196);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let marker = berth.data.join("marker");
    std::fs::write(&marker, "").unwrap();
    let name = format!("berth-abuse-{}", std::process::id());
    let _listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut outside = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let pid = outside.id().to_string();
    let marker = marker.display().to_string();
    let attempts = attempts(&marker, &pid, &name);
    let bind = format!("{}:/abuse:ro", folder.path().display());
    berth.berth(&["run", "-d", "--name", "taken", "-v", &bind, "busybox", "sleep", "1000"]).good();
    let mut won = Vec::new();
    for (attempt, argument, real) in &attempts {
        if *real {
            let output =
                Command::new(&program).args([attempt, argument.as_str()]).output().unwrap();
            assert_eq!(
                Said::of(&output).good(),
                format!("{attempt}: won\n"),
                "the attempt is none"
            );
        }
        let line = ["/abuse/abuse", attempt, argument.as_str()];
        let own = berth.berth(&[&["run", "--rm", "-v", &bind, "busybox"][..], &line].concat());
        let added = berth.berth(&[&["exec", "taken", "--"][..], &line].concat());
        for (how, said) in [("own", own), ("added", added)] {
            let refused = said.code == 1 && said.output.starts_with(&format!("{attempt}: denied "));
            if !refused {
                won.push(format!(
                    "{attempt} as {how} process: {} {}{}",
                    said.code, said.output, said.errors
                ));
            }
        }
    }
    outside.kill().unwrap();
    outside.wait().unwrap();
    assert!(won.is_empty(), "{won:#?}");

    a_read_only_image_runs_nothing_else(&berth, &bind, folder.path());
    no_user_id_is_gained(&berth, &program, &bind);
    no_directory_is_left(&berth, &marker);
    the_engines_program_stays_what_it_is(&berth, &bind);
}

/// What was not in the image when it was made, where nobody can write to it.
fn a_read_only_image_runs_nothing_else(berth: &Berth, bind: &str, folder: &Path) {
    let place = folder.join("place");
    std::fs::create_dir(&place).unwrap();
    let program = folder.join("abuse");
    for attempt in ["dropped-exec", "dropped-map"] {
        let said = Command::new(&program).arg(attempt).arg(&place).output().unwrap();
        assert_eq!(Said::of(&said).good(), format!("{attempt}: won\n"), "the attempt is none");
        for folder in ["/bin", "/dev/shm", "/dev"] {
            let line = [
                "run",
                "--rm",
                "--read-only",
                "-v",
                bind,
                "busybox",
                "/abuse/abuse",
                attempt,
                folder,
            ];
            let said = berth.berth(&line);
            assert!(
                said.output.starts_with(&format!("{attempt}: denied ")),
                "{folder}: {}",
                said.output
            );
        }
    }
    let line = [
        "run",
        "--rm",
        "--read-only",
        "-v",
        bind,
        "busybox",
        "/abuse/abuse",
        "replaced",
        "/bin/busybox",
    ];
    assert_eq!(berth.berth(&line).output, "replaced: denied EROFS\n");
}

/// A set-user-id program, as anybody.
fn no_user_id_is_gained(berth: &Berth, program: &Path, bind: &str) {
    let outside = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups"])
        .arg(program)
        .arg("set-user-id")
        .output();
    // The folder is root's alone, so that only who may reach the program can try.
    let outside = Said::of(&outside.unwrap());
    let line = ["run", "--rm", "-u", "1000", "-v", bind, "busybox", "/abuse/abuse", "set-user-id"];
    let said = berth.berth(&line);
    assert_eq!(
        (said.code, said.output.as_str()),
        (1, "set-user-id: denied EPERM\n"),
        "{}",
        said.errors
    );
    assert!(
        outside.output.contains("won") || outside.errors.contains("ermission denied"),
        "{}",
        outside.errors
    );
}

/// CVE-2024-21626: a working directory that is a descriptor the engine left open.
fn no_directory_is_left(berth: &Berth, marker: &str) {
    for number in 3..6 {
        let folder = format!("/proc/self/fd/{number}");
        let path = format!("../../../../../../../..{marker}");
        let said = berth.berth(&["run", "--rm", "-w", &folder, "busybox", "ls", &path]);
        assert_ne!(said.code, 0, "{folder} leads to the host");
    }
}

/// CVE-2019-5736: a program of the container that is the engine's own, and somebody who waits for it.
fn the_engines_program_stays_what_it_is(berth: &Berth, bind: &str) {
    let sum = || Sha256::digest(std::fs::read(env!("CARGO_BIN_EXE_berth")).unwrap());
    let before = sum();
    let script = "printf '#!/proc/self/exe\\n' > /evil && chmod +x /evil && /abuse/abuse engine-program; echo done";
    berth
        .berth(&["run", "-d", "--name", "waiter", "-v", bind, "busybox", "sh", "-c", script])
        .good();
    for _ in 0..30 {
        // Whatever it is that runs, it is not the engine with its arguments.
        let said = berth.berth(&["exec", "waiter", "--", "/evil", "--version"]);
        assert!(!said.output.starts_with("berth "), "the engine ran inside: {}", said.output);
    }
    let said = berth.kubectl(&["-n", "berth-run", "logs", "-f", "waiter"]).good();
    assert!(said.contains("engine-program: denied"), "{said}");
    assert!(before == sum(), "the engine's program was changed");
}

/// The table of the reference is true: what it names is there, and nothing that was asked for is left out.
#[test]
fn every_attempt_of_the_reference_is_made() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = std::fs::read_to_string(root.join("docs/reference/abuse.md")).unwrap();
    let attempts: Vec<&str> = attempts("", "", "").into_iter().map(|(name, ..)| name).collect();
    let own = std::fs::read_to_string(file!().replacen("bin/berth/", "", 1)).unwrap();
    let mut number = 0;
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.contains("What is")) {
        number += 1;
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [counted, _, expected, tests] = cells[..] else { panic!("{line}") };
        assert_eq!(counted, number.to_string(), "{line}");
        let denied = expected.starts_with("denied");
        assert_eq!(denied, tests != "–", "what is denied has a test: {line}");
        for test in tests.split(", ").map(|test| test.trim_matches('`')).filter(|_| denied) {
            let Some((path, name)) = test.split_once("::") else {
                assert!(attempts.contains(&test) || own.contains(&format!("\"{test}\"")), "{line}");
                continue;
            };
            let source = std::fs::read_to_string(root.join(path));
            let source = source.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(source.contains(&format!("fn {name}(")), "{test} is not there");
        }
    }
    assert_eq!(number, 44);
}
