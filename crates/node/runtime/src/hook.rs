//! Programs that other engines want to be called around a container: in the caller's namespaces or in the container's, but never as a
//! part of it. They have all privilege, so the program must never be one that the container brings.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::exec::StringArray;

use crate::channel::{Failure, Step};
use crate::container::{self, Birth, Calls, Container, StartError};
use crate::{child, held};

/// A program to call.
#[derive(Debug)]
pub struct HookRequest<'a> {
    /// Where it lies, as seen from where it runs.
    pub path: &'a Path,
    /// Its arguments, the first being its name; without any, its path is that.
    pub args: &'a [String],
    /// All of its environment.
    pub env: &'a [String],
    /// The process in whose namespaces it runs, and whether that has a user namespace of its own. `None` for the caller's.
    pub inside: Option<(BorrowedFd<'a>, bool)>,
    /// Where it begins, as seen from where it runs.
    pub directory: Option<&'a Path>,
    /// Input, output, error.
    pub stdio: [OwnedFd; 3],
}

impl Container {
    /// Starts a hook and returns once its program runs. The caller waits for it.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn hook(request: HookRequest<'_>) -> io::Result<Self> {
        let path = held::path(request.path)?;
        let directory = request.directory.map(held::path).transpose()?;
        let texts = |texts: &[String]| -> io::Result<Vec<CString>> {
            texts.iter().map(|text| Ok(CString::new(text.as_str())?)).collect()
        };
        let mut args = texts(request.args)?;
        if args.is_empty() {
            args.push(path.clone());
        }
        let (args, env) = (StringArray::new(args), StringArray::new(texts(request.env)?));
        let stdio = child::raw(&request.stdio);
        let inside = request.inside.map(|(process, mapped)| (process.as_raw_fd(), mapped));
        let run = |end: BorrowedFd<'_>| -> Result<Infallible, Failure> {
            child::become_hook((&path, directory.as_deref()), &args, &env, stdio, end)
        };
        let kinds = container::kinds();
        let join = || match inside {
            Some((process, mapped)) => container::enter(process, kinds, mapped),
            None => Ok(()),
        };
        let started = container::start(
            inside.is_some(),
            0,
            None,
            run,
            join,
            &Birth::default(),
            Calls::default(),
        );
        drop(request.stdio);
        started.map_err(|error| match error {
            StartError::Child(Failure { step: Step::Exec | Step::Directory, errno, .. }) => {
                io::Error::from_raw_os_error(errno)
            }
            StartError::Child(failure) => io::Error::other(format!(
                "step {:?}: {}",
                failure.step,
                io::Error::from_raw_os_error(failure.errno)
            )),
            StartError::Clone(error) => error,
            StartError::Cgroup(error) => io::Error::other(error),
            StartError::Prepare(error) => io::Error::other(error),
            StartError::Died => io::Error::other("it was killed before it began"),
        })
    }
}
