//! Container output as log files in the CRI format, rotated by size.
//!
//! A full disk must not stop the container: lines that cannot be written are counted, and the loss is noted in the file as
//! soon as there is room again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Lines longer than this are written in parts, marked `P`.
const LINE: usize = 16 << 10;

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    /// Its name in a log line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Output => "stdout",
            Self::Error => "stderr",
        }
    }
}

/// Writes one container's log.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    written: u64,
    size: u64,
    files: u32,
    lost: u64,
    pending: [Vec<u8>; 2],
}

impl Journal {
    /// Opens the log file at `path`, appending to what is there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, size: u64, files: u32) -> io::Result<Self> {
        let file = append(path)?;
        let written = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            written,
            size: size.max(4096),
            files: files.max(2),
            lost: 0,
            pending: [Vec::new(), Vec::new()],
        })
    }

    /// Bytes in the current file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// What came of a line whose end has not come yet, as far as it is not in the file.
    #[must_use]
    pub fn unfinished(&self, stream: Stream) -> &[u8] {
        &self.pending[stream as usize]
    }

    /// Takes a piece of output; complete lines are written at once.
    pub fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let pending = &mut self.pending[stream as usize];
            let room = LINE - pending.len();
            let end = bytes.iter().position(|byte| *byte == b'\n');
            match end {
                Some(end) if end <= room => {
                    pending.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.line(stream, b'F');
                }
                _ => {
                    let part = bytes.len().min(room);
                    pending.extend_from_slice(&bytes[..part]);
                    bytes = &bytes[part..];
                    if self.pending[stream as usize].len() == LINE {
                        self.line(stream, b'P');
                    }
                }
            }
        }
    }

    /// Writes what was not ended by a line break.
    pub fn finish(&mut self) {
        for stream in [Stream::Output, Stream::Error] {
            if !self.pending[stream as usize].is_empty() {
                self.line(stream, b'P');
            }
        }
    }

    fn line(&mut self, stream: Stream, tag: u8) {
        let content = std::mem::take(&mut self.pending[stream as usize]);
        let mut line = format!("{} {} ", jiff::Timestamp::now(), stream.name()).into_bytes();
        line.extend_from_slice(&[tag, b' ']);
        line.extend_from_slice(&content);
        line.push(b'\n');
        if self.lost > 0 {
            let note = format!(
                "{} stderr F [berth: {} log lines lost, the disk was full]\n",
                jiff::Timestamp::now(),
                self.lost
            );
            if self.append(note.as_bytes()).is_ok() {
                self.lost = 0;
            }
        }
        if self.append(&line).is_err() {
            self.lost += 1;
        }
        let mut content = content;
        content.clear();
        self.pending[stream as usize] = content;
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + line.len() as u64 > self.size {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(line) {
            // Half a line is worse than none.
            self.file.set_len(self.written)?;
            return Err(error);
        }
        self.written += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.files - 1).rev() {
            match std::fs::rename(rotated(&self.path, number), rotated(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, rotated(&self.path, 1))?;
        self.file = append(&self.path)?;
        self.written = 0;
        Ok(())
    }
}

/// The name of an older log file: 1 is the youngest of them.
#[must_use]
pub fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut journal = Journal::open(&path, 1 << 20, 3).unwrap();
        journal.take(Stream::Output, b"one\ntw");
        journal.take(Stream::Error, b"oops\n");
        journal.take(Stream::Output, b"o\n\nrest");
        journal.finish();
        let expected =
            ["stdout F one", "stderr F oops", "stdout F two", "stdout F ", "stdout P rest"];
        assert_eq!(contents(&path), expected);
        assert_eq!(journal.offset(), std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn long_lines_are_split_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut journal = Journal::open(&path, 1 << 20, 3).unwrap();
        let long = vec![b'x'; LINE + 10];
        journal.take(Stream::Output, &long);
        journal.take(Stream::Output, b"\n");
        let lines = contents(&path);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("stdout P x") && lines[1].starts_with("stdout F x"));
        let total: usize = lines.iter().map(|line| line.len() - "stdout P ".len()).sum();
        assert_eq!(total, LINE + 10);
    }

    #[test]
    fn rotation_keeps_the_youngest_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut journal = Journal::open(&path, 4096, 3).unwrap();
        for number in 0..300 {
            journal.take(Stream::Output, format!("line {number:040}\n").as_bytes());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
        let mut all = Vec::new();
        for name in [rotated(&path, 2), rotated(&path, 1), path] {
            assert!(std::fs::metadata(&name).unwrap().len() <= 4096);
            all.extend(contents(&name));
        }
        let last: Vec<String> =
            (300 - all.len()..300).map(|number| format!("stdout F line {number:040}")).collect();
        assert_eq!(all, last);
    }
}
