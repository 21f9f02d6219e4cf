//! Private files: readable by their owner alone, and either whole or absent.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::AuthorityError;

pub(crate) fn folder(path: &Path) -> Result<(), AuthorityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| AuthorityError::File { path: path.into(), source })
}

pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let draft = path.with_added_extension("new");
    replace(path, &draft, content)
        .map_err(|source| AuthorityError::File { path: path.into(), source })
}

fn replace(path: &Path, draft: &Path, content: &[u8]) -> io::Result<()> {
    // A draft left by a crash may have any mode, so it is not reused.
    match std::fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(draft, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
