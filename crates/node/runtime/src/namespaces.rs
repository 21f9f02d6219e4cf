//! The namespaces a pod's containers share, held open by descriptors alone.
//!
//! A short-lived child creates them and leaves; the descriptors keep them alive. There is no pause process to pay for, but
//! where containers share a pid namespace: that lives only as long as its first process, so the child stays as one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_sys::clone::{CloneOptions, Cloned, clone3};
use berth_sys::exec::ShownArguments;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::channel::{self, Failure, Message, Step};
use crate::init;
use crate::sealed;

/// A range of user and group ids: container ids from 0 on become host ids from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMapping {
    /// First host id.
    pub host: u32,
    /// Number of ids.
    pub size: u32,
}

/// Which namespaces a pod gets.
#[derive(Debug, Clone, Default)]
pub struct NamespacesRequest {
    /// A user namespace with this mapping; without, the pod's root is the host's.
    pub user: Option<IdMapping>,
    /// An own network namespace rather than the host's.
    pub network: bool,
    /// An own IPC namespace.
    pub ipc: bool,
    /// A pid namespace for all containers, with a first process that reaps what they leave.
    pub processes: bool,
    /// An own UTS namespace with this host name.
    pub hostname: Option<String>,
    /// Kernel settings below `/proc/sys`, in dotted or slashed form, that belong to these namespaces.
    pub sysctls: Vec<(String, String)>,
}

/// The open namespaces of a pod. `None` means the host's.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// User namespace.
    pub user: Option<OwnedFd>,
    /// Network namespace.
    pub network: Option<OwnedFd>,
    /// IPC namespace.
    pub ipc: Option<OwnedFd>,
    /// UTS namespace.
    pub uts: Option<OwnedFd>,
    /// Pid namespace.
    pub processes: Option<OwnedFd>,
    /// The pidfd of its first process, which ends with the caller.
    init: Option<OwnedFd>,
}

/// Why namespaces could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NamespacesError {
    /// The kernel refused the clone.
    #[error("cannot create the namespaces of the pod")]
    Create(#[source] io::Error),
    /// The id mapping was refused.
    #[error("cannot map user ids from {} on", mapping.host)]
    Map {
        /// The mapping.
        mapping: IdMapping,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A setting was refused.
    #[error("cannot set kernel parameter `{name}` to `{value}`")]
    Sysctl {
        /// As requested.
        name: String,
        /// As requested.
        value: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Namespaces {
    /// Creates the namespaces.
    ///
    /// # Errors
    /// See [`NamespacesError`]; nothing is left behind.
    pub fn create(request: &NamespacesRequest) -> Result<Self, NamespacesError> {
        // Of a pid namespace; only where there is a new one do we need what shows of its first process.
        let (memory, arguments) = if request.processes {
            let settings = request.sysctls.iter().map(|(name, value)| (name, value));
            let memory = sealed::asked(settings).map_err(NamespacesError::Create)?;
            (memory, Some(ShownArguments::find().map_err(NamespacesError::Create)?))
        } else {
            (None, None)
        };
        let sysctls: Vec<(CString, CString)> = request
            .sysctls
            .iter()
            .filter(|(name, _)| !request.processes || !sealed::is_meant(name))
            .map(|(name, value)| Ok((sysctl_path(name)?, CString::new(value.as_str())?)))
            .collect::<io::Result<_>>()
            .map_err(NamespacesError::Create)?;
        let hostname = request.hostname.as_deref().unwrap_or_default().as_bytes();
        let flags = flags(request);
        let (ours, theirs) = channel::pair().map_err(NamespacesError::Create)?;
        // SAFETY: the child makes system calls on prepared values and exits.
        let cloned =
            unsafe { clone3(CloneOptions { namespaces: flags, ..CloneOptions::default() }) };
        let (pid, pidfd) = match cloned.map_err(NamespacesError::Create)? {
            Cloned::Child => {
                // So that it hears when its parent goes.
                drop(ours);
                let end = theirs.as_fd();
                let outcome = settle(end, request.user.is_some(), hostname, &sysctls)
                    .and_then(|()| if request.processes { init::prepare() } else { Ok(()) })
                    .and_then(|()| channel::send_pid(end, 0).map_err(Failure::at(Step::Wait, 0)));
                if let Err(failure) = outcome {
                    channel::report(end, failure);
                    berth_sys::exec::exit_now(1);
                }
                if let Some(arguments) = arguments {
                    init::stay(arguments);
                }
                // Stays until it is killed, so that /proc still names its namespaces.
                let _killed = channel::wait(end);
                berth_sys::exec::exit_now(0);
            }
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(theirs);
        let made = collect(request, pid, &ours).and_then(|made| match &memory {
            Some(value) => {
                sealed::set(pidfd.as_fd(), value).map_err(NamespacesError::Create).map(|()| made)
            }
            None => Ok(made),
        });
        match made {
            Ok(made) if request.processes => Ok(Self { init: Some(pidfd), ..made }),
            made => {
                end(&pidfd).map_err(NamespacesError::Create)?;
                made
            }
        }
    }

    /// Ends the first process of the shared pid namespace, and with it all that is left there, and waits for its end.
    ///
    /// Children of the caller in it must have been reaped: the namespace waits for them, and so would this.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn release(&mut self) -> io::Result<()> {
        self.init.take().map_or(Ok(()), |init| end(&init))
    }
}

fn end(pidfd: &OwnedFd) -> io::Result<()> {
    // It may be gone already; reaping it is what counts.
    let _gone = pidfd_send_signal(pidfd, Signal::KILL);
    let options = WaitIdOptions::EXITED;
    rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options))?;
    Ok(())
}

fn flags(request: &NamespacesRequest) -> u64 {
    let mut flags = 0;
    if request.user.is_some() {
        flags |= libc::CLONE_NEWUSER;
    }
    if request.network {
        flags |= libc::CLONE_NEWNET;
    }
    if request.ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    if request.hostname.is_some() {
        flags |= libc::CLONE_NEWUTS;
    }
    if request.processes {
        flags |= libc::CLONE_NEWPID;
    }
    flags.unsigned_abs().into()
}

/// Child: takes on the mapped root, then sets what belongs to the new namespaces.
fn settle(
    end: std::os::fd::BorrowedFd<'_>,
    mapped: bool,
    hostname: &[u8],
    sysctls: &[(CString, CString)],
) -> Result<(), Failure> {
    channel::wait(end)?;
    if mapped {
        berth_sys::exec::set_ids(0, 0).map_err(Failure::at(Step::Credentials, 0))?;
    }
    if !hostname.is_empty() {
        rustix::system::sethostname(hostname).map_err(Failure::at(Step::Hostname, 0))?;
    }
    for (index, (path, value)) in sysctls.iter().enumerate() {
        let file = open(path.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::at(Step::Sysctl, index))?;
        rustix::io::write(&file, value.to_bytes()).map_err(Failure::at(Step::Sysctl, index))?;
    }
    Ok(())
}

fn collect(
    request: &NamespacesRequest,
    pid: Pid,
    ours: &OwnedFd,
) -> Result<Namespaces, NamespacesError> {
    if let Some(mapping) = request.user {
        let failed = |source| NamespacesError::Map { mapping, source };
        let line = format!("0 {} {}\n", mapping.host, mapping.size);
        let proc = format!("/proc/{}", pid.as_raw_nonzero());
        std::fs::write(format!("{proc}/uid_map"), &line).map_err(failed)?;
        std::fs::write(format!("{proc}/gid_map"), &line).map_err(failed)?;
    }
    channel::release(ours.as_fd()).map_err(NamespacesError::Create)?;
    match channel::receive(ours).map_err(NamespacesError::Create)? {
        Message::Pid(_) => {}
        Message::Failed(failure) => {
            let source = io::Error::from_raw_os_error(failure.errno);
            return Err(match (failure.step, request.sysctls.get(usize::from(failure.index))) {
                (Step::Sysctl, Some((name, value))) => {
                    NamespacesError::Sysctl { name: name.clone(), value: value.clone(), source }
                }
                _ => NamespacesError::Create(source),
            });
        }
        Message::Terminal(_)
        | Message::Held
        | Message::Prepared
        | Message::Listener(_)
        | Message::Closed => {
            return Err(NamespacesError::Create(io::Error::other("the helper process died")));
        }
    }
    let take = |wanted: bool, kind: &str| -> Result<Option<OwnedFd>, NamespacesError> {
        if !wanted {
            return Ok(None);
        }
        let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| NamespacesError::Create(error.into()))?;
        Ok(Some(fd))
    };
    Ok(Namespaces {
        user: take(request.user.is_some(), "user")?,
        network: take(request.network, "net")?,
        ipc: take(request.ipc, "ipc")?,
        uts: take(request.hostname.is_some(), "uts")?,
        processes: take(request.processes, "pid")?,
        init: None,
    })
}

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` both name a file below `/proc/sys`.
pub(crate) fn sysctl_path(name: &str) -> io::Result<CString> {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let inside = Path::new(&relative)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if !inside || relative.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a kernel parameter"));
    }
    Ok(CString::new(format!("/proc/sys/{relative}"))?)
}
