//! Variables from a file that an init container has written.
//!
//! Whoever wrote it may have put anything there: it is opened beneath its volume without following a link, must be a plain file,
//! and is read up to a bound.

use std::io::Read;
use std::path::Path;

use k8s_openapi::api::core::v1::FileKeySelector;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use crate::config::Cause;
use crate::volume::{Source, Volumes};

/// The largest file, in bytes.
const LARGEST: u64 = 64 << 10;

/// The value of a key; nothing where it is not there and need not be.
///
/// # Errors
/// Says what is wrong with the file.
pub fn value(volumes: &Volumes, selector: &FileKeySelector) -> Result<Option<String>, Cause> {
    let FileKeySelector { key, path, volume_name, .. } = selector;
    let optional = selector.optional.unwrap_or(false);
    let wrong = |why: String| Cause::config(format!("`{path}` of volume `{volume_name}` {why}"));
    let Some(Source::Path(folder)) = volumes.get(volume_name) else {
        return Err(Cause::config(format!("there is no volume `{volume_name}` with files")));
    };
    let Some(text) = read(folder, path).map_err(&wrong)? else {
        return if optional { Ok(None) } else { Err(wrong("is not there".to_owned())) };
    };
    match find(&text, key).map_err(&wrong)? {
        None if !optional => Err(wrong(format!("has no key `{key}`"))),
        found => Ok(found),
    }
}

fn read(folder: &Path, path: &str) -> Result<Option<String>, String> {
    let said = |error: Errno| format!("cannot be read: {error}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(said)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // A pipe would wait for a writer.
    let file = match openat2(&folder, path, flags | OFlags::NONBLOCK, Mode::empty(), resolve) {
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::XDEV) => return Err("leads through a link".to_owned()),
        found => found.map_err(said)?,
    };
    let found = fstat(&file).map_err(said)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err("is no plain file".to_owned());
    }
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(LARGEST + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > LARGEST {
        return Err(format!("is larger than {LARGEST} bytes"));
    }
    String::from_utf8(text).map(Some).map_err(|_| "is not in UTF-8".to_owned())
}

/// Finds a key in lines of `NAME='value'`. The value may go over several lines; there are blank lines and comments between.
fn find(text: &str, wanted: &str) -> Result<Option<String>, String> {
    let mut rest = text;
    let mut line = 1;
    let mut found = None;
    loop {
        let trimmed = rest.trim_start();
        line += rest[..rest.len() - trimmed.len()].matches('\n').count();
        rest = trimmed;
        if rest.is_empty() {
            return Ok(found);
        }
        if rest.starts_with('#') {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        }
        let bad = || format!("has no NAME='value' in line {line}");
        let (name, after) = rest.split_once('=').ok_or_else(bad)?;
        let name = name.trim_end();
        let good = !name.is_empty()
            && name.chars().all(|letter| letter.is_ascii_graphic() && letter != '\'');
        let quoted = after.trim_start_matches([' ', '\t']).strip_prefix('\'');
        let (value, after) =
            quoted.filter(|_| good).and_then(|it| it.split_once('\'')).ok_or_else(bad)?;
        let (end, next) = after.split_once('\n').unwrap_or((after, ""));
        if !end.trim().is_empty() {
            return Err(bad());
        }
        if name == wanted {
            found = Some(value.to_owned());
        }
        line += value.matches('\n').count() + 1;
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_quoted_lines() {
        let text = "# how to reach it\n\nHOST='db.example'\n  PORT = '5432'  \nNOTE='two\nlines'\nHOST='other'\n";
        let of = |key: &str| find(text, key).unwrap();
        assert_eq!(of("HOST").as_deref(), Some("other"), "the last one counts");
        assert_eq!(of("PORT").as_deref(), Some("5432"));
        assert_eq!(of("NOTE").as_deref(), Some("two\nlines"));
        assert_eq!(of("NONE"), None);
        for (text, line) in [("A=b\n", 1), ("\nA='b' c\n", 2), ("A='b'\nB='c", 2), ("nothing", 1)] {
            let why = find(text, "A").unwrap_err();
            assert!(why.ends_with(&format!("line {line}")), "{text:?}: {why}");
        }
    }

    #[test]
    fn only_plain_files_within_the_volume_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("volume");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(folder.path().join("outside"), "KEY='stolen'\n").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        std::fs::write(root.join("good"), "KEY='value'\n").unwrap();
        std::fs::write(root.join("large"), vec![b' '; 65 << 10]).unwrap();
        let (kind, mode) = (FileType::Fifo, Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), kind, mode, 0).unwrap();
        let volumes = Volumes::from([("files".to_owned(), Source::Path(root))]);
        let of = |path: &str, optional| {
            value(
                &volumes,
                &FileKeySelector {
                    key: "KEY".to_owned(),
                    path: path.to_owned(),
                    volume_name: "files".to_owned(),
                    optional: Some(optional),
                },
            )
        };
        assert_eq!(of("good", false).unwrap().as_deref(), Some("value"));
        assert_eq!(of("none", true).unwrap(), None);
        for path in ["none", "link", "pipe", "large", "../outside", "/etc/passwd"] {
            let error = of(path, false).unwrap_err();
            assert!(!error.message.contains("stolen"), "{error}");
        }
    }
}
