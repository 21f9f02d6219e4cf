//! The folder with the files of static pods: where it is, what is in it, and when that may have changed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::parse::{self, FileError};
use crate::limits::LimitsError;

/// Below the data directory, where the configuration says nothing.
const USUAL: &str = "static-pods";
const RHYTHM: Duration = Duration::from_secs(20);

/// Where static pods come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// How often it is looked at in any case: some file systems tell nobody of changes.
    pub every: Duration,
    /// It is the one below the data directory, which is made where it is missing.
    pub usual: bool,
}

impl Folder {
    /// The folder that a node's configuration names: that below the data directory if it names none; nothing if the name is empty.
    ///
    /// # Errors
    /// Names the field.
    pub fn of(configuration: &Value, data: &Path) -> Result<Option<Self>, LimitsError> {
        let wrong = |field: &str, why: &str| LimitsError::Value {
            field: field.to_owned(),
            why: why.to_owned(),
        };
        let every = configuration["fileCheckFrequency"].as_str();
        let every = every.map(|text| crate::limits::duration("fileCheckFrequency", text));
        let every = every.transpose()?.filter(|every| !every.is_zero()).unwrap_or(RHYTHM);
        let Some(path) = configuration["staticPodPath"].as_str() else {
            let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
            return Ok(Some(Self { path: data.join(USUAL), every, usual: true }));
        };
        if path.is_empty() {
            return Ok(None);
        }
        if !path.starts_with('/') {
            return Err(wrong("staticPodPath", "must be a path from the root, or empty for none"));
        }
        Ok(Some(Self { path: PathBuf::from(path), every, usual: false }))
    }

    /// Makes the usual folder, for root alone.
    pub fn make(&self) -> io::Result<()> {
        if !self.usual || self.path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.path)?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
    }
}

/// Files by path, and what they say.
pub type Files = BTreeMap<PathBuf, Result<Arc<Pod>, String>>;

/// Reads all files of a folder.
///
/// # Errors
/// Says why the folder says nothing of what is wanted, and what to do.
pub fn read(folder: &Path, node: &str) -> Result<Files, String> {
    let failed = |error: io::Error| format!("it cannot be read ({error}): mend that");
    let metadata = fs::metadata(folder).map_err(failed)?;
    if parse::is_open(&metadata) {
        return Err("others than root may write to it, and would be root with it: `chmod go-w` it"
            .to_owned());
    }
    let mut files = Files::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !is_meant(&path) {
            continue;
        }
        match parse::read(&path, node) {
            Ok(pod) => drop(files.insert(path, Ok(Arc::new(pod)))),
            // Removed between the list and the look.
            Err(FileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => drop(files.insert(path, Err(error.to_string()))),
        }
    }
    Ok(files)
}

/// Hidden files are those of editors and of tools that write beside what they replace.
fn is_meant(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let known = [&b".yaml"[..], b".yml", b".json"];
    !name.starts_with(b".") && known.iter().any(|end| name.ends_with(end))
}

/// Tells when something in a folder may have changed.
#[derive(Debug)]
pub struct Bell(AsyncFd<OwnedFd>);

impl Bell {
    /// One that listens to nothing yet.
    #[expect(
        deprecated,
        reason = "an owned descriptor stays the same one while it is registered, which the type cannot promise"
    )]
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self(AsyncFd::new(fd)?))
    }

    /// Listens to a folder, also where it was replaced by another since. A file is told of when it is written to its end,
    /// so that it is not read half.
    pub fn listen(&self, folder: &Path) {
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.0.get_ref(), folder, what) {
            // Reading it says what is wrong with it.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(error) => {
                warn!(folder = %folder.display(), %error, "the folder of static pods is not watched, only looked at");
            }
        }
    }

    /// Waits for a change.
    pub async fn rings(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut events = [0_u8; 4096];
        loop {
            match rustix::io::read(self.0.get_ref(), &mut events) {
                Ok(_) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_folder_is_the_one_that_is_named() {
        let of = |value: Value| Folder::of(&value, Path::new("/d"));
        let usual = of(json!({})).unwrap().unwrap();
        assert_eq!((usual.path.as_path(), usual.every), (Path::new("/d/static-pods"), RHYTHM));
        assert!(usual.usual);
        let named =
            of(json!({"staticPodPath": "/x", "fileCheckFrequency": "1m"})).unwrap().unwrap();
        assert_eq!((named.path.as_path(), named.every.as_secs()), (Path::new("/x"), 60));
        assert_eq!(of(json!({"fileCheckFrequency": "0s"})).unwrap().unwrap().every, RHYTHM);
        assert_eq!(of(json!({"staticPodPath": ""})), Ok(None));
        for (wrong, why) in [
            (json!({"staticPodPath": "x"}), "`staticPodPath`: must be a path from the root"),
            (json!({"fileCheckFrequency": "often"}), "`fileCheckFrequency`: `often` is no time"),
        ] {
            assert!(of(wrong).unwrap_err().to_string().contains(why));
        }
    }

    #[test]
    fn only_what_is_meant_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a.yaml", "b.yml", "c.json", ".d.yaml", "e.yaml~", "f", "g.txt"];
        for name in names {
            fs::write(folder.path().join(name), "x").unwrap();
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o600))
                .unwrap();
        }
        fs::create_dir(folder.path().join("h.yaml")).unwrap();
        let files = read(folder.path(), "node").unwrap();
        let found: Vec<_> = files.keys().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(found, ["a.yaml", "b.yml", "c.json", "h.yaml"]);
        assert!(files.values().all(Result::is_err));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(read(folder.path(), "node").unwrap_err().contains("chmod go-w"));
        assert!(read(&folder.path().join("none"), "node").unwrap_err().contains("cannot be read"));
    }

    #[tokio::test]
    async fn a_change_is_told_and_silence_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let bell = Bell::new().unwrap();
        bell.listen(&folder.path().join("none"));
        bell.listen(folder.path());
        bell.listen(folder.path());
        let path = folder.path().join("a.yaml");
        let mut writing = fs::File::create(&path).unwrap();
        io::Write::write_all(&mut writing, b"half").unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(20), bell.rings()).await;
        assert!(silence.is_err(), "it is told of before it is whole");
        drop(writing);
        bell.rings().await.unwrap();
        fs::remove_file(&path).unwrap();
        bell.rings().await.unwrap();
    }
}
