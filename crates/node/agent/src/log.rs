//! Reading container logs: the CRI format, from rotated files, following what is being written.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// What part of a log is wanted, in the terms of the pods/log subresource.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Go on with what is written later.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Put the time in front of each line.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<&'static str>,
}

/// One line of a log file.
struct Line<'a> {
    time: &'a str,
    stream: &'a [u8],
    complete: bool,
    content: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = fields.next()?;
    let complete = fields.next()? == b"F";
    Some(Line { time, stream, complete, content: fields.next().unwrap_or_default() })
}

/// Streams the log at `path`. `running` tells whether more may come; it is asked after each end of file.
pub async fn stream(
    path: PathBuf,
    query: LogQuery,
    sink: mpsc::Sender<io::Result<Bytes>>,
    mut running: impl FnMut() -> bool + Send,
) {
    let mut output = Output { sink, query, sent: 0, fresh: true };
    if let Err(error) = output.run(&path, &mut running).await {
        // The reader may have gone; then there is nobody to tell.
        let _gone = output.sink.send(Err(error)).await;
    }
}

struct Output {
    sink: mpsc::Sender<io::Result<Bytes>>,
    query: LogQuery,
    sent: u64,
    /// At the beginning of a line of the container.
    fresh: bool,
}

/// How long a follower sleeps at the end of the file, at first and at most: a quiet log is looked at ever less often. Files have
/// no other sign that works on every kernel we support; the cost is one `read` per follower.
const PAUSES: [Duration; 2] = [Duration::from_millis(4), Duration::from_millis(100)];

impl Output {
    async fn run(
        &mut self,
        path: &Path,
        running: &mut (impl FnMut() -> bool + Send),
    ) -> io::Result<()> {
        let mut file = open(path, running, self.query.follow).await?;
        for text in self.backlog(path, &mut file)? {
            if !self.emit(&text).await {
                return Ok(());
            }
        }
        let mut pending = Vec::new();
        let mut pause = PAUSES[0];
        loop {
            // Asked before reading, so that what is written up to the end is not missed.
            let more = self.query.follow && running();
            let length = file.read_until(b'\n', &mut pending)?;
            if length > 0 && pending.ends_with(b"\n") {
                pending.pop();
                pause = PAUSES[0];
                if !self.emit(&std::mem::take(&mut pending)).await {
                    return Ok(());
                }
                continue;
            }
            if rotated(path, &file) {
                file = BufReader::new(std::fs::File::open(path)?);
                continue;
            }
            if !more {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (2 * pause).min(PAUSES[1]),
                () = self.sink.closed() => return Ok(()),
            }
        }
    }

    /// The lines that are there already, and the file at its end.
    fn backlog(
        &self,
        path: &Path,
        file: &mut BufReader<std::fs::File>,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for number in (1..100).rev() {
            if let Ok(older) = std::fs::File::open(berth_shim::log::rotated(path, number)) {
                read_lines(&mut BufReader::new(older), &mut lines)?;
            }
        }
        read_lines(file, &mut lines)?;
        if let Some(since) = self.query.since {
            lines.retain(|line| {
                parse(line)
                    .and_then(|line| line.time.parse::<Timestamp>().ok())
                    .is_none_or(|time| time >= since)
            });
        }
        if let Some(stream) = self.query.stream {
            lines.retain(|line| parse(line).is_some_and(|line| line.stream == stream.as_bytes()));
        }
        if let Some(tail) = self.query.tail {
            let complete = |line: &Vec<u8>| parse(line).is_none_or(|line| line.complete);
            let mut wanted = tail;
            let mut start = lines.len();
            while start > 0 && (wanted > 0 || !complete(&lines[start - 1])) {
                start -= 1;
                if complete(&lines[start]) {
                    if wanted == 0 {
                        start += 1;
                        break;
                    }
                    wanted -= 1;
                }
            }
            lines.drain(..start);
        }
        Ok(lines)
    }

    /// Sends one line; false once enough is sent or the reader has gone.
    async fn emit(&mut self, line: &[u8]) -> bool {
        let Some(line) = parse(line) else { return true };
        if self.query.stream.is_some_and(|stream| stream.as_bytes() != line.stream) {
            return true;
        }
        let mut text = Vec::with_capacity(line.content.len() + 40);
        if self.query.timestamps && self.fresh {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.content);
        self.fresh = line.complete;
        if line.complete {
            text.push(b'\n');
        }
        if let Some(limit) = self.query.limit {
            let room = usize::try_from(limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            text.truncate(room);
        }
        self.sent += text.len() as u64;
        let full = self.query.limit.is_some_and(|limit| self.sent >= limit);
        self.sink.send(Ok(Bytes::from(text))).await.is_ok() && !full
    }
}

async fn open(
    path: &Path,
    running: &mut (impl FnMut() -> bool + Send),
    follow: bool,
) -> io::Result<BufReader<std::fs::File>> {
    let mut pause = PAUSES[0];
    loop {
        match std::fs::File::open(path) {
            Ok(file) => return Ok(BufReader::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && follow && running() => {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PAUSES[1]);
            }
            Err(error) => return Err(error),
        }
    }
}

fn read_lines(file: &mut impl BufRead, lines: &mut Vec<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        lines.push(line);
    }
}

/// Whether the file at `path` is another one than the one that is open, and the open one is read to its end.
fn rotated(path: &Path, open: &BufReader<std::fs::File>) -> bool {
    match (std::fs::metadata(path), open.get_ref().metadata()) {
        (Ok(there), Ok(here)) => there.ino() != here.ino(),
        _ => false,
    }
}

/// What a container wrote to standard output and to standard error, up to an offset of its log file: the last lines of it, at
/// most `limit` bytes of the file.
pub fn before(path: &Path, offset: u64, limit: u64) -> io::Result<[Vec<u8>; 2]> {
    let mut file = std::fs::File::open(path)?;
    let start = offset.saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut lines = Vec::new();
    read_lines(&mut BufReader::new(file.take(offset - start)), &mut lines)?;
    // The first one may be half a line.
    let whole = lines.iter().skip(usize::from(start > 0));
    let mut texts = [Vec::new(), Vec::new()];
    for line in whole.filter_map(|line| parse(line)) {
        let text = &mut texts[usize::from(line.stream != b"stdout")];
        text.extend_from_slice(line.content);
        if line.complete {
            text.push(b'\n');
        }
    }
    Ok(texts)
}

/// The end of what a container said: at most 80 lines and 2 KiB.
pub fn last_words(path: &Path) -> io::Result<String> {
    const BYTES: usize = 2048;
    const LINES: usize = 80;
    // Each line has some forty bytes more in the file.
    let raw = read_short(path, 16 << 10)?;
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for line in raw.lines().filter_map(|line| parse(line.as_bytes())) {
        let text = String::from_utf8_lossy(line.content);
        match lines.last_mut().filter(|_| open) {
            Some(last) => last.push_str(&text),
            None => lines.push(text.into_owned()),
        }
        open = !line.complete;
    }
    let text = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let mut from = text.len().saturating_sub(BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    Ok(text[from..].to_owned())
}

/// The current size-limited content of a small file, such as a termination log.
pub fn read_short(path: &Path, limit: u64) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(query: LogQuery) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        let older = berth_shim::log::rotated(&path, 1);
        std::fs::write(older, "2026-01-01T00:00:00Z stdout F one\n").unwrap();
        let text = "2026-01-01T00:00:01Z stdout P tw\n2026-01-01T00:00:02Z stdout F o\n2026-01-01T00:00:03Z stderr F three\n";
        std::fs::write(&path, text).unwrap();
        let (sink, mut lines) = mpsc::channel(100);
        stream(path, query, sink, || false).await;
        let mut text = Vec::new();
        while let Some(bytes) = lines.recv().await {
            text.extend_from_slice(&bytes.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn rotated_files_and_split_lines_read_as_one() {
        assert_eq!(collect(LogQuery::default()).await, "one\ntwo\nthree\n");
    }

    #[test]
    fn what_came_before_is_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        let lines = ["0 stdout F one\r\n", "1 stderr F no\n", "2 stdout P tw\n", "3 stdout F o\n"];
        std::fs::write(&path, lines.concat() + "4 stdout F later\n").unwrap();
        let offset = lines.concat().len() as u64;
        let texts = |output: &str, errors: &str| [output.as_bytes().to_vec(), errors.into()];
        assert_eq!(before(&path, offset, 1000).unwrap(), texts("one\r\ntwo\n", "no\n"));
        let last = lines[3].len() as u64;
        assert_eq!(before(&path, offset, last + 5).unwrap(), texts("o\n", ""));
    }

    #[test]
    fn last_words_are_short() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        std::fs::write(&path, "0 stdout F one\n1 stderr P tw\n1 stderr F o\n").unwrap();
        assert_eq!(last_words(&path).unwrap(), "one\ntwo");
        let many: String = (0..500).map(|line| format!("0 stdout F line {line}\n")).collect();
        std::fs::write(&path, many).unwrap();
        let words = last_words(&path).unwrap();
        assert_eq!((words.lines().count(), words.lines().last()), (80, Some("line 499")));
        std::fs::write(&path, format!("0 stdout F {}\n", "é".repeat(3000))).unwrap();
        assert_eq!(last_words(&path).unwrap().len(), 2048);
    }

    #[tokio::test]
    async fn tail_since_limit_and_timestamps_hold() {
        let tail = |tail| LogQuery { tail: Some(tail), ..LogQuery::default() };
        assert_eq!(collect(tail(0)).await, "");
        assert_eq!(collect(tail(1)).await, "three\n");
        assert_eq!(collect(tail(2)).await, "two\nthree\n");
        assert_eq!(collect(tail(9)).await, "one\ntwo\nthree\n");
        let only = LogQuery { stream: Some("stderr"), ..LogQuery::default() };
        assert_eq!(collect(only).await, "three\n");
        let since = "2026-01-01T00:00:03Z".parse().ok();
        assert_eq!(collect(LogQuery { since, ..LogQuery::default() }).await, "three\n");
        assert_eq!(collect(LogQuery { limit: Some(5), ..LogQuery::default() }).await, "one\nt");
        let stamped = collect(LogQuery { timestamps: true, ..LogQuery::default() }).await;
        assert_eq!(
            stamped,
            "2026-01-01T00:00:00Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:03Z three\n"
        );
    }
}
