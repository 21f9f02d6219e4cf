//! kubectl's exec, cp, attach, run and port-forward, over SPDY (up to 1.29) and over WebSocket (from 1.30 and 1.31 on).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Berth, Said, free_port, http, until};

const SHORT: Duration = Duration::from_secs(20);
/// The oldest that is promised, the first with WebSocket for port-forward, the newest.
const MINORS: [&str; 3] = ["1.29", "1.31", "1.33"];

#[test]
fn every_kubectl_reaches_into_containers() {
    let berth = Berth::new("flow", 172);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    let serve = "mkdir /www && echo hi > /www/index.html && exec httpd -f -p 8000 -h /www";
    berth.berth(&["run", "-d", "--name", "web", "busybox", "sh", "-c", serve]).good();
    for minor in MINORS {
        let kubectl = |line: &[&str]| {
            berth.kubectl_of(minor, &[&["--namespace", "berth-run"], line].concat())
        };
        commands_run(&kubectl);
        files_are_copied(&berth, &kubectl);
        ports_are_forwarded(&kubectl);
        pods_are_run(minor, &kubectl);
        logs_are_read_in_every_way(minor, &kubectl);
    }
    for minor in MINORS {
        a_pod_is_looked_into(minor, &|line: &[&str]| {
            berth.kubectl_of(minor, &[&["--namespace", "berth-run"], line].concat())
        });
    }
    a_prompt_is_seen(&berth);
    logs_are_read_over_websocket(&berth);
}

/// As client libraries do, through `kubectl proxy`, which needs no certificate.
fn logs_are_read_over_websocket(berth: &Berth) {
    let script = "echo first; sleep 0.2; echo second";
    berth.berth(&["run", "-d", "--name", "teller", "busybox", "sh", "-c", script]).good();
    let mut proxy =
        berth.kubectl_command(&["proxy", "--port=0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(proxy.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().rsplit(' ').next().unwrap().to_owned();
    for (protocol, first, opcode) in [
        ("Sec-WebSocket-Protocol: binary.k8s.io\r\n", "first\n", 2),
        ("Sec-WebSocket-Protocol: base64.binary.k8s.io\r\n", "Zmlyc3QK", 1),
        ("", "first\n", 2),
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        let head = format!(
            "GET /api/v1/namespaces/berth-run/pods/teller/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 101") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{answer}"
        );
        assert_eq!(answer.to_lowercase().contains("sec-websocket-protocol"), !protocol.is_empty());
        let mut frame = || {
            let mut head = [0; 2];
            stream.read_exact(&mut head).unwrap();
            let mut content = vec![0; head[1].into()];
            stream.read_exact(&mut content).unwrap();
            (head[0] & 15, content)
        };
        assert_eq!(frame(), (opcode, first.as_bytes().to_vec()));
        assert_eq!(frame().0, opcode);
        // The log ends with its container, and says so.
        assert_eq!(frame().0, 8);
    }
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    berth.berth(&["rm", "teller"]).good();
}

/// Runs with this on its standard input.
fn fed(mut command: Command, input: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("all input is taken");
    Said::of(&output)
}

fn commands_run(kubectl: &dyn Fn(&[&str]) -> Command) {
    let exec = |arguments: &[&str]| {
        let output = kubectl(&[&["exec", "web", "--"], arguments].concat()).output();
        Said::of(&output.expect("kubectl starts"))
    };
    let said = exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.code, said.output.as_str()), (7, "out\n"), "{}", said.errors);
    assert!(said.errors.starts_with("err\n"), "{}", said.errors);
    assert_eq!(exec(&["no-such-command"]).code, 127);
    let megabytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let said = fed(kubectl(&["exec", "-i", "web", "--", "md5sum"]), &megabytes);
    let expected = fed(Command::new("md5sum"), &megabytes).good();
    assert_eq!(said.good(), expected);
    // A terminal of its own size, made by `script`.
    let line: Vec<String> =
        kubectl(&["exec", "-it", "web", "--", "sh", "-c", "'sleep 0.3; stty size'"])
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
    let program = kubectl(&[]).get_program().to_string_lossy().into_owned();
    let inner = format!("stty rows 33 cols 77; {program} {}", line.join(" "));
    let said = fed(
        {
            let mut script = Command::new("script");
            script.args(["-qec", &inner, "/dev/null"]);
            script
        },
        b"",
    );
    assert!(said.output.contains("33 77"), "{}{}", said.output, said.errors);
}

fn files_are_copied(berth: &Berth, kubectl: &dyn Fn(&[&str]) -> Command) {
    let (there, back) = (berth.data.join("there"), berth.data.join("back"));
    fs::write(&there, vec![b'x'; 2 << 20]).expect("the disk has room");
    let path = |path: &std::path::Path| path.display().to_string();
    for arguments in [[path(&there), "web:/tmp/copy".into()], ["web:/tmp/copy".into(), path(&back)]]
    {
        let output = kubectl(&["cp", &arguments[0], &arguments[1]]).output();
        Said::of(&output.expect("kubectl starts")).good();
    }
    assert_eq!(fs::read(&there).expect("it is there"), fs::read(&back).expect("it came back"));
    fs::remove_file(back).expect("it is ours");
}

/// A `kubectl port-forward` that listens.
struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    fn start(kubectl: &dyn Fn(&[&str]) -> Command, to: u16) -> Self {
        let port = free_port();
        let mut child = kubectl(&["port-forward", "pod/web", &format!("{port}:{to}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        lines.read_line(&mut line).expect("it speaks");
        assert!(line.starts_with("Forwarding from"), "{line}");
        // It says every connection; somebody has to listen.
        std::thread::spawn(move || lines.lines().map_while(Result::ok).count());
        Self { child, port }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn ports_are_forwarded(kubectl: &dyn Fn(&[&str]) -> Command) {
    let forward = Forward::start(kubectl, 8000);
    // One that stays open does not hold up the others.
    let idle = TcpStream::connect(("127.0.0.1", forward.port)).expect("it listens");
    for _ in 0..3 {
        let answer = http("GET", forward.port, "/", "").expect("it answers");
        assert!(answer.ends_with("hi\n"), "{answer}");
    }
    drop((idle, forward));
    let mut forward = Forward::start(kubectl, 81);
    assert_eq!(http("GET", forward.port, "/", "").unwrap_or_default(), "");
    let mut errors = String::new();
    let mut stream = BufReader::new(forward.child.stderr.take().expect("piped"));
    stream.read_line(&mut errors).expect("it says why");
    assert!(errors.contains("port 81") && errors.contains("refused"), "{errors}");
}

fn pods_are_run(minor: &str, kubectl: &dyn Fn(&[&str]) -> Command) {
    let name = format!("one-{}", minor.replace('.', "-"));
    let line = ["run", "-i", "--rm", "--restart=Never", "--image=busybox", &name, "--"];
    let words = ["sh", "-c", "echo first; cat; echo last >&2"];
    let said = fed(kubectl(&[&line[..], &words].concat()), b"hello\n");
    assert_eq!(said.code, 0, "{}{}", said.output, said.errors);
    for part in ["first\n", "hello\n"] {
        assert!(said.output.contains(part), "no {part:?} in {:?}", said.output);
    }
    assert!(said.errors.contains("last\n"), "{}", said.errors);
}

/// A container added to a running pod sees the processes of another, talks, and ends without the pod.
fn a_pod_is_looked_into(minor: &str, kubectl: &dyn Fn(&[&str]) -> Command) {
    let name = format!("look-{}", minor.replace('.', "-"));
    let wrong = ["debug", "web", "--image=busybox", "--target=nobody", "--", "true"];
    let said = Said::of(&kubectl(&wrong).output().expect("kubectl starts"));
    assert!(said.errors.contains("targetContainerName: Not found: \"nobody\""), "{}", said.errors);
    let line = ["debug", "-i", "web", "--image=busybox", "--target=main", "-c", &name, "--"];
    let words = ["sh", "-c", "ps; read word; echo got $word; exit 3"];
    let said = fed(kubectl(&[&line[..], &words].concat()), b"hello\n");
    assert!(said.output.contains("httpd -f -p 8000"), "{}{}", said.output, said.errors);
    assert!(said.output.contains("got hello"), "{}{}", said.output, said.errors);
    let path =
        "{.status.ephemeralContainerStatuses[?(@.name==\"NAME\")].state.terminated.exitCode}"
            .replace("NAME", &name);
    until("the end is told and the pod runs on", SHORT, || {
        let path = format!("jsonpath={path} {{.status.phase}}");
        let output = kubectl(&["get", "pod", "web", "-o", &path]).output().expect("it runs");
        Said::of(&output).good() == "3 Running"
    });
}

fn logs_are_read_in_every_way(minor: &str, kubectl: &dyn Fn(&[&str]) -> Command) {
    let name = format!("says-{}", minor.replace('.', "-"));
    let good = |line: &[&str]| Said::of(&kubectl(line).output().expect("it runs")).good();
    let label = format!("--labels=says={name}");
    let line = ["run", &name, &label, "--image=busybox", "--", "sh", "-c"];
    // Ends once, so that there is a container before the one that runs.
    let words = "echo first; echo second; [ -e /tmp/x ] && exec sleep 600; echo third; exit 1";
    let restart = "--restart=OnFailure";
    good(&[&line[..2], &[restart], &line[2..], &[words]].concat());
    until("it has ended once", SHORT, || {
        kubectl(&["logs", &name, "--previous"]).output().expect("it runs").status.success()
    });
    assert_eq!(good(&["logs", &name, "--previous"]), "first\nsecond\nthird\n");
    assert_eq!(good(&["logs", &name, "--previous", "--tail=1"]), "third\n");
    assert_eq!(good(&["logs", &name, "--previous", "--limit-bytes=4"]), "firs");
    let stamped = good(&["logs", &name, "--previous", "--timestamps", "--tail=1"]);
    assert!(stamped.starts_with("20") && stamped.ends_with("Z third\n"), "{stamped}");
    assert_eq!(good(&["logs", &name, "--previous", "--since=1h", "--tail=1"]), "third\n");
    let later = "--since-time=2200-01-01T00:00:00Z";
    assert_eq!(good(&["logs", &name, "--previous", later]), "");
    let selector = format!("says={name}");
    let all = ["logs", "-l", &selector, "--all-containers", "--prefix", "--previous", "--tail=1"];
    assert_eq!(good(&all), format!("[pod/{name}/{name}] third\n"));
    good(&["delete", "pod", &name, "--grace-period=0", "--force"]);
}

/// An interactive container repeats what it said to the first who attaches, even a line without an end.
fn a_prompt_is_seen(berth: &Berth) {
    let line = "printf \"welcome\\nname? \"; read name; echo hello $name";
    for round in 0..5 {
        let name = format!("asks-{round}");
        let mut command = berth.command(&["run", "-it", "--rm", "--name", &name, "busybox"]);
        command.args(["sh", "-c", line]);
        let mut child = terminal(&command);
        let mut screen = String::new();
        let mut output = child.stdout.take().expect("piped");
        let mut input = child.stdin.take().expect("piped");
        let mut buffer = [0; 256];
        while !screen.contains("name? ") {
            let length = std::io::Read::read(&mut output, &mut buffer).expect("it can be read");
            assert!(length > 0, "ended with {screen:?}");
            screen += &String::from_utf8_lossy(&buffer[..length]);
        }
        assert!(screen.contains("welcome"), "{screen}");
        input.write_all(b"world\n").expect("it listens");
        std::io::Read::read_to_string(&mut output, &mut screen).expect("text");
        assert!(screen.contains("hello world"), "{screen}");
        drop(input);
        assert!(child.wait().expect("it ends").success());
    }
    until("nothing is left", SHORT, || berth.pods("berth-run", None).len() == 1);
}

/// Runs a command on a terminal of its own.
fn terminal(command: &Command) -> Child {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<String> =
        words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))).collect();
    Command::new("script")
        .args(["-qec", &quoted.join(" "), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is needed for `script`")
}
