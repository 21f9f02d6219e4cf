//! Stopping the processes of a cgroup where they are, and letting them go on.

use std::fs;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Cgroup, CgroupError, failed, is_gone, members, write};

/// The longest the kernel may take. A process that waits uninterruptibly for a disk does not stop before that answers.
const PATIENCE: Duration = Duration::from_secs(10);
const ACTION: &str = "freeze or thaw";

impl Cgroup {
    /// Stops all its processes where they are, or lets them go on, and returns once that is so.
    ///
    /// # Errors
    /// When neither version 2 nor the freezer of version 1 is there, or the kernel has not done it within ten seconds.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(path) = &self.unified else {
            return self.freeze_legacy(frozen);
        };
        let wanted = u8::from(frozen);
        // Opened first, so that no change of it is missed.
        let events = path.join("cgroup.events");
        let mut file = fs::File::open(&events).map_err(failed("open", &events))?;
        write(&path.join("cgroup.freeze"), &wanted.to_string())?;
        let done = until_said(&mut file, &format!("frozen {wanted}"), PATIENCE);
        done.map_err(failed(ACTION, path))
    }

    /// The older freezer tells nobody when it is done, so it is asked again; and it may be held up by processes that are being made.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel tells nobody; the loop has a deadline"
    )]
    fn freeze_legacy(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(path) = self.controller("freezer") else {
            return Err(failed(ACTION, Path::new("/"))(io::ErrorKind::Unsupported.into()));
        };
        let file = path.join("freezer.state");
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        let until = Instant::now() + PATIENCE;
        loop {
            write(&file, wanted)?;
            let state = fs::read_to_string(&file).map_err(failed("read", &file))?;
            if state.trim() == wanted {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(failed(ACTION, path)(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether its processes are stopped, or on their way there.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        if self.unified.is_none() {
            let state = self.controller("freezer").map(|path| path.join("freezer.state"));
            let state = state.and_then(|file| fs::read_to_string(file).ok());
            return state.is_some_and(|state| state.trim() != "THAWED");
        }
        let file = self.unified.as_ref().map(|path| path.join("cgroup.freeze"));
        file.and_then(|file| fs::read_to_string(file).ok()).is_some_and(|text| text.trim() == "1")
    }
}

/// Waits for a line of a file that the kernel changes. The very file that is waited for has to be read: the kernel remembers by it
/// what has been seen, and tells of a change that has not.
fn until_said(file: &mut fs::File, line: &str, patience: Duration) -> io::Result<()> {
    let until = Instant::now() + patience;
    loop {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if text.lines().any(|known| known == line) {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut waiting = [PollFd::new(file, PollFlags::PRI)];
        rustix::io::retry_on_intr(|| poll(&mut waiting, Some(&left)))?;
    }
}

/// Lets go on whoever the older freezer holds in a cgroup or below it.
pub(super) fn thaw_below(cgroup: &Cgroup) -> Result<(), CgroupError> {
    cgroup.controller("freezer").map_or(Ok(()), |path| thaw(path, 0))
}

fn thaw(path: &Path, depth: usize) -> Result<(), CgroupError> {
    let file = path.join("freezer.state");
    match fs::read_to_string(&file) {
        Ok(text) if text.trim() != "THAWED" => match fs::write(&file, "THAWED") {
            Err(error) if !is_gone(&error) => return Err(failed("write to", &file)(error)),
            _ => {}
        },
        Err(error) if !is_gone(&error) => return Err(failed("read", &file)(error)),
        _ => {}
    }
    members::nested(path, depth, &mut thaw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_said_is_waited_for_without_turning_round() {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = super::super::Hierarchies::parse(&text, &[]).unified;
        let path = root.expect("this test needs a cgroup hierarchy of version 2");
        let path = path.join(format!("berth-freezer-test-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let mut file = fs::File::open(path.join("cgroup.events")).unwrap();
        let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let (before, begun) = (used(), Instant::now());
        let outcome = until_said(&mut file, "frozen 2", Duration::from_millis(300));
        let (after, waited) = (used(), begun.elapsed());
        drop(file);
        fs::remove_dir(&path).unwrap();
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(waited >= Duration::from_millis(300), "{waited:?}");
        let spent = Duration::try_from(after).unwrap() - Duration::try_from(before).unwrap();
        assert!(spent < Duration::from_millis(100), "{spent:?} of the processor");
    }
}
