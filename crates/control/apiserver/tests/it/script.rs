//! kubectl sessions as text: commands with what they must say.
//!
//! ```text
//! $ create configmap a --from-literal=k=v      must succeed
//! configmap/a created                          and say this somewhere
//! ! 1 get configmap b                          must end with this code
//! = exactly this                               is all that is said
//! ~ never this                                 is not said
//! $1.31 wait --for=create cm/a                 only from this minor on
//! # a remark
//! ```

use std::path::PathBuf;

use crate::support::Network;

/// A server and one of the kubectl binaries that come with the dispatcher.
pub struct Kubectl {
    pub network: Network,
    minor: u32,
}

/// The real binary of a minor version, beside the dispatcher on the path.
fn bundled(minor: u32) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
    let dispatcher = found.filter_map(|path| path.canonicalize().ok()).next();
    let dispatcher = dispatcher.expect("these tests need kubectl");
    let binary = dispatcher.with_file_name(format!("kubectl.1.{minor}"));
    assert!(binary.exists(), "these tests need {}", binary.display());
    binary
}

/// Splits at blanks outside single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut open) = (Vec::new(), String::new(), false, false);
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                open = true;
            }
            ' ' if !quoted => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            other => {
                word.push(other);
                open = true;
            }
        }
    }
    if open {
        words.push(word);
    }
    words
}

/// One command with its expectations.
struct Step<'text> {
    code: i32,
    command: &'text str,
    lines: Vec<&'text str>,
}

impl Kubectl {
    pub async fn start(minor: u32) -> Self {
        let network = Network::start().await;
        // Clients are known by the name of their program.
        let folder = network.folder.path().join("bin");
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(bundled(minor), folder.join("kubectl")).unwrap();
        Self { network, minor }
    }

    fn steps<'text>(&self, script: &'text str) -> Vec<Step<'text>> {
        let mut steps: Vec<Step<'text>> = Vec::new();
        let mut skipping = false;
        for line in script.lines().map(str::trim) {
            if line.is_empty() || line.starts_with("# ") {
                continue;
            }
            let step = |code, command| Step { code, command, lines: Vec::new() };
            if let Some(rest) = line.strip_prefix("$1.") {
                let (least, command) = rest.split_once(' ').unwrap();
                skipping = self.minor < least.parse().unwrap();
                if !skipping {
                    steps.push(step(0, command));
                }
            } else if let Some(command) = line.strip_prefix("$ ") {
                skipping = false;
                steps.push(step(0, command));
            } else if let Some(rest) = line.strip_prefix("! ") {
                skipping = false;
                let (code, command) = rest.split_once(' ').unwrap();
                steps.push(step(code.parse().unwrap(), command));
            } else if !skipping {
                steps.last_mut().expect("a script begins with a command").lines.push(line);
            }
        }
        steps
    }

    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = self.network.command(arguments);
        let program = self.network.folder.path().join("bin/kubectl");
        let mut own = tokio::process::Command::new(program);
        own.args(arguments).current_dir(self.network.folder.path());
        for (name, value) in command.as_std().get_envs() {
            if let Some(value) = value {
                own.env(name, value);
            }
        }
        own.stdin(std::process::Stdio::null()).kill_on_drop(true);
        std::mem::swap(&mut command, &mut own);
        command
    }

    pub async fn say(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), output);
        let output = output.await.unwrap_or_else(|_| panic!("this does not end: {arguments:?}"));
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// Plays a script to its end and then complains about everything that was not as it should be.
    pub async fn play(&self, script: &str) {
        let mut wrong = Vec::new();
        for step in self.steps(script) {
            let words = words(step.command);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (code, text) = self.say(&words).await;
            let mut complaints = Vec::new();
            if code != step.code {
                complaints.push(format!("ended with {code}, not {}", step.code));
            }
            for line in &step.lines {
                if let Some(whole) = line.strip_prefix('=') {
                    if text.trim() != whole.trim() {
                        complaints.push(format!("did not say exactly `{whole}`"));
                    }
                } else if let Some(never) = line.strip_prefix("~ ") {
                    if text.contains(never) {
                        complaints.push(format!("said `{never}`"));
                    }
                } else if !text.contains(line) {
                    complaints.push(format!("did not say `{line}`"));
                }
            }
            if !complaints.is_empty() {
                let complaints = complaints.join("; ");
                wrong.push(format!("kubectl {}\n  {complaints}\n{text}", step.command));
            }
        }
        assert!(wrong.is_empty(), "with kubectl 1.{}:\n{}", self.minor, wrong.join("\n"));
    }
}

/// A test of each group of commands for each kubectl.
macro_rules! each_kubectl {
    ($($module:ident :: $group:ident),* $(,)?) => { $(
        mod $group {
            use crate::script::Kubectl;
            #[tokio::test(flavor = "multi_thread")]
            async fn kubectl_1_29() {
                super::$module::$group(Kubectl::start(29).await).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn kubectl_1_31() {
                super::$module::$group(Kubectl::start(31).await).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn kubectl_1_33() {
                super::$module::$group(Kubectl::start(33).await).await;
            }
        }
    )* };
}
pub(crate) use each_kubectl;
