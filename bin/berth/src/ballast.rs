//! Room that is kept for bad times: a file that is given up when the disk is full, so that the server can still start and
//! somebody can clean up with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use berth_apiserver::Room;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tracing::{info, warn};

/// The room that is kept, in bytes.
const ROOM: u64 = 8 << 20;
/// What a server needs to start, in bytes: its certificates, and a store that may grow.
const NEEDED: u64 = 4 << 20;
/// With less than this the server takes nothing more from people, in bytes.
const SHORT: u64 = 2 * ROOM;
/// No room is taken from a disk that has less than this left, in bytes.
const PLENTY: u64 = 4 * ROOM;

fn path(data: &Path) -> PathBuf {
    data.join("ballast")
}

fn available(data: &Path) -> io::Result<u64> {
    let disk = statvfs(data)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Gives the room up if the disk is full, or takes it if there is plenty.
///
/// # Errors
/// When the file system refuses for another reason than a lack of room.
pub fn trim(data: &Path) -> io::Result<()> {
    let path = path(data);
    let left = available(data)?;
    if left < NEEDED {
        match fs::remove_file(&path) {
            Ok(()) => warn!(
                path = %data.display(),
                left,
                "the disk is full; the room kept for this is given up, so clean up soon"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn!(path = %data.display(), left, "the disk is full, and no room is kept any more");
            }
            Err(error) => return Err(error),
        }
    } else if left > PLENTY && !path.exists() {
        let file = File::create(&path)?;
        match fallocate(file.as_fd(), FallocateFlags::empty(), 0, ROOM) {
            Ok(()) => {}
            Err(error) => {
                // A file without the room is worth nothing. Not every file system can take room in advance.
                fs::remove_file(&path)?;
                info!(%error, "no room is kept for a full disk");
            }
        }
    }
    Ok(())
}

/// The room on a data directory's disk.
pub struct Disk(pub PathBuf);

impl Room for Disk {
    fn is_short(&self) -> bool {
        // Writes come all the time, leases at least, so this is where a full disk is noticed.
        let left = available(&self.0).and_then(|left| {
            // A container that filled it for a moment is no reason to go without from then on.
            let kept = path(&self.0).exists();
            if left < NEEDED && kept || left > PLENTY && !kept {
                trim(&self.0)?;
            }
            Ok(left)
        });
        left.inspect_err(|error| warn!(%error, "the room on the disk is not known"))
            .is_ok_and(|left| left < SHORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_and_only_from_plenty() {
        let directory = tempfile::tempdir().unwrap();
        assert!(available(directory.path()).unwrap() > PLENTY, "this test needs room on the disk");
        trim(directory.path()).unwrap();
        let kept = fs::metadata(path(directory.path())).unwrap();
        assert_eq!(kept.len(), ROOM);
        trim(directory.path()).unwrap();
        assert!(path(directory.path()).exists());
    }
}
