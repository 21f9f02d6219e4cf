//! The commands and what they have in common. The flags of each command stand with its code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::access::AccessCommand;
use crate::attach::AttachArguments;
use crate::audit::AuditCommand;
use crate::build::BuildArguments;
use crate::complete::CompletionArguments;
use crate::down::DownArguments;
use crate::exec::ExecArguments;
use crate::image::{ImageCommand, ListArguments, PullArguments, PushArguments};
use crate::lifecycle::{RemoveArguments, RestartArguments, StartArguments, StopArguments};
use crate::logs::LogsArguments;
use crate::ps::PsArguments;
use crate::run::RunArguments;
use crate::scale::ScaleArguments;
use crate::secret::SecretCommand;
use crate::serve::{ResetArguments, ServeArguments};
use crate::system::SystemCommand;
use crate::up::UpArguments;

/// Containerised applications from a laptop to production, in one program
#[derive(Debug, Parser)]
#[command(name = "berth", version, infer_long_args = false, max_term_width = 100)]
pub struct Cli {
    /// Directory of everything berth keeps on this machine
    #[arg(
        long,
        global = true,
        env = "BERTH_DATA_DIR",
        default_value = "/var/lib/berth",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether the command does much by itself, rather than wait for the server: such work is spread over the processors.
    #[must_use]
    pub fn is_laborious(&self) -> bool {
        matches!(
            self.command,
            Command::Serve(_)
                | Command::Build(_)
                | Command::Up(_)
                | Command::Image(_)
                | Command::Pull(_)
                | Command::Push(_)
                | Command::System(_)
        )
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build, plan and start an application from a Compose file or Kubernetes manifests
    Up(UpArguments),
    /// Stop and remove an application; volumes stay unless asked
    Down(DownArguments),
    /// List containers
    Ps(PsArguments),
    /// Show what containers write
    Logs(LogsArguments),
    /// Run a command in a running container
    Exec(ExecArguments),
    /// Connect to a running container's input and output
    Attach(AttachArguments),
    /// Run one container
    Run(Box<RunArguments>),
    /// Stop containers; they stay listed until removed
    Stop(StopArguments),
    /// Start stopped containers again
    Start(StartArguments),
    /// Start containers anew
    Restart(RestartArguments),
    /// Remove containers made by `berth run`
    Rm(RemoveArguments),
    /// Change how many containers a service has
    Scale(ScaleArguments),
    /// Build an image from a Dockerfile
    Build(BuildArguments),
    /// Work with images
    #[command(subcommand)]
    Image(ImageCommand),
    /// List images (as `berth image ls`)
    Images(ListArguments),
    /// Pull an image from its registry (as `berth image pull`)
    Pull(PullArguments),
    /// Push an image to its registry (as `berth image push`)
    Push(PushArguments),
    /// Run the server in the foreground
    Serve(ServeArguments),
    /// Stop the server and remove every trace of it from this machine, except images and volumes
    Reset(ResetArguments),
    /// Give people and teams access to the cluster, list it, take it away
    #[command(subcommand)]
    Access(AccessCommand),
    /// Work with the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Back up the cluster's state, and restore it
    #[command(subcommand)]
    System(SystemCommand),
    /// Work with the key that seals Secrets
    #[command(subcommand)]
    Secret(SecretCommand),
    /// The container runtime as a command for other engines: podman, containerd, docker
    #[command(disable_help_flag = true)]
    Oci(OciArguments),
    /// Print where the kubeconfig for kubectl and helm is
    Kubeconfig,
    /// Show the server, its node and what is stored
    Status,
    /// Show the version
    Version,
    /// Write the completion script of a shell
    Completion(CompletionArguments),
}

/// What `oci` is told; it reads it itself, before anything else of this program runs.
#[derive(Debug, Clone, Default, Args)]
pub struct OciArguments {
    /// A command and its flags, as engines write them; `berth oci help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
    pub words: Vec<OsString>,
}

/// Which project is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct ProjectFlag {
    /// The project; otherwise that of the Compose file here, if there is one
    #[arg(short, long = "project-name", visible_alias = "project", value_name = "NAME")]
    pub project: Option<String>,
}

/// How registries are reached.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryFlags {
    /// Registry (`host` or `host:port`) to speak to without TLS; may be repeated
    #[arg(long, value_name = "HOST", env = "BERTH_INSECURE_REGISTRY", value_delimiter = ',')]
    pub insecure_registry: Vec<String>,
}

/// When images are pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// Every time, in case the tag has moved
    Always,
    /// If they are not here
    Missing,
    /// Never
    Never,
}

/// Reads the command line. What is wrong with it, or what was asked about it, has been printed when this fails; the exit
/// code is 0 for help and version, docker's 125 for wrong flags of `run`, and 2 for all other mistakes.
///
/// # Errors
/// The exit code with which the program ends.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    const MISTAKE: u8 = 2;
    const RUN_MISTAKE: u8 = 125;
    let words: Vec<OsString> = words.into_iter().collect();
    Cli::try_parse_from(&words).map_err(|error| {
        let _reader_left = error.print();
        if !error.use_stderr() {
            return ExitCode::SUCCESS;
        }
        ExitCode::from(if means_run(&words) { RUN_MISTAKE } else { MISTAKE })
    })
}

/// Whether the first word that is neither a flag nor a flag's value is `run`.
fn means_run(words: &[OsString]) -> bool {
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        match &*word {
            "--data-dir" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            command => return command == "run",
        }
    }
    false
}

/// Reads `90`, `90s`, `3m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time as `90s`, `3m` or `1h`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_is_documented() {
        fn undocumented(command: &clap::Command, found: &mut Vec<String>) {
            for argument in command.get_arguments() {
                if argument.get_help().is_none() {
                    found.push(format!("{} {}", command.get_name(), argument.get_id()));
                }
            }
            for inner in command.get_subcommands() {
                if inner.get_about().is_none() {
                    found.push(inner.get_name().to_owned());
                }
                undocumented(inner, found);
            }
        }
        let mut found = Vec::new();
        undocumented(&Cli::command(), &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_wrong_flag_of_run_has_docker_s_exit_code() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(means_run(&words("berth --data-dir run run --nope x")));
        assert!(!means_run(&words("berth exec run")));
        assert_eq!(parse(words("berth run --nope x")).err(), Some(ExitCode::from(125)));
        assert_eq!(parse(words("berth ps --nope")).err(), Some(ExitCode::from(2)));
        assert_eq!(parse(words("berth --version")).err(), Some(ExitCode::SUCCESS));
        assert!(parse(words("berth run -it --rm busybox sh -c true")).is_ok());
    }

    #[test]
    fn the_help_lists_the_runtime() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("  oci "), "{help}");
        let words = ["berth", "--data-dir", "x", "oci", "--root", "y", "list"].map(OsString::from);
        let Command::Oci(found) = parse(words).unwrap().command else { panic!("another command") };
        assert_eq!(found.words, ["--root", "y", "list"]);
    }

    #[test]
    fn times_have_units_or_are_seconds() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("3m"), Ok(Duration::from_secs(180)));
        assert!(duration("soon").is_err());
    }
}
