//! A server of its own for each story: data directory, names and addresses that meet nobody else's.

mod objects;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use objects::{apply, condition, configuration, create, memory_total, merge};

/// What a command printed and how it ended.
pub struct Said {
    pub code: i32,
    pub output: String,
    pub errors: String,
}

impl Said {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output, if the command succeeded.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.output, self.errors);
        self.output
    }

    /// Both streams, if the command failed with this code.
    #[track_caller]
    pub fn bad(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\n{}", self.output, self.errors);
        format!("{}{}", self.output, self.errors)
    }
}

/// A server and its data directory.
pub struct Berth {
    pub data: PathBuf,
    pub instance: String,
    network: u8,
    /// Further words for `berth serve`.
    words: Vec<String>,
    server: Option<Child>,
    program: PathBuf,
    /// Names and addresses are those of the story: another checkout on this machine waits for its end.
    _alone: fs::File,
}

impl Berth {
    /// Starts afresh in the directory of this name. Images of an earlier run are kept there, since they take minutes.
    pub fn new(name: &str, network: u8) -> Self {
        Self::with(name, network, &[])
    }

    /// The same with further words for `berth serve`.
    pub fn with(name: &str, network: u8, words: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&data).unwrap();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let instance = format!("bt{name}");
        let alone =
            fs::File::create(std::env::temp_dir().join(format!("{instance}.lock"))).unwrap();
        alone.lock().unwrap();
        let mut berth = Self {
            data,
            instance,
            network,
            words,
            server: None,
            program: env!("CARGO_BIN_EXE_berth").into(),
            _alone: alone,
        };
        // An interrupted run may have left things.
        berth.berth(&["reset", "--force"]).good();
        remove(&berth.data.join("volumes"));
        berth.start();
        berth
    }

    pub fn start(&mut self) -> Duration {
        let began = Instant::now();
        self.launch();
        self.is_ready();
        began.elapsed()
    }

    /// Starts the server and does not wait for it.
    pub fn launch(&mut self) {
        let child = Command::new(&self.program)
            .args(["serve", "--listen", "127.0.0.1:0", "--instance", &self.instance])
            .args(self.unless_said("--node-name", "node"))
            .args(["--pod-cidr", &format!("10.{}.0.0/16", self.network)])
            .args(self.unless_said("--service-cidr", &format!("10.{}.0.0/16", self.network + 1)))
            .args(&self.words)
            .arg("--data-dir")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.log()).unwrap())
            .spawn()
            .unwrap();
        self.server = Some(child);
    }

    /// Waits for what the server says once it is there.
    pub fn is_ready(&mut self) {
        let mut line = String::new();
        let said = self.server.as_mut().and_then(|server| server.stdout.take()).unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        let log = || fs::read_to_string(self.log()).unwrap();
        assert!(line.starts_with("ready https://127.0.0.1:"), "{line:?}\n{}", log());
    }

    /// A flag of `berth serve`, unless the further words have it.
    fn unless_said<'w>(&self, flag: &'w str, value: &'w str) -> Vec<&'w str> {
        if self.words.iter().any(|word| word == flag) { Vec::new() } else { vec![flag, value] }
    }

    /// Where the server says what it does: beside its directory, which may be on a disk that is full.
    fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// The pid of the server, which runs.
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").id()
    }

    /// The second byte of the pod network's addresses.
    pub fn network(&self) -> u8 {
        self.network
    }

    /// Has the next start, and all commands, use another program.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Ends the server in good order. Containers go on.
    pub fn stop_server(&mut self) {
        let mut server = self.server.take().unwrap();
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(server.wait().unwrap().success(), "it ends well");
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data-dir").arg(&self.data).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn berth(&self, arguments: &[&str]) -> Said {
        Said::of(&self.command(arguments).output().unwrap())
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Said {
        Said::of(&self.kubectl_command(arguments).output().expect("kubectl is needed on the PATH"))
    }

    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        self.with_kubeconfig(Command::new("kubectl"), arguments)
    }

    /// The kubectl of one minor version. Several lie beside the one on the PATH, which hands over to them.
    pub fn kubectl_of(&self, minor: &str, arguments: &[&str]) -> Command {
        let path = std::env::var_os("PATH").unwrap();
        let found = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
        let kubectl = found.filter_map(|path| path.canonicalize().ok()).next();
        let kubectl = kubectl.expect("kubectl is needed on the PATH");
        let own = kubectl.with_file_name(format!("kubectl.{minor}"));
        assert!(own.exists(), "kubectl {minor} is needed as {}", own.display());
        // One that waits for ever is a failure and not the end of all tests.
        let mut bounded = Command::new("timeout");
        bounded.args(["--foreground", "60"]).arg(own);
        self.with_kubeconfig(bounded, arguments)
    }

    fn with_kubeconfig(&self, mut command: Command, arguments: &[&str]) -> Command {
        command.arg("--kubeconfig").arg(self.data.join("kubeconfig"));
        // Discovery is cached by address, and addresses of servers in tests come round again.
        command.arg("--cache-dir").arg(self.data.join("kubectl-cache"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// A list or an object as kubectl shows it in JSON.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.kubectl(&all).good()).unwrap()
    }

    /// Pods of a namespace, optionally of one Compose service.
    pub fn pods(&self, namespace: &str, service: Option<&str>) -> Vec<Value> {
        let selector =
            service.map_or_else(String::new, |service| format!("berth.dev/service={service}"));
        let list = self.get(&["pods", "--namespace", namespace, "--selector", &selector]);
        let items = list["items"].as_array().unwrap().clone();
        items.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    /// Pids on the host of a pod's containers, the oldest first.
    pub fn processes(&self, uid: &str) -> Vec<i32> {
        let mut found = Vec::new();
        for root in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
            let level = |name: &str| Path::new(root).join(&self.instance).join(name);
            for level in [level(""), level("burstable"), level("besteffort")] {
                let pod = level.join(format!("pod{uid}"));
                for entry in fs::read_dir(pod).into_iter().flatten().flatten() {
                    let text =
                        fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
                    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        // Numbers begin again at the lowest, so the first of a container need not have the lowest.
        found.sort_by_key(|pid| (started(*pid), *pid));
        found
    }

    /// Everything of this server that is left on the machine, as text; empty when nothing is.
    pub fn traces(&self) -> String {
        let mut traces = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            if hierarchy.path().join(&self.instance).exists() {
                traces.push(format!("cgroup {}", hierarchy.path().join(&self.instance).display()));
            }
        }
        let output = |program: &str, arguments: &[&str]| {
            Said::of(&Command::new(program).args(arguments).output().unwrap()).good()
        };
        let links = output("ip", &["-o", "link"]);
        traces
            .extend(links.lines().filter(|line| line.contains(&self.instance)).map(str::to_owned));
        let network = format!("10.{}.", self.network);
        let routes = format!("{}{}", output("ip", &["addr"]), output("ip", &["route"]));
        traces.extend(routes.lines().filter(|line| line.contains(&network)).map(str::to_owned));
        let tables = output("nft", &["list", "tables"]);
        traces
            .extend(tables.lines().filter(|line| line.contains(&self.instance)).map(str::to_owned));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data.display().to_string();
        // The directory itself may be a disk that a test has mounted.
        let inside = |line: &&str| line.contains(&data) && line.split(' ').nth(4) != Some(&data);
        traces.extend(mounts.lines().filter(inside).map(str::to_owned));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let log = fs::read_link(entry.path().join("fd/2")).unwrap_or_default();
            if log.to_string_lossy().starts_with(&data) && self.server.is_none() {
                traces.push(format!(
                    "process {} writes to {}",
                    entry.path().display(),
                    log.display()
                ));
            }
        }
        traces.join("\n")
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = rustix::process::Pid::from_child(&server);
            // One that has ended already needs no signal.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _reaped = server.wait();
        }
        let reset = self.berth(&["reset", "--force"]);
        if !std::thread::panicking() {
            reset.good();
            assert_eq!(self.traces(), "", "something is left");
        }
    }
}

/// When a process was started, in the kernel's own count; those that have ended are the youngest.
fn started(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may have blanks, and ends with the last parenthesis.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    after.split(' ').nth(19).and_then(|field| field.parse().ok()).unwrap_or(u64::MAX)
}

fn remove(path: &Path) {
    if path.exists() {
        fs::remove_dir_all(path).unwrap();
    }
}

/// Waits for a condition.
#[track_caller]
pub fn until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < patience, "waited {patience:?} until {what}");
        // Commands are started to find out; the machine needs air to do what we wait for.
        rustix::event::poll(
            &mut [],
            Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 }),
        )
        .unwrap();
    }
    began.elapsed()
}

/// A free TCP port on loopback.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// An HTTP request by hand to this machine: status line, headers and body.
pub fn http(method: &str, port: u16, path: &str, body: &str) -> std::io::Result<String> {
    http_at((Ipv4Addr::LOCALHOST, port).into(), method, path, body)
}

/// The same to another address.
pub fn http_at(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A header of an answer.
pub fn header(answer: &str, name: &str) -> Option<String> {
    let prefix = format!("{}:", name.to_lowercase());
    answer
        .lines()
        .take_while(|line| !line.is_empty())
        .find(|line| line.to_lowercase().starts_with(&prefix))
        .map(|line| line[prefix.len()..].trim().to_owned())
}

/// Copies a directory tree.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
