//! The file: written by a thread of its own, rotated by size, taken up again after a restart.
//!
//! A request is answered when its event is in the writer's hands, not on the disk; a full queue makes requests wait, so
//! nothing is dropped as long as the disk takes it. What the disk refuses is counted in the numbering and shows as a gap.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::chain::{self, Link};

/// How much of the log is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A file that has so many bytes is put away.
    pub bytes: u64,
    /// So many files that were put away are kept.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 100 << 20, files: 10 }
    }
}

/// Events that may wait for the disk.
const WAITING: usize = 4096;

/// The log. Clones are the same.
#[derive(Clone)]
pub struct Journal {
    sender: mpsc::Sender<Order>,
}

/// What the writer is told.
enum Order {
    Write(String),
    /// Everything before this is on the disk when the answer comes.
    Settle(std::sync::mpsc::Sender<()>),
}

impl Journal {
    /// Opens the log, making its folder; only its owner may read it. Takes up the chain where it ended.
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut writer = Writer::open(path, limits)?;
        let (sender, mut orders) = mpsc::channel::<Order>(WAITING);
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            while let Some(order) = orders.blocking_recv() {
                let mut waiting: Vec<_> = writer.take(order).into_iter().collect();
                // What has come meanwhile is noted together.
                while let Ok(order) = orders.try_recv() {
                    waiting.extend(writer.take(order));
                }
                writer.settle();
                for waiting in waiting {
                    // Who asked may have given up.
                    let _gone = waiting.send(());
                }
            }
        })?;
        Ok(Self { sender })
    }

    /// Records an event, which has to be an object. Waits only while the writer is far behind.
    pub async fn record(&self, event: &Value) {
        if self.sender.send(Order::Write(event.to_string())).await.is_err() {
            tracing::error!("the audit log's writer is gone, an event is lost");
        }
    }

    /// Returns when everything recorded so far is in the file, or after a while. Blocks. The log itself ends with its last
    /// clone.
    pub fn close(&self, patience: Duration) {
        let (sender, written) = std::sync::mpsc::channel();
        let asked = self.sender.blocking_send(Order::Settle(sender));
        if asked.is_err() || written.recv_timeout(patience).is_err() {
            tracing::error!("the end of the audit log did not reach the disk in time");
        }
    }
}

struct Writer {
    path: PathBuf,
    limits: Limits,
    file: File,
    size: u64,
    /// The number of the file's first line.
    first: u64,
    last: Link,
    failing: bool,
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

impl Writer {
    fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        let mut file = append(path)?;
        cut_half_line(&mut file)?;
        let (first, mut last) = ends(&mut file)?;
        if last.is_none() {
            // An empty file after a rotation: the chain goes on from the file before.
            let before = chain::files(path)?.into_iter().rev().find(|other| other != path);
            if let Some(before) = before {
                last = ends(&mut File::open(before)?)?.1;
            }
        }
        let mut last = last.unwrap_or_else(Link::begin);
        if let Some(head) = chain::head(path)
            && head.sequence > last.sequence
        {
            // Going on from what is left would hide that something is missing.
            tracing::error!(
                last = last.sequence,
                written = head.sequence,
                "the end of the audit log is missing"
            );
            last = head;
        }
        let size = file.metadata()?.len();
        let first = first.unwrap_or(last.sequence + 1);
        Ok(Self { path: path.to_owned(), limits, file, size, first, last, failing: false })
    }

    /// Writes, or returns who waits until everything is written.
    fn take(&mut self, order: Order) -> Option<std::sync::mpsc::Sender<()>> {
        match order {
            Order::Write(event) => {
                self.write(&event);
                None
            }
            Order::Settle(waiting) => Some(waiting),
        }
    }

    fn write(&mut self, event: &str) {
        let (line, link) = self.last.next(event);
        // The number is used up in any case, so that a line that could not be written is missed.
        self.last = link;
        let written = self.rotate_if_full().and_then(|()| self.file.write_all(line.as_bytes()));
        match written {
            Ok(()) => {
                self.size += line.len() as u64;
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot write the audit log"
                    );
                }
                self.failing = true;
            }
        }
    }

    fn rotate_if_full(&mut self) -> io::Result<()> {
        if self.size < self.limits.bytes {
            return Ok(());
        }
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("audit");
        let away = self.path.with_file_name(format!("{stem}-{}.log", self.first));
        self.file.sync_data()?;
        std::fs::rename(&self.path, away)?;
        self.file = append(&self.path)?;
        self.size = 0;
        self.first = self.last.sequence;
        let files = chain::files(&self.path)?;
        let away = files.len().saturating_sub(1);
        for old in files.iter().take(away.saturating_sub(self.limits.files)) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }

    /// Notes where the log ends.
    fn settle(&mut self) {
        let path = chain::head_file(&self.path);
        let draft = path.with_extension("head.new");
        let text = format!("{} {}\n", self.last.sequence, self.last.hash);
        let noted = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&draft, &path));
        if let Err(error) = noted
            && !self.failing
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot note the audit log's end"
            );
        }
    }
}

/// Removes what a crash left of a line that was being written.
fn cut_half_line(file: &mut File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut end = size;
    let mut block = [0_u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < size {
        tracing::warn!(bytes = size - end, "a half-written line of the audit log is removed");
        file.set_len(end)?;
    }
    file.seek(SeekFrom::End(0)).map(drop)
}

/// The number of a file's first line, and the place of its last.
fn ends(file: &mut File) -> io::Result<(Option<u64>, Option<Link>)> {
    file.seek(SeekFrom::Start(0))?;
    let (mut first, mut last) = (None, None);
    let mut reader = io::BufReader::new(&mut *file);
    let mut line = String::new();
    while io::BufRead::read_line(&mut reader, &mut line)? > 0 {
        if let Some((_, link)) = chain::read(line.trim_end()) {
            first.get_or_insert(link.sequence);
            last = Some(link);
        }
        line.clear();
    }
    file.seek(SeekFrom::End(0))?;
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{VerifyError, verify};

    async fn fill(path: &Path, limits: Limits, count: usize) {
        let journal = Journal::open(path, limits).unwrap();
        for number in 0..count {
            journal.record(&json!({"verb": "get", "number": number})).await;
        }
        let closing = tokio::task::spawn_blocking(move || journal.close(PATIENCE));
        closing.await.unwrap();
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_chain_goes_on_over_restarts_rotations_and_half_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log/audit.log");
        let limits = Limits { bytes: 4000, files: 100 };
        fill(&path, limits, 30).await;
        fill(&path, limits, 30).await;
        let mut file = append(&path).unwrap();
        file.write_all(b"{\"sequence\":61,\"prev").unwrap();
        fill(&path, limits, 1).await;
        let report = verify(&path).unwrap();
        assert_eq!((report.first, report.last), (1, 61));
        assert!(report.files > 2, "{report:?}");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn old_files_go_and_the_rest_still_verifies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fill(&path, Limits { bytes: 2000, files: 2 }, 100).await;
        let report = verify(&path).unwrap();
        assert!(report.first > 1 && report.last == 100 && report.files <= 3, "{report:?}");
    }

    #[tokio::test]
    async fn every_way_of_tampering_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fill(&path, Limits::default(), 10).await;
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let with = |lines: &[&str]| {
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            verify(&path)
        };
        assert!(with(&lines).is_ok());
        let changed = lines[4].replace("get", "put");
        let mut other = lines.clone();
        other[4] = &changed;
        assert!(matches!(with(&other), Err(VerifyError::Changed { line: 5, .. })));
        let without = [&lines[..3], &lines[4..]].concat();
        assert!(matches!(with(&without), Err(VerifyError::Gap { line: 4, .. })));
        let swapped = [&lines[..3], &[lines[4], lines[3]], &lines[5..]].concat();
        assert!(matches!(with(&swapped), Err(VerifyError::Gap { .. })));
        assert!(matches!(with(&lines[..8]), Err(VerifyError::Cut { last: 8, head: 10 })));
        // Rewritten from the fifth line on, with a sound chain.
        let (_, mut link) = chain::read(lines[3]).unwrap();
        let mut forged: Vec<String> = lines[..4].iter().map(|line| (*line).to_owned()).collect();
        for number in 4..10 {
            let (line, next) = link.next(&json!({"verb": "list", "number": number}).to_string());
            forged.push(line.trim_end().to_owned());
            link = next;
        }
        let forged: Vec<&str> = forged.iter().map(String::as_str).collect();
        assert!(matches!(with(&forged), Err(VerifyError::Rewritten(10))));
        // A cut end stays visible when the server goes on writing.
        with(&lines[..8]).unwrap_err();
        fill(&path, Limits::default(), 2).await;
        assert!(matches!(verify(&path), Err(VerifyError::Gap { .. })));
    }
}
