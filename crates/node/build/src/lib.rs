//! Images from Dockerfiles, and base images from the machine's own packages.
//!
//! [`build`] reads a Dockerfile, skips the stages that nobody needs, runs independent stages side by side, and
//! leaves an image in the content store. A `COPY` never mounts anything: the layers below are read as one tree
//! ([`view`]) and the new files are laid straight into a snapshot. Only `RUN` needs a container, and gets one
//! through [`StepRunner`], so that this crate knows nothing of namespaces.
//!
//! Layers are remembered by what went into them: the layers below, the instruction with its variables, and the
//! content of copied files. Times do not count, so a fresh checkout builds from the cache.

pub mod base;
mod build;
mod commit;
mod copy;
mod error;
mod expand;
mod flags;
mod heredoc;
mod ignore;
mod instruction;
mod owner;
mod plan;
mod progress;
mod runner;
mod source;
mod stage;
mod view;

pub use build::{BuildRequest, ImageSource, Pull, build};
pub use error::{BuildError, Place, Problem};
pub use progress::{BuildProgress, Event, Silent, Step};
pub use runner::{NetworkMode, RunStep, RunnerError, StepMount, StepRunner};
