//! The chain of hashes: how lines are written, and how a log is verified.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The hash before the first line.
pub(crate) const BEGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A place in the chain: the number of a line and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub sequence: u64,
    pub hash: String,
}

impl Link {
    pub fn begin() -> Self {
        Self { sequence: 0, hash: BEGIN.to_owned() }
    }

    /// The line that follows with this event, which is the text of a JSON object, and its place.
    pub fn next(&self, event: &str) -> (String, Self) {
        let sequence = self.sequence + 1;
        let hash = hash(&self.hash, sequence, event);
        let rest = event.strip_prefix('{').unwrap_or(event);
        let comma = if rest.starts_with('}') { "" } else { "," };
        let line = format!(
            "{{\"sequence\":{sequence},\"previous\":\"{}\",\"hash\":\"{hash}\"{comma}{rest}\n",
            self.hash
        );
        (line, Self { sequence, hash })
    }
}

fn hash(previous: &str, sequence: u64, event: &str) -> String {
    let text = format!("{previous}\n{sequence}\n{event}");
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line taken apart: the hash before it and its own place, if the latter is right.
pub(crate) fn read(line: &str) -> Option<(String, Link)> {
    let rest = line.strip_prefix("{\"sequence\":")?;
    let (sequence, rest) = rest.split_once(",\"previous\":\"")?;
    let (previous, rest) = rest.split_once("\",\"hash\":\"")?;
    let (own, rest) = rest.split_once('"')?;
    let sequence = sequence.parse().ok()?;
    // The hash covers the event as it was before the chain was put into it.
    let event = format!("{{{}", rest.strip_prefix(',').unwrap_or(rest));
    (hash(previous, sequence, &event) == own)
        .then(|| (previous.to_owned(), Link { sequence, hash: own.to_owned() }))
}

/// What a log says when it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The number of the first line that is still kept.
    pub first: u64,
    /// The number of the last line.
    pub last: u64,
    /// The hash of the last line: note it elsewhere, and it vouches for everything before it.
    pub hash: String,
    /// The files, oldest first.
    pub files: usize,
}

/// Why a log is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file.
    #[error("cannot read `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A line was changed.
    #[error("line {line} of `{}` was changed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// Lines were removed or put in.
    #[error("line {line} of `{}` does not follow the one before: after number {expected_after} comes {found}", path.display())]
    Gap {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// The number before.
        expected_after: u64,
        /// The number found.
        found: u64,
    },
    /// The end is missing.
    #[error("the log ends at number {last}, but number {head} was written")]
    Cut {
        /// The last line there is.
        last: u64,
        /// The last line there was.
        head: u64,
    },
    /// The log was written anew: it holds another line at the place that was noted.
    #[error("number {0} is not the line that was written")]
    Rewritten(u64),
}

/// The files of a log, oldest first. Rotated ones are named by their first number.
pub(crate) fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let mut rotated = Vec::new();
    for entry in std::fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let found = entry?.path();
        let name = found.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number =
            name.strip_prefix(&format!("{stem}-")).and_then(|name| name.strip_suffix(".log"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            rotated.push((number, found));
        }
    }
    rotated.sort();
    let mut files: Vec<PathBuf> = rotated.into_iter().map(|(_, path)| path).collect();
    if path.exists() {
        files.push(path.to_owned());
    }
    Ok(files)
}

pub(crate) fn head_file(path: &Path) -> PathBuf {
    path.with_extension("head")
}

/// The place that was noted beside the log.
pub(crate) fn head(path: &Path) -> Option<Link> {
    let text = std::fs::read_to_string(head_file(path)).ok()?;
    let (sequence, hash) = text.trim().split_once(' ')?;
    Some(Link { sequence: sequence.parse().ok()?, hash: hash.to_owned() })
}

/// Where the log of a data directory is, unless it was put elsewhere.
#[must_use]
pub fn default_path(data: &Path) -> PathBuf {
    data.join("audit").join("audit.log")
}

/// Whether a line of the log has this hash. Says nothing about whether the log is whole.
///
/// # Errors
/// When a file cannot be read.
pub fn contains(path: &Path, hash: &str) -> io::Result<bool> {
    for file in files(path)? {
        for line in BufReader::new(File::open(file)?).lines() {
            if read(&line?).is_some_and(|(_, link)| link.hash == hash) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Reads a whole log, rotated files included, and checks that it is what was written.
///
/// # Errors
/// The first place at which it is not.
pub fn verify(path: &Path) -> Result<Report, VerifyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| VerifyError::File { path, source }
    };
    let files = files(path).map_err(failed(path))?;
    let head = head(path);
    let mut last: Option<Link> = None;
    let mut first = 0;
    for file in &files {
        let lines = BufReader::new(File::open(file).map_err(failed(file))?).lines();
        for (index, line) in lines.enumerate() {
            let line = line.map_err(failed(file))?;
            let place = || (file.clone(), index + 1);
            let Some((previous, link)) = read(&line) else {
                let (path, line) = place();
                return Err(VerifyError::Changed { path, line });
            };
            if let Some(before) = &last
                && (before.sequence + 1 != link.sequence || before.hash != previous)
            {
                let (path, line) = place();
                let (expected_after, found) = (before.sequence, link.sequence);
                return Err(VerifyError::Gap { path, line, expected_after, found });
            }
            if let Some(head) = &head
                && head.sequence == link.sequence
                && head.hash != link.hash
            {
                return Err(VerifyError::Rewritten(link.sequence));
            }
            if last.is_none() {
                first = link.sequence;
            }
            last = Some(link);
        }
    }
    let last = last.unwrap_or_else(Link::begin);
    match head {
        Some(head) if head.sequence > last.sequence => {
            Err(VerifyError::Cut { last: last.sequence, head: head.sequence })
        }
        _ => Ok(Report { first, last: last.sequence, hash: last.hash, files: files.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_and_reads_back() {
        let (line, first) = Link::begin().next(r#"{"a":1.10,"b":"x"}"#);
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
        assert_eq!(read(line.trim_end()), Some((BEGIN.to_owned(), first.clone())));
        assert_eq!(read(&line.trim_end().replace("1.10", "1.1")), None);
        assert_eq!(read(&line.trim_end().replace("\"sequence\":1", "\"sequence\":2")), None);
        let (second, link) = first.next("{}");
        assert!(serde_json::from_str::<serde_json::Value>(&second).is_ok());
        assert_eq!(read(second.trim_end()), Some((first.hash, link)));
        assert_eq!(read("nonsense"), None);
    }
}
