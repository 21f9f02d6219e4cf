//! `berth completion`: scripts with which shells complete berth's commands.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Cli;
use crate::screen;

/// Flags of `berth completion`.
#[derive(Debug, Args)]
pub struct CompletionArguments {
    /// The shell to write for
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Writes the script.
pub fn completion(arguments: &CompletionArguments) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "berth", &mut script);
    u8::from(screen::output(&script).is_err())
}
