//! Files that are there to be locked.

use std::fs::File;
use std::io;
use std::path::Path;

/// Opens a file to lock it, and makes it if it is not there. What is in it stays.
pub fn open(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)
}
