//! The keys: a file of lines, `id key`, the newest first. It belongs to its owner alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file.
    #[error("cannot access the key file `{}`", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// There is none.
    #[error("there is no key file `{}`", .0.display())]
    Missing(PathBuf),
    /// Others may read it.
    #[error("the key file `{}` may be read by others; its mode has to be 0600", .0.display())]
    Open(PathBuf),
    /// It is no key file.
    #[error("line {line} of the key file `{}` is not an id and a key", path.display())]
    Malformed {
        /// Where.
        path: PathBuf,
        /// Counted from one.
        line: usize,
    },
}

/// One key, ready for use. Its Debug prints its name alone.
pub(crate) struct Key {
    pub id: String,
    pub aead: LessSafeKey,
    text: String,
}

/// All keys. The first seals; each opens what it has sealed. Clones are the same.
#[derive(Clone)]
pub struct Keyring {
    path: PathBuf,
    keys: Arc<RwLock<Vec<Arc<Key>>>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Keyring").field("path", &self.path).field("ids", &self.ids()).finish()
    }
}

impl Key {
    /// From a line of a key file.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (id, text) = line.split_once(' ')?;
        let fits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let bytes = STANDARD.decode(text.trim()).ok()?;
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?);
        fits.then(|| Self { id: id.to_owned(), aead, text: text.trim().to_owned() })
    }

    /// As a line of a key file.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.id, self.text)
    }

    pub(crate) fn generate() -> Self {
        let (id, bytes): (u64, [u8; 32]) = (rand::random(), rand::random());
        let line = format!("{id:016x} {}", STANDARD.encode(bytes));
        Self::parse(&line).expect("a line made here is a key")
    }
}

impl Keyring {
    /// Reads a key file.
    ///
    /// # Errors
    /// When it is not there, may be read by others, or is no key file.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let failed = |source| KeyringError::File { path: path.into(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyringError::Missing(path.into()));
            }
            Err(error) => return Err(failed(error)),
        };
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(KeyringError::Open(path.into()));
        }
        let text = io::read_to_string(file).map_err(failed)?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let malformed = || KeyringError::Malformed { path: path.into(), line: index + 1 };
            keys.push(Arc::new(Key::parse(line).ok_or_else(malformed)?));
        }
        if keys.is_empty() {
            return Err(KeyringError::Malformed { path: path.into(), line: 1 });
        }
        Ok(Self { path: path.into(), keys: Arc::new(RwLock::new(keys)) })
    }

    /// Makes a key file with a first key. The file must not exist.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path) -> Result<Self, KeyringError> {
        let keys = vec![Arc::new(Key::generate())];
        let keyring = Self { path: path.into(), keys: Arc::default() };
        keyring.write(&keys)?;
        *keyring.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(keyring)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the keys, that which seals first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.all().iter().map(|key| key.id.clone()).collect()
    }

    /// Adds a new key, which seals from now on. It is on the disk before it is used.
    ///
    /// # Errors
    /// When the file cannot be written; then nothing changes.
    pub fn rotate(&self) -> Result<(), KeyringError> {
        self.add(Key::generate())
    }

    /// Adds a key, which seals from now on, unless it is known.
    pub(crate) fn add(&self, key: Key) -> Result<(), KeyringError> {
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if held.iter().any(|known| known.id == key.id) {
            return Ok(());
        }
        let mut keys = held.clone();
        keys.insert(0, Arc::new(key));
        self.write(&keys)?;
        *held = keys;
        Ok(())
    }

    pub(crate) fn newest(&self) -> Arc<Key> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.first().cloned().expect("a keyring has a key from its start")
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Key>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|key| key.id == id).cloned()
    }

    fn all(&self) -> Vec<Arc<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, keys: &[Arc<Key>]) -> Result<(), KeyringError> {
        let draft = self.path.with_added_extension("new");
        self.replace(&draft, keys)
            .map_err(|source| KeyringError::File { path: self.path.clone(), source })
    }

    fn replace(&self, draft: &Path, keys: &[Arc<Key>]) -> io::Result<()> {
        match std::fs::remove_file(draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
        for key in keys {
            writeln!(file, "{} {}", key.id, key.text)?;
        }
        file.sync_all()?;
        std::fs::rename(draft, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_kept_and_the_newest_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        assert!(matches!(Keyring::open(&path), Err(KeyringError::Missing(_))));
        let keyring = Keyring::create(&path).unwrap();
        let first = keyring.ids();
        keyring.rotate().unwrap();
        let ids = Keyring::open(&path).unwrap().ids();
        assert_eq!(ids, keyring.ids());
        assert_eq!((ids.len(), &ids[1]), (2, &first[0]));
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let printed = format!("{keyring:?}");
        let secret = std::fs::read_to_string(&path).unwrap();
        let key = secret.lines().next().unwrap().split(' ').nth(1).unwrap();
        assert!(!printed.contains(key), "{printed}");
    }

    #[test]
    fn a_file_others_may_read_or_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        Keyring::create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keyring::open(&path), Err(KeyringError::Open(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "x", "id c2hvcnQ="] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Keyring::open(&path), Err(KeyringError::Malformed { line: 1, .. })));
        }
    }
}
