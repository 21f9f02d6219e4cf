//! The agent's side of a shim. Calls block for as long as the kernel needs, so async callers use a blocking thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::protocol::{self, ContainerState, Exec, Exit, Reply, Request, Sandbox, Start};

/// File name of a shim's socket in its pod's directory.
pub const SOCKET: &str = "shim.sock";

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// There is no shim.
    #[error("no shim listens at `{}`", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It went away, or spoke out of turn.
    #[error("the shim at `{}` does not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It tried and failed.
    #[error("{message}")]
    Failed {
        /// The chain of reasons.
        message: String,
        /// Exit code that stands for it: 127 for a missing command, 126 for one that cannot be executed.
        exit_code: i32,
    },
}

/// A pod's shim, by its socket.
#[derive(Debug, Clone)]
pub struct Shim {
    path: PathBuf,
}

/// A process started by [`Shim::exec`].
#[derive(Debug)]
pub struct Execution {
    connection: UnixStream,
    path: PathBuf,
    /// Controlling side of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// Pid on the host.
    pub pid: i32,
}

/// What [`Shim::attach`] found.
#[derive(Debug)]
pub struct Attached {
    /// How much is in the container's log file before what is copied.
    pub offset: u64,
    /// Nobody was attached before.
    pub first: bool,
    /// The container's input, if it is open.
    pub input: Option<OwnedFd>,
}

/// What [`Shim::subscribe`] yields.
#[derive(Debug)]
pub struct Events {
    connection: UnixStream,
    path: PathBuf,
}

impl Shim {
    /// The shim of the pod whose directory this is.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self { path: directory.join(SOCKET) }
    }

    fn connect(&self) -> Result<UnixStream, ShimError> {
        connect(&self.path).map_err(|source| ShimError::Absent { path: self.path.clone(), source })
    }

    fn silent(&self) -> impl Fn(io::Error) -> ShimError {
        let path = self.path.clone();
        move |source| ShimError::Silent { path: path.clone(), source }
    }

    fn ask(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(UnixStream, Reply, Vec<OwnedFd>), ShimError> {
        let connection = self.connect()?;
        protocol::send(&connection, request, descriptors).map_err(self.silent())?;
        let (reply, descriptors) = next(&connection).map_err(self.silent())?;
        if let Reply::Failed { message, exit_code } = reply {
            return Err(ShimError::Failed { message, exit_code });
        }
        Ok((connection, reply, descriptors))
    }

    /// Creates the pod's namespaces. Returns its network namespace unless it uses the host's.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn create_sandbox(&self, sandbox: Sandbox) -> Result<Option<OwnedFd>, ShimError> {
        let (_, _, descriptors) = self.ask(&Request::CreateSandbox(sandbox), &[])?;
        Ok(descriptors.into_iter().next())
    }

    /// Starts a container. Returns its pid on the host.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn start(&self, start: Start) -> Result<i32, ShimError> {
        match self.ask(&Request::Start(Box::new(start)), &[])?.1 {
            Reply::Started { pid } => Ok(pid),
            other => Err(self.silent()(unexpected(&other))),
        }
    }

    /// Starts a further process on `stdio`, or on a terminal if `exec` asks for one.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn exec(&self, exec: Exec, stdio: Option<[OwnedFd; 3]>) -> Result<Execution, ShimError> {
        let descriptors: Vec<BorrowedFd<'_>> = stdio.iter().flatten().map(AsFd::as_fd).collect();
        let (connection, reply, descriptors) =
            self.ask(&Request::Exec(Box::new(exec)), &descriptors)?;
        let Reply::Started { pid } = reply else { return Err(self.silent()(unexpected(&reply))) };
        Ok(Execution {
            connection,
            path: self.path.clone(),
            terminal: descriptors.into_iter().next(),
            pid,
        })
    }

    /// Copies output of a container to two descriptors from now on, beginning with the line that is being written.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn attach(
        &self,
        container: &str,
        output: &OwnedFd,
        error: &OwnedFd,
    ) -> Result<Attached, ShimError> {
        let request = Request::Attach { container: container.to_owned() };
        match self.ask(&request, &[output.as_fd(), error.as_fd()])? {
            (_, Reply::Attached { offset, first }, descriptors) => {
                Ok(Attached { offset, first, input: descriptors.into_iter().next() })
            }
            (_, other, _) => Err(self.silent()(unexpected(&other))),
        }
    }

    /// Sends a signal to a container's first process. One that has ended is no error.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn signal(&self, container: &str, signal: i32) -> Result<(), ShimError> {
        self.ask(&Request::Signal { container: container.to_owned(), signal }, &[]).map(drop)
    }

    /// Closes a container's standard input.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn close_input(&self, container: &str) -> Result<(), ShimError> {
        self.ask(&Request::CloseInput { container: container.to_owned() }, &[]).map(drop)
    }

    /// What runs in the pod, and its network namespace unless it uses the host's.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn state(&self) -> Result<(Vec<ContainerState>, Option<OwnedFd>), ShimError> {
        match self.ask(&Request::State, &[])? {
            (_, Reply::State(state), descriptors) => Ok((state, descriptors.into_iter().next())),
            (_, other, _) => Err(self.silent()(unexpected(&other))),
        }
    }

    /// Ends of containers, from now on.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn subscribe(&self) -> Result<Events, ShimError> {
        let (connection, _, _) = self.ask(&Request::Subscribe, &[])?;
        Ok(Events { connection, path: self.path.clone() })
    }

    /// Forgets a container that has ended.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub fn forget(&self, container: &str) -> Result<(), ShimError> {
        self.ask(&Request::Forget { container: container.to_owned() }, &[]).map(drop)
    }

    /// Kills what runs and ends the shim. Without a shim there is nothing to do.
    ///
    /// # Errors
    /// When the shim does not answer.
    pub fn shutdown(&self) -> Result<(), ShimError> {
        let mut outcome = self.ask(&Request::Shutdown, &[]);
        if let Err(ShimError::Silent { .. }) = &outcome {
            // It may have left on another's request between taking the connection and reading from it.
            outcome = self.ask(&Request::Shutdown, &[]);
        }
        match outcome {
            Err(ShimError::Absent { .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl Execution {
    /// The connection, for callers who wait without blocking: one frame of a four-byte little-endian length and
    /// [`Reply::Exited`] in JSON.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.connection
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// When the shim goes away.
    pub fn wait(&self) -> Result<Exit, ShimError> {
        let silent = |source| ShimError::Silent { path: self.path.clone(), source };
        match next(&self.connection).map_err(silent)?.0 {
            Reply::Exited { exit, .. } => Ok(exit),
            other => Err(silent(unexpected(&other))),
        }
    }
}

impl Events {
    /// The next container that ends; `None` once the shim has left.
    ///
    /// # Errors
    /// When what arrives cannot be read.
    pub fn next_exit(&self) -> Result<Option<(String, Exit)>, ShimError> {
        let silent = |source| ShimError::Silent { path: self.path.clone(), source };
        match protocol::receive(&self.connection).map_err(silent)? {
            Some((Reply::Exited { container, exit }, _)) => Ok(Some((container, exit))),
            Some((other, _)) => Err(silent(unexpected(&other))),
            None => Ok(None),
        }
    }

    /// The connection, for callers who read it without blocking: frames of a four-byte little-endian length and a
    /// [`Reply`] in JSON.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.connection
    }
}

fn next(connection: &UnixStream) -> io::Result<(Reply, Vec<OwnedFd>)> {
    protocol::receive(connection)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {reply:?}"))
}

/// A socket address holds 108 bytes and data directories can be deeper: connect through a descriptor of the directory.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let (directory, name) = short(path)?;
    UnixStream::connect(directory.1.join(name))
}

/// An open directory and a short path to it, valid while the directory is open.
pub(crate) type Shortened = (OwnedFd, PathBuf);

pub(crate) fn short(path: &Path) -> io::Result<(Shortened, PathBuf)> {
    use std::os::fd::AsRawFd;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory: OwnedFd = std::fs::File::open(parent)?.into();
    let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    Ok(((directory, through), name.into()))
}
