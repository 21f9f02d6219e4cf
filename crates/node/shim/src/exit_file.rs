//! How a container ended, on disk, for an agent that finds no shim to ask.
//!
//! A container may well end because the disk is full, so the room for its exit is taken when it starts.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::protocol::Exit;

/// Room for an exit, in bytes. What is not needed stays blank, which JSON allows.
const ROOM: usize = 256;

/// The file an exit will be written to.
#[derive(Debug)]
pub struct ExitFile {
    reserved: PathBuf,
    path: PathBuf,
}

impl ExitFile {
    /// Takes the room for a container's exit in a pod's directory.
    pub fn reserve(directory: &Path, container: &str) -> io::Result<Self> {
        let file = Self {
            reserved: directory.join(format!("{container}.exit.reserved")),
            path: directory.join(format!("{container}.exit")),
        };
        let written = fs::write(&file.reserved, [b' '; ROOM]);
        written.map_err(|error| {
            let message = format!("cannot write `{}`: {error}", file.reserved.display());
            io::Error::new(error.kind(), message)
        })?;
        Ok(file)
    }

    /// Writes the exit: whole, and only then under its name.
    pub fn write(&self, exit: Exit) -> io::Result<()> {
        let text = serde_json::to_vec(&exit)?;
        let mut file = File::options().write(true).open(&self.reserved)?;
        file.write_all(&text)?;
        fs::rename(&self.reserved, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = ExitFile::reserve(directory.path(), "web.1").unwrap();
        let path = directory.path().join("web.1.exit");
        assert!(!path.exists());
        let exit = Exit { code: 137, signal: Some(9), out_of_memory: true, finished: i64::MAX };
        file.write(exit).unwrap();
        let read: Exit = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, exit);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
