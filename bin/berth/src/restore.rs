//! `berth system restore`: the state of a backup into a data directory or an etcd, all of it or nothing.
//!
//! Everything is read and checked before anything is written, and what was there is moved aside rather than removed.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_cli::{RestoreSettings, Restored};
use berth_secrets::{Keyring, KeyringError, OpenError, PassphraseError};
use berth_store::backup::{self, Backup, BackupError};
use berth_store::restore::{self, RestoreError};
use berth_store::{Disk, FormatError, Record, Revision};

use crate::serve::ServeError;

/// Clients may have seen this many revisions after the backup. A server that goes on behind them has them list again, rather
/// than tell them that what they know lies in the future.
const LEAP: u64 = 1_000_000_000;

/// The longest a server that is no more is still named in etcd, and a little more.
const CLAIM: Duration = Duration::from_secs(15);

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    /// The backup.
    #[error("cannot use `{}`", path.display())]
    Backup { path: PathBuf, source: BackupError },
    /// It is newer than this program.
    #[error("cannot use the backup")]
    Format(#[from] FormatError),
    /// There is something.
    #[error("`{}` is there already; say `--force` to move it aside", .0.display())]
    Present(PathBuf),
    /// Files.
    #[error("cannot write `{}`", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A passphrase is given for nothing.
    #[error("the backup holds no keys, so there is no use for a passphrase")]
    NoKeys,
    /// Another passphrase.
    #[error("cannot open the keys in the backup")]
    Passphrase(#[from] PassphraseError),
    /// The key file.
    #[error("cannot use the key file")]
    Keyring(#[from] KeyringError),
    /// The key file is another cluster's.
    #[error("the key file does not open the Secrets in the backup")]
    Unfit(#[source] OpenError),
    /// The server.
    #[error(transparent)]
    Server(#[from] ServeError),
    /// etcd.
    #[error("cannot restore into etcd")]
    Etcd(#[from] RestoreError),
}

type Outcome<T> = Result<T, RestoreFailure>;

/// Restores. The server of the data directory must not run.
pub async fn restore(settings: RestoreSettings) -> Outcome<Restored> {
    let Backup { header, revision, records } = read(&settings.backup)?;
    restore::check(&records, crate::custody::FORMATS)?;
    let data = &settings.data;
    std::fs::create_dir_all(data).map_err(failed(data))?;
    let _only = crate::serve::lock(data)?;
    let records = restore::kept(records);
    let key_file = settings.secrets_key.clone().unwrap_or_else(|| data.join("secrets.key"));
    let draft = match &settings.passphrase {
        Some(_) if header.keys.is_empty() => return Err(RestoreFailure::NoKeys),
        Some(passphrase) => {
            let keys = berth_secrets::unlock_keys(passphrase, &header.keys)?;
            Some(draft_keys(&key_file, &keys)?)
        }
        None => None,
    };
    let outcome = place(&settings, &key_file, draft.as_deref(), revision, &records).await;
    if let Some(draft) = draft.filter(|_| outcome.is_err()) {
        // It may have been put in its place already.
        let _moved = std::fs::remove_file(draft);
    }
    outcome?;
    let count = records.len();
    Ok(Restored {
        records: count,
        created_at: header.created_at,
        created_by: header.created_by,
        missing_keys: (!key_file.exists()).then_some(key_file),
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RestoreFailure {
    let path = path.to_owned();
    move |source| RestoreFailure::File { path, source }
}

fn read(path: &Path) -> Outcome<Backup> {
    let opened = File::open(path).map_err(BackupError::from);
    let unpacked = opened.and_then(|file| backup::unpack(&mut BufReader::new(file)));
    unpacked.map_err(|source| RestoreFailure::Backup { path: path.to_owned(), source })
}

/// The keys, beside where they will be.
fn draft_keys(key_file: &Path, keys: &[u8]) -> Outcome<PathBuf> {
    let draft = key_file.with_added_extension("restored");
    let write = || -> io::Result<()> {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(keys)?;
        file.sync_all()
    };
    write().map_err(failed(&draft))?;
    Ok(draft)
}

async fn place(
    settings: &RestoreSettings,
    key_file: &Path,
    draft: Option<&Path>,
    revision: Revision,
    records: &[Record],
) -> Outcome<()> {
    let data = &settings.data;
    let keys = draft.unwrap_or(key_file);
    match Keyring::open(keys) {
        Ok(keyring) => {
            berth_secrets::check(&keyring, records).map_err(RestoreFailure::Unfit)?;
        }
        // They may be brought later.
        Err(KeyringError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let (store, authority) = (data.join("store.redb"), data.join("pki"));
    let mut aside = vec![authority.as_path()];
    if settings.store.is_none() {
        aside.push(&store);
    }
    if draft.is_some() {
        aside.push(key_file);
    }
    if let Some(present) = aside.iter().find(|path| path.exists())
        && !settings.replace
    {
        return Err(RestoreFailure::Present(present.to_path_buf()));
    }
    let fresh = data.join("store.redb.restored");
    match &settings.store {
        Some(etcd) => {
            let etcd = crate::custody::connect(etcd).await?;
            let begun = tokio::time::Instant::now();
            // A server that was killed just now is still named there for a moment.
            while let Err(error) = restore::fill(&etcd, records.to_vec(), settings.replace).await {
                let named = matches!(error, RestoreError::Running(_));
                if !named || begun.elapsed() > CLAIM {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        None => {
            remove(&fresh)?;
            let revision = Revision(revision.0 + LEAP);
            Disk::fill(&fresh, revision, records).map_err(failed(&fresh))?;
        }
    }
    for path in aside.into_iter().filter(|path| path.exists()) {
        // What was put aside before may be the only copy of what is really wanted.
        let name = |number: u32| match number {
            0 => "before-restore".to_owned(),
            number => format!("before-restore.{number}"),
        };
        let mut names = (0..).map(|number| path.with_added_extension(name(number)));
        let old = names.find(|old| !old.exists()).unwrap_or_else(|| path.to_owned());
        std::fs::rename(path, &old).map_err(failed(&old))?;
    }
    if let Some(draft) = draft {
        std::fs::rename(draft, key_file).map_err(failed(key_file))?;
    }
    if settings.store.is_none() {
        std::fs::rename(&fresh, &store).map_err(failed(&store))?;
    }
    File::open(data).and_then(|folder| folder.sync_all()).map_err(failed(data))
}

fn remove(path: &Path) -> Outcome<()> {
    let removed =
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}
