//! What can go wrong in a build, always with the place in the Dockerfile.

use std::fmt;
use std::io;
use std::path::PathBuf;

use berth_content::ContentError;
use berth_unpack::{PackError, UnpackError};

use crate::runner::RunnerError;

/// A failed build.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An instruction is wrong or failed.
    #[error("{place}")]
    At {
        /// Where, and which instruction.
        place: Place,
        /// What.
        source: Box<Problem>,
    },
    /// The request itself.
    #[error("{0}")]
    Request(String),
    /// The store failed outside any instruction.
    #[error("cannot use the image store")]
    Store(#[from] ContentError),
}

impl BuildError {
    pub(crate) fn at(place: Place, problem: Problem) -> Self {
        Self::At { place, source: Box::new(problem) }
    }
}

/// A place in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The Dockerfile.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// The instruction in one line, shortened.
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// What is wrong with an instruction, or went wrong in it.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Not a Dockerfile.
    #[error("{0}")]
    Syntax(String),
    /// Known, but not done by this builder.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// A variable that must be set, or an unknown way to use one.
    #[error("{0}")]
    Variable(String),
    /// A stage, image or number that does not exist.
    #[error("{0}")]
    Missing(String),
    /// A base image that could not be fetched.
    #[error("cannot get image `{image}`")]
    Fetch {
        /// Which.
        image: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A process that failed, with the last lines it wrote.
    #[error("the command exited with code {code}{}", tail(output))]
    Exit {
        /// Its exit code.
        code: i32,
        /// Its last lines.
        output: String,
    },
    /// The runtime failed.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] ContentError),
    /// The changes could not be packed.
    #[error("cannot make a layer")]
    Pack(#[from] PackError),
    /// An archive given to `ADD`.
    #[error("cannot extract the archive")]
    Unpack(#[from] UnpackError),
    /// A file could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn tail(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; its last output:\n{output}") }
}

/// Adds what was tried to an I/O error.
pub(crate) trait OnFile<T> {
    fn on_file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, Problem>;
}

impl<T, E: Into<io::Error>> OnFile<T> for Result<T, E> {
    fn on_file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, Problem> {
        self.map_err(|error| Problem::File { action, path: path.into(), source: error.into() })
    }
}
