//! The process that shims are forked from.
//!
//! Forking the server is out of the question: it is threaded and large. Executing the binary once per pod costs
//! milliseconds and private memory for its relocations. The zygote is executed once, stays single-threaded and small, and
//! forks in a fraction of a millisecond. It leaves with the server; the shims stay.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use berth_sys::clone::{CloneOptions, Cloned, clone3};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use crate::server;

/// The hidden subcommand that turns the binary into a zygote.
pub const SUBCOMMAND: &str = "shim";

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready,
    Failed(String),
}

/// The server's handle to its zygote.
#[derive(Debug)]
pub struct Zygote {
    connection: Mutex<OwnedFd>,
    child: Mutex<Child>,
}

/// Why a shim could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// The process could not be executed.
    #[error("cannot execute `{}` as the shims' parent", program.display())]
    Execute {
        /// The binary.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It does not answer.
    #[error("the shims' parent does not answer")]
    Silent(#[source] io::Error),
    /// It answered with a failure.
    #[error("cannot start a shim in `{}`: {reason}", directory.display())]
    Refused {
        /// The pod's directory.
        directory: PathBuf,
        /// In the shim's words.
        reason: String,
    },
}

impl Zygote {
    /// Executes `program` with [`SUBCOMMAND`] as a zygote.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn(program: &Path) -> Result<Self, ZygoteError> {
        let failed = |source| ZygoteError::Execute { program: program.to_owned(), source };
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| failed(error.into()))?;
        let child = Command::new(program)
            .arg0("berth")
            .arg(SUBCOMMAND)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(failed)?;
        Ok(Self { connection: Mutex::new(ours), child: Mutex::new(child) })
    }

    /// Forks a shim for the pod whose directory this is. It listens at `shim.sock` there when this returns.
    ///
    /// # Errors
    /// When the zygote is gone or the shim cannot set itself up.
    pub fn fork(&self, directory: &Path) -> Result<(), ZygoteError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let order = Order { directory: directory.to_owned() };
        crate::protocol::send(&*connection, &order, &[]).map_err(ZygoteError::Silent)?;
        match crate::protocol::receive(&*connection).map_err(ZygoteError::Silent)? {
            Some((Answer::Ready, _)) => Ok(()),
            Some((Answer::Failed(reason), _)) => {
                Err(ZygoteError::Refused { directory: directory.to_owned(), reason })
            }
            None => Err(ZygoteError::Silent(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Closing our end is what ends it; killing makes sure that waiting cannot last.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _already_gone = child.kill();
        let _reaped = child.wait();
    }
}

/// The zygote's whole life, with its order socket as standard input. Returns the exit code.
#[must_use]
pub fn main() -> i32 {
    let orders = std::io::stdin();
    ignore_children();
    loop {
        let order: Order = match crate::protocol::receive(orders.as_fd()) {
            Ok(Some((order, _))) => order,
            // The server is gone.
            Ok(None) | Err(_) => return 0,
        };
        // SAFETY: this process has one thread, so the child may do what any process may.
        match unsafe { clone3(CloneOptions::default()) } {
            Ok(Cloned::Parent { .. }) => {}
            Ok(Cloned::Child) => return shim(&order.directory, orders.as_fd()),
            Err(error) => answer(orders.as_fd(), &Answer::Failed(error.to_string())),
        }
    }
}

/// Ended shims need no waiting for.
fn ignore_children() {
    // SAFETY: sets a disposition, no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

fn answer(orders: BorrowedFd<'_>, answer: &Answer) {
    // A server that is gone needs no answer.
    let _gone = crate::protocol::send(orders, answer, &[]);
}

fn shim(directory: &Path, orders: BorrowedFd<'_>) -> i32 {
    berth_sys::exec::reset_signals();
    // A reader that leaves is an error to handle, not a reason to die.
    // SAFETY: sets a disposition, no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let server = detach(directory).and_then(|()| server::Server::bind(directory));
    match server {
        Ok(server) => {
            answer(orders, &Answer::Ready);
            // The connection belongs to the zygote; keeping a copy would hide the server's end from it.
            if let Err(error) = replace_input() {
                return fail(directory, &error);
            }
            match server.run() {
                Ok(()) => 0,
                Err(error) => fail(directory, &error),
            }
        }
        Err(error) => {
            answer(orders, &Answer::Failed(error.to_string()));
            1
        }
    }
}

fn fail(directory: &Path, error: &io::Error) -> i32 {
    // Standard error is the shim's log in the pod's directory.
    let message = format!("{}: {error}\n", directory.display());
    let _nowhere_left = rustix::io::write(std::io::stderr(), message.as_bytes());
    1
}

/// Leaves the server's session, and takes a log file of its own as standard error.
fn detach(directory: &Path) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    rustix::thread::set_name(c"berth-shim")?;
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(directory.join("shim.log"))?;
    rustix::stdio::dup2_stderr(&log)?;
    Ok(())
}

fn replace_input() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(())
}
