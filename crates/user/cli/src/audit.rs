//! `berth audit`: whether the audit log is what was written.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::failure::{Doing, Failure};
use crate::screen;

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that nobody changed the audit log, and print its newest hash
    Verify(VerifyArguments),
}

/// Flags of `berth audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The log; otherwise that of the data directory
    #[arg(value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// A hash that was noted earlier; it must be in the log
    #[arg(long, value_name = "HASH")]
    pub contains: Option<String>,
}

/// Does what is said about the audit log.
pub fn audit(command: AuditCommand, data: &Path) -> Result<u8, Failure> {
    let AuditCommand::Verify(arguments) = command;
    let path = arguments.log.unwrap_or_else(|| berth_audit::default_path(data));
    if !path.exists() {
        return Err(Failure::new(format!("there is no audit log at `{}`", path.display()))
            .hint("`berth serve` writes one into its data directory"));
    }
    let report = berth_audit::verify(&path)
        .doing("the audit log is not what was written")
        .map_err(|it| {
            it.hint(
                "keep a copy of the log as it is, and compare it with what was collected elsewhere",
            )
        })?;
    if let Some(hash) = &arguments.contains
        && !berth_audit::contains(&path, hash).doing("cannot read the audit log")?
    {
        return Err(Failure::new(format!("no line of the log has the hash {hash}"))
            .hint("the log was written anew since the hash was noted, or the line was put away with an old file"));
    }
    screen::line(format!(
        "lines {} to {} are whole ({} files)",
        report.first, report.last, report.files
    ));
    screen::line(format!("newest hash {}", report.hash));
    Ok(0)
}
