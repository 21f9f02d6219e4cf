//! `berth exec`: a further process in a running container.

use std::path::Path;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;

use crate::arguments::ProjectFlag;
use crate::failure::{Asking, Failure};
use crate::session::Session;
use crate::{locate, stream, terminal};

const CHUNK: usize = 64 << 10;

/// Flags of `berth exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// Send standard input; on by itself when a person is at the terminal
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal; on by itself when a person is at the terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The container, in a pod that has several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    #[command(flatten)]
    pub project: ProjectFlag,
    /// Service, pod or container
    pub name: String,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<String>,
}

/// Runs the command; returns its exit code.
pub async fn exec(arguments: ExecArguments, data: &Path) -> Result<u8, Failure> {
    let by_itself = !arguments.interactive && !arguments.tty && terminal::is_interactive();
    let input = arguments.interactive || by_itself;
    let tty = arguments.tty || by_itself;
    if arguments.tty && input && !terminal::has_input() {
        return Err(Failure::usage("`-t` needs a terminal, and standard input is none")
            .hint("leave `-t` away"));
    }
    let session = Session::join(data).await?;
    let located =
        locate::pods(&session.client, &arguments.name, arguments.project.project.as_deref())
            .await?;
    let pod = located.running(&arguments.name)?;
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let container = arguments.container.or_else(|| main_container(pod, &arguments.name));
    let api: Api<Pod> = Api::namespaced(session.client.clone(), &located.namespace);
    let params = parameters(container, input, tty);
    // What does not begin with a dash ends the flags, so a first `--` is the caller's separator.
    let command = match arguments.command.split_first() {
        Some((first, rest)) if first == "--" => rest.to_vec(),
        _ => arguments.command,
    };
    let process = api.exec(&pod_name, &command, &params).await.asking(format!(
        "cannot run `{}` in `{}`",
        command.join(" "),
        arguments.name
    ))?;
    finish(stream::join(process).await?, &command)
}

/// The container of the same name as was asked for, in a pod that has several.
fn main_container(pod: &Pod, name: &str) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let named = containers.iter().find(|container| container.name == name);
    named.or(containers.first()).map(|container| container.name.clone())
}

/// What is asked for; a terminal has one output.
pub fn parameters(container: Option<String>, input: bool, tty: bool) -> AttachParams {
    AttachParams {
        container,
        stdin: input,
        stdout: true,
        stderr: !tty,
        tty,
        max_stdin_buf_size: Some(CHUNK),
        max_stdout_buf_size: Some(CHUNK),
        max_stderr_buf_size: Some(CHUNK),
    }
}

fn finish(
    status: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>,
    command: &[String],
) -> Result<u8, Failure> {
    let shown = command.join(" ");
    let Some(status) = status else {
        return Err(Failure::new(format!("lost the connection to `{shown}` before its end")));
    };
    if let Some(code) = stream::exit_code(&status) {
        return Ok(code);
    }
    let message = status.message.unwrap_or_default();
    let code = start_error(&message);
    Err(Failure::new(format!("cannot run `{shown}`")).because(message).exit(code))
}

/// Docker's exit codes for a command that could not be started, told from the words of the error.
pub fn start_error(message: &str) -> u8 {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["not found", "no such file"]) {
        127
    } else if says(&["permission denied", "exec format", "is a directory", "not executable"]) {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::start_error;

    #[test]
    fn start_errors_have_dockers_codes() {
        assert_eq!(start_error("cannot execute `nope`: No such file or directory"), 127);
        assert_eq!(start_error("`x`: executable file not found in PATH"), 127);
        assert_eq!(start_error("cannot execute `/etc`: Permission denied"), 126);
        assert_eq!(start_error("no memory"), 125);
    }
}
