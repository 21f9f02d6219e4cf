//! Building tar streams, honest and otherwise, and looking at what came out.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use berth_unpack::{UnpackError, UnpackOptions, Unpacked, unpack};
use tar::{EntryType, Header};

/// A tar stream made of raw headers, so that it may lie.
#[derive(Default)]
pub struct Layer {
    builder: Vec<u8>,
}

impl Layer {
    pub fn raw(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        copy(name.as_bytes(), &mut header.as_old_mut().name);
        copy(link.as_bytes(), &mut header.as_old_mut().linkname);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.builder.extend_from_slice(header.as_bytes());
        self.builder.extend_from_slice(data);
        self.builder.resize(self.builder.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &str) -> Self {
        self.raw(EntryType::Regular, name, "", 0o644, data.as_bytes())
    }

    pub fn folder(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name, "", 0o755, b"")
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name, target, 0o777, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name, target, 0o644, b"")
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.builder.resize(self.builder.len() + 1024, 0);
        self.builder
    }
}

fn copy(text: &[u8], field: &mut [u8]) {
    field[..text.len()].copy_from_slice(text);
}

/// Unpacks into `root` inside a fresh folder; whatever lands beside `root` has escaped.
pub struct Sandbox {
    pub folder: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        std::fs::write(folder.path().join("precious"), "untouched").unwrap();
        Self { folder }
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    pub fn unpack(&self, tar: &[u8]) -> Result<Unpacked, UnpackError> {
        unpack(tar, None, &self.root(), &UnpackOptions::default())
    }

    pub fn assert_unharmed(&self) {
        let precious = std::fs::read_to_string(self.folder.path().join("precious")).unwrap();
        assert_eq!(precious, "untouched");
        let mut names: Vec<_> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["precious", "root"]);
    }
}

/// Every path with everything that a layer determines about it, as text.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    walk(root, root, &mut seen);
    seen
}

fn walk(root: &Path, folder: &Path, seen: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let what = if kind.is_symlink() {
            format!("link {}", std::fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            walk(root, &path, seen);
            "folder".to_owned()
        } else if kind.is_file() {
            let mut data = Vec::new();
            std::fs::File::open(&path).unwrap().read_to_end(&mut data).unwrap();
            format!("file {} links {}", berth_unpack::Digest::of(&data), meta.nlink())
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {:x}", meta.rdev())
        } else {
            "other".to_owned()
        };
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let (mode, uid, gid, mtime) = (meta.mode(), meta.uid(), meta.gid(), meta.mtime());
        seen.insert(name, format!("{what} {mode:o} {uid}:{gid} {mtime} {}", xattrs(&path)));
    }
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut all = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        all.push(format!("{}={:?}", String::from_utf8_lossy(name), &value[..length]));
    }
    all.sort();
    all.join(",")
}

/// Runs a command that must succeed.
pub fn run(command: &mut std::process::Command) {
    let output = command.output().unwrap_or_else(|error: io::Error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
