//! One container as its shim holds it: processes, output, attachments.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use berth_runtime::Container;
use berth_runtime::cgroup::Cgroup;
use berth_runtime::seccomp::Program;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::exit_file::ExitFile;
use crate::log::{Journal, Stream};
use crate::protocol::{ContainerState, Exit};

/// Where a process's output is read from.
#[derive(Debug)]
pub struct Source {
    pub stream: Stream,
    pub pipe: OwnedFd,
}

/// Somebody who reads along.
#[derive(Debug)]
struct Attachment {
    sinks: [OwnedFd; 2],
    /// What each sink had no room for. Nothing more is read from the container until it has gone out.
    waiting: [Vec<u8>; 2],
}

/// A container, running or ended.
#[derive(Debug)]
pub struct Held {
    pub name: String,
    pub process: Container,
    pub cgroup: Cgroup,
    pub mapped: bool,
    /// It has a pid namespace of its own, which takes along what its first process leaves.
    pub alone: bool,
    /// The filter of its own configuration, which further processes get as well.
    pub program: Option<Program>,
    pub sources: Vec<Source>,
    /// The container's input: a pipe, or the controlling side of its terminal.
    pub input: Option<OwnedFd>,
    pub exit: Option<Exit>,
    pub exit_file: ExitFile,
    started: i64,
    memory_kills: u64,
    journal: Journal,
    attachments: Vec<Attachment>,
    /// Somebody has been attached.
    attended: bool,
}

/// How much of a container's output is read in one go.
const CHUNK: usize = 32 << 10;

impl Held {
    pub fn new(
        name: String,
        process: Container,
        cgroup: Cgroup,
        mapped: bool,
        journal: Journal,
        exit_file: ExitFile,
    ) -> Self {
        let memory_kills = cgroup.memory_kills();
        Self {
            name,
            process,
            cgroup,
            mapped,
            alone: true,
            program: None,
            sources: Vec::new(),
            input: None,
            exit: None,
            started: now(),
            memory_kills,
            journal,
            exit_file,
            attachments: Vec::new(),
            attended: false,
        }
    }

    pub fn state(&self) -> ContainerState {
        ContainerState {
            container: self.name.clone(),
            pid: self.process.pid.as_raw_nonzero().get(),
            started: self.started,
            exit: self.exit,
        }
    }

    /// Adds somebody who reads along. Returns how much is in the log file before what they get, and whether they are the
    /// first.
    pub fn attach(&mut self, sinks: [OwnedFd; 2]) -> io::Result<(u64, bool)> {
        for sink in &sinks {
            set_nonblocking(sink)?;
        }
        let mut attachment = Attachment { sinks, waiting: [Vec::new(), Vec::new()] };
        // A line without its end, such as a prompt, is in no log file yet.
        for stream in [Stream::Output, Stream::Error] {
            if !attachment.offer(stream, self.journal.unfinished(stream)) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        self.attachments.push(attachment);
        Ok((self.journal.offset(), !std::mem::replace(&mut self.attended, true)))
    }

    /// Whether output may be read: not while an attachment is behind.
    pub fn flowing(&self) -> bool {
        self.attachments.iter().all(|attachment| !attachment.is_behind())
    }

    /// Sinks to poll for room, with the position of their attachment.
    pub fn stalled(&self) -> impl Iterator<Item = (usize, &OwnedFd)> {
        self.attachments.iter().enumerate().filter_map(|(index, attachment)| {
            let behind = attachment.waiting.iter().position(|bytes| !bytes.is_empty())?;
            Some((index, &attachment.sinks[behind]))
        })
    }

    /// Writes on what an attachment had no room for.
    pub fn resume(&mut self, index: usize) {
        let Some(attachment) = self.attachments.get_mut(index) else { return };
        let present = [Stream::Output, Stream::Error].into_iter().all(|stream| {
            let bytes = std::mem::take(&mut attachment.waiting[stream as usize]);
            attachment.offer(stream, &bytes)
        });
        // After the container's end an attachment only stays for what it still has to get.
        if !present || self.exit.is_some() && !attachment.is_behind() {
            self.attachments.remove(index);
        }
    }

    /// Reads what is there from one source; at its end the source is dropped.
    pub fn read(&mut self, index: usize) {
        let Some(source) = self.sources.get(index) else { return };
        let mut buffer = [0_u8; CHUNK];
        let stream = source.stream;
        match rustix::io::retry_on_intr(|| rustix::io::read(&source.pipe, &mut buffer)) {
            Ok(0) => drop(self.sources.remove(index)),
            Ok(length) => {
                self.journal.take(stream, &buffer[..length]);
                self.attachments
                    .retain_mut(|attachment| attachment.offer(stream, &buffer[..length]));
            }
            Err(Errno::AGAIN) => {}
            // A terminal whose other side is closed answers `EIO`: that is its end.
            Err(_) => drop(self.sources.remove(index)),
        }
    }

    /// The first process has ended: reaps it, takes in the rest of its output and says how it ended.
    pub fn conclude(&mut self) -> io::Result<Exit> {
        let mut exit = reap(self.process.pidfd.as_fd())?;
        exit.out_of_memory = self.cgroup.memory_kills() > self.memory_kills;
        if !self.alone {
            self.cgroup.kill().map_err(io::Error::other)?;
        }
        // Now the pipes have no writers left but what they still hold.
        while !self.sources.is_empty() {
            let before = self.journal.offset();
            let count = self.sources.len();
            self.read(0);
            if count == self.sources.len() && before == self.journal.offset() && !self.readable(0) {
                self.sources.remove(0);
            }
        }
        self.journal.finish();
        self.input = None;
        self.attachments.retain(Attachment::is_behind);
        self.exit = Some(exit);
        Ok(exit)
    }

    fn readable(&self, index: usize) -> bool {
        let Some(source) = self.sources.get(index) else { return false };
        let mut poll = [rustix::event::PollFd::new(&source.pipe, rustix::event::PollFlags::IN)];
        let instant = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut poll, Some(&instant)), Ok(1..))
    }
}

impl Attachment {
    fn is_behind(&self) -> bool {
        self.waiting.iter().any(|bytes| !bytes.is_empty())
    }

    /// Writes without blocking; false once the reader has gone.
    fn offer(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let waiting = &mut self.waiting[stream as usize];
        if !waiting.is_empty() {
            waiting.extend_from_slice(bytes);
            return true;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.sinks[stream as usize], rest) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::AGAIN) => {
                    self.waiting[stream as usize] = rest.to_vec();
                    return true;
                }
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Reaps the process behind a pidfd that is readable.
pub fn reap(pidfd: std::os::fd::BorrowedFd<'_>) -> io::Result<Exit> {
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED))?
        .ok_or_else(|| io::Error::other("the process has not ended"))?;
    let (code, signal) = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, None),
        (None, Some(signal)) => (128 + signal, Some(signal)),
        (None, None) => (255, None),
    };
    Ok(Exit { code, signal, out_of_memory: false, finished: now() })
}

pub fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    Ok(rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)?)
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
