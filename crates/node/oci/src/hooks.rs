//! Programs that an engine wants to be called as its container comes and goes.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_runtime::Container;
use berth_runtime::hook::HookRequest;
use oci_spec::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, kill_process_group};
use serde_json::Value;

use crate::OciError;
use crate::act::wait;

/// The hooks of a configuration, by their names.
pub(crate) fn named<'a>(hooks: Option<&'a Hooks>, name: &str) -> &'a [Hook] {
    let Some(hooks) = hooks else { return &[] };
    // Engines still use the oldest kind.
    let found = match name {
        "prestart" => hooks.prestart(),
        "createRuntime" => hooks.create_runtime(),
        "createContainer" => hooks.create_container(),
        "startContainer" => hooks.start_container(),
        "poststart" => hooks.poststart(),
        _ => hooks.poststop(),
    };
    found.as_deref().unwrap_or_default()
}

/// Starts a hook as a process of the container, with these streams.
pub(crate) type Enter<'a> = dyn Fn(&Hook, [OwnedFd; 3]) -> Result<Container, OciError> + 'a;

/// Where hooks run.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// Beside the engine, in the directory of the bundle.
    Outside(&'a Path),
    /// In the namespaces of a container's first process, and whether it has a user namespace of its own. The program is the host's.
    Inside(BorrowedFd<'a>, bool),
    /// In the container. The program is the container's, and has no more rights than its process.
    Within(&'a Enter<'a>),
}

/// Calls hooks one after the other; the first that fails ends it.
pub(crate) fn call(
    kind: &'static str,
    hooks: &[Hook],
    state: &Value,
    place: Place<'_>,
) -> Result<(), OciError> {
    hooks.iter().try_for_each(|hook| {
        one(hook, state, place).map_err(|reason| OciError::Hook {
            kind,
            path: hook.path().clone(),
            reason,
        })
    })
}

/// What is written to it is kept in memory, so that nobody waits for anybody.
fn scratch(name: &str) -> Result<File, String> {
    let made = memfd_create(name, MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|error| format!("no memory for its streams: {error}"))
}

fn one(hook: &Hook, state: &Value, place: Place<'_>) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut input = scratch("state")?;
    input.write_all(state.to_string().as_bytes()).and_then(|()| input.rewind()).map_err(text)?;
    let mut said = scratch("said")?;
    let copy = |file: &File| -> Result<OwnedFd, String> {
        file.try_clone().map(OwnedFd::from).map_err(text)
    };
    let stdio = [input.into(), copy(&said)?, copy(&said)?];
    let beside = |inside, directory, stdio| {
        Container::hook(HookRequest {
            path: hook.path(),
            args: hook.args().as_deref().unwrap_or_default(),
            env: hook.env().as_deref().unwrap_or_default(),
            inside,
            directory,
            stdio,
        })
        .map_err(text)
    };
    let process = match place {
        Place::Outside(bundle) => beside(None, Some(bundle), stdio)?,
        Place::Inside(process, mapped) => beside(Some((process, mapped)), None, stdio)?,
        Place::Within(enter) => enter(hook, stdio).map_err(|error| berth_report::chain(&error))?,
    };
    if let Some(seconds) = hook.timeout() {
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let mut ended = [PollFd::from_borrowed_fd(process.pidfd.as_fd(), PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&limit)));
        if ready.map_err(|error| error.to_string())? == 0 {
            // It leads a group of its own, with all that it started.
            let _ended = kill_process_group(process.pid, Signal::KILL);
            wait(&process).map_err(|error| error.to_string())?;
            return Err(format!("it took longer than {seconds} s"));
        }
    }
    let code = wait(&process).map_err(|error| error.to_string())?;
    if code == 0 {
        return Ok(());
    }
    let mut words = String::new();
    let _not_text = said.rewind().and_then(|()| (&said).take(4096).read_to_string(&mut words));
    match words.trim() {
        "" => Err(format!("it ended with {code}")),
        words => Err(format!("it ended with {code}: {words}")),
    }
}
