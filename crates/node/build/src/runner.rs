//! What a `RUN` step needs from a container runtime.

use std::io::Write;
use std::path::PathBuf;

/// Runs one build step in a container.
pub trait StepRunner: Send + Sync {
    /// Mounts `upper` over `lower` with overlayfs (`redirect_dir=off,metacopy=off`, so that every change lies in
    /// `upper` itself), runs the process to its end with both its outputs written to `output`, unmounts, and
    /// returns the exit code (128 plus the signal for a killed process). Blocks. Several steps of different
    /// stages may run at once. Mount points the runner makes inside the root should be removed again; empty
    /// `/proc`, `/sys`, `/dev` and an empty `/etc/resolv.conf`, `/etc/hosts` or `/etc/hostname` that the layers
    /// below do not have are taken out of the layer anyway.
    ///
    /// # Errors
    ///
    /// When the container could not be run at all.
    fn run(&self, step: &RunStep, output: &mut dyn Write) -> Result<i32, RunnerError>;
}

/// One step to run.
#[derive(Debug, Clone)]
pub struct RunStep {
    /// Layers below, the lowest first; never empty.
    pub lower: Vec<PathBuf>,
    /// Where changes go; empty at the start.
    pub upper: PathBuf,
    /// Overlayfs's work directory; empty, on the filesystem of `upper`.
    pub work: PathBuf,
    /// Program and arguments; the program is looked up in the `PATH` of `env` inside the root.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside the root; to be made if it is missing.
    pub cwd: PathBuf,
    /// As in `USER`: `user`, `user:group`, by name or number; empty for root. Names are those of the root.
    pub user: String,
    /// Which network.
    pub network: NetworkMode,
    /// Mounts of this step alone; what is in them is not part of the layer.
    pub mounts: Vec<StepMount>,
}

/// Which network a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// Whatever containers have by default; it reaches the outside.
    #[default]
    Default,
    /// None but loopback.
    None,
    /// The host's.
    Host,
}

/// A mount for one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepMount {
    /// A directory or file of the host.
    Bind {
        /// On the host.
        source: PathBuf,
        /// Inside the root.
        target: PathBuf,
        /// Whether the step may not write.
        read_only: bool,
    },
    /// An empty filesystem in memory.
    Tmpfs {
        /// Inside the root.
        target: PathBuf,
        /// Limit in bytes.
        size: Option<u64>,
    },
}

/// The container could not be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run the step in a container")]
pub struct RunnerError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
