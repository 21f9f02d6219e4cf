//! The container runtime as a command: `create`, `start`, `state`, `kill`, `delete`, `run`, `exec`,
//! `pause`, `resume`, `update`, `events`, `ps`, `list`, `features`.
//!
//! Engines such as podman drive runtimes by this command line, and so can foreign conformance suites drive ours. There is no
//! process that stays: all that is known of a container lies in a directory of its own, and what the kernel says of its first
//! process is asked anew each time. What a bundle or a flag asks for is either done or refused, never passed over.

mod act;
mod bundle;
mod check;
mod create;
mod events;
mod flags;
mod hooks;
mod numbers;
mod resources;
mod state;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use berth_runtime::cgroup::{CgroupError, Hierarchies};
use flags::{Command, Global};

/// The word after the program's name that leads here.
pub const SUBCOMMAND: &str = "oci";

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The command line.
    #[error(
        "{0}; usage: berth oci [--root DIR] [--log FILE] [--log-format text|json] create|start|state|kill|delete|run|exec|pause|resume|update|events|ps|list|features …"
    )]
    Usage(String),
    /// Something that is asked for and not there.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// The name of a container.
    #[error("`{0}` is no name of a container: letters, digits and `+-_.` only")]
    Name(String),
    /// No such container.
    #[error("container `{0}` does not exist")]
    Absent(String),
    /// There is one already.
    #[error("container `{0}` exists already")]
    Present(String),
    /// It is not in the state for that.
    #[error("cannot {action} container `{name}`: it is {status}")]
    State {
        /// What was asked.
        action: &'static str,
        /// Of which.
        name: String,
        /// What it is.
        status: &'static str,
    },
    /// The configuration.
    #[error("cannot read `{}`", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of ours, or one we were told to write.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The filter of system calls.
    #[error("the filter of system calls cannot be used")]
    Seccomp(#[source] berth_runtime::seccomp::SeccompError),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] berth_runtime::cgroup::CgroupError),
    /// The container.
    #[error(transparent)]
    Create(#[from] berth_runtime::CreateError),
    /// The program is not there. Engines look for the words of the first runtimes, to give the exit code 127.
    #[error("`{0}`: executable file not found in $PATH, or no such file or directory")]
    NotFound(String),
    /// Something in the bundle that the specification forbids.
    #[error("the configuration cannot be used: {0}")]
    Invalid(String),
    /// A hook failed.
    #[error("the {kind} hook `{}` failed: {reason}", path.display())]
    Hook {
        /// Its kind.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The program could not be kept out of reach.
    #[error("cannot run from a file that no container can write to")]
    Shelter(#[source] io::Error),
    /// The user namespace.
    #[error("cannot map the ids of the container")]
    Mappings(#[source] io::Error),
    /// A signal was refused.
    #[error("cannot signal container `{name}`")]
    Signal {
        /// Which.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl OciError {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// Carries out a command line, without the program's name and [`SUBCOMMAND`]. What is asked for goes to `output`; a failure to standard
/// error and to the log that the command line names. Returns the exit code.
///
/// `shelter` has the program go on from a file that nobody can write to. It starts the program anew, or returns when there is nothing to
/// do; it is called before anything is made, by the commands that need it.
///
/// The caller should have one thread: containers are cloned from it.
pub fn main(
    words: impl Iterator<Item = OsString>,
    output: &mut dyn Write,
    shelter: &dyn Fn() -> io::Result<()>,
) -> u8 {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let (global, outcome) = match flags::parse(&words) {
        Ok((global, command)) => {
            let shelter = || shelter().map_err(OciError::Shelter);
            let outcome = command.and_then(|command| run(&global, command, output, &shelter));
            (Some(global), outcome)
        }
        Err(error) => (None, Err(error)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let text = berth_report::chain(&error);
            let _nobody_listens = writeln!(io::stderr(), "error: {text}");
            if let Some(global) = global {
                global.log("error", &text);
            }
            if matches!(error, OciError::Usage(_)) { 2 } else { 1 }
        }
    }
}

/// The cgroups of this host, which stay where they are while a command runs.
fn hierarchies() -> Result<&'static Hierarchies, CgroupError> {
    static FOUND: OnceLock<Hierarchies> = OnceLock::new();
    match FOUND.get() {
        Some(found) => Ok(found),
        None => Hierarchies::detect_all().map(|found| FOUND.get_or_init(|| found)),
    }
}

/// A failure to make a container, in the words that engines look for.
fn told(error: berth_runtime::CreateError) -> OciError {
    match error {
        berth_runtime::CreateError::NotFound { command } => OciError::NotFound(command),
        other => OciError::Create(other),
    }
}

/// Has the program go on from a file that no container can write to.
type Shelter<'a> = dyn Fn() -> Result<(), OciError> + 'a;

fn run(
    global: &Global,
    command: Command,
    output: &mut dyn Write,
    shelter: &Shelter<'_>,
) -> Result<u8, OciError> {
    match command {
        Command::Create(asked) => create::create(global, &asked, shelter).map(|()| 0),
        Command::Run(asked) => act::run(global, &asked, shelter),
        Command::Start { name } => act::start(global, &name, shelter).map(|()| 0),
        Command::State { name } => {
            let state = state::State::load(&global.root, &name)?.to_value(&global.root);
            say(output, &state).map(|()| 0)
        }
        Command::Kill { name, signal, all } => act::kill(global, &name, &signal, all).map(|()| 0),
        Command::Delete { name, force } => act::delete(global, &name, force).map(|()| 0),
        Command::Exec(asked) => shelter().and_then(|()| act::exec(global, &asked)),
        Command::Pause { name } => act::freeze(global, &name, true).map(|()| 0),
        Command::Resume { name } => act::freeze(global, &name, false).map(|()| 0),
        Command::Processes { name, form, options } => {
            act::processes(global, &name, form, &options, output).map(|()| 0)
        }
        Command::Update { name, resources } => act::update(global, &name, resources).map(|()| 0),
        Command::Events { name, once, interval } => {
            events::tell(global, &name, once, interval, output).map(|()| 0)
        }
        Command::List(form) => act::list(global, form, output).map(|()| 0),
        Command::Features => say(output, &bundle::features()).map(|()| 0),
        Command::Help => {
            write!(output, "{}", flags::HELP)
                .map_err(OciError::file("write to", "standard output"))?;
            Ok(0)
        }
        Command::Version => {
            let text = format!(
                "berth oci version {}\nspec: {}",
                env!("CARGO_PKG_VERSION"),
                bundle::VERSION
            );
            writeln!(output, "{text}").map_err(OciError::file("write to", "standard output"))?;
            Ok(0)
        }
    }
}

fn say(output: &mut dyn Write, value: &serde_json::Value) -> Result<(), OciError> {
    writeln!(output, "{value:#}").map_err(OciError::file("write to", "standard output"))
}
