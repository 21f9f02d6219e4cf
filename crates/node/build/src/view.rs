//! Several layers read as one tree, without mounting them.
//!
//! The same rules as overlayfs: the topmost name counts, character device 0:0 hides, an opaque folder hides what is
//! below it. Links are followed inside the tree only, so neither an image nor a build context can name a file of
//! the host.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

const MOST_LINKS: usize = 40;

/// A stack of directories, the topmost first.
#[derive(Debug, Clone)]
pub(crate) struct View {
    roots: Vec<PathBuf>,
}

/// Something in the tree.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// The folders that make it up, the topmost first.
    Folder(Vec<PathBuf>),
    /// Anything else.
    Leaf(PathBuf),
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Found {
    /// The path without links, relative to the root.
    pub path: PathBuf,
    /// What is there, if anything.
    pub node: Option<Node>,
}

impl Node {
    /// The file whose metadata counts.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Folder(folders) => &folders[0],
            Self::Leaf(path) => path,
        }
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        fs::symlink_metadata(self.path())
    }
}

impl View {
    /// Of layers, the lowest first.
    pub(crate) fn of_layers(layers: &[PathBuf]) -> Self {
        Self { roots: layers.iter().rev().cloned().collect() }
    }

    /// The same with another layer on top.
    pub(crate) fn over(&self, top: &Path) -> Self {
        let mut roots = vec![top.to_owned()];
        roots.extend(self.roots.iter().cloned());
        Self { roots }
    }

    pub(crate) fn root(&self) -> Node {
        Node::Folder(self.roots.clone())
    }

    /// What `name` is in a folder, not following it.
    pub(crate) fn child(folder: &[PathBuf], name: &OsStr) -> io::Result<Option<Node>> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for layer in folder {
            let path = layer.join(name);
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if is_whiteout(&meta) {
                break;
            }
            if !meta.is_dir() {
                if folders.is_empty() {
                    return Ok(Some(Node::Leaf(path)));
                }
                break;
            }
            let opaque = is_opaque(&path);
            folders.push(path);
            if opaque {
                break;
            }
        }
        Ok(if folders.is_empty() { None } else { Some(Node::Folder(folders)) })
    }

    /// What is in a folder, by name.
    pub(crate) fn children(folder: &[PathBuf]) -> io::Result<BTreeMap<OsString, Node>> {
        let mut children = BTreeMap::new();
        for layer in folder {
            for entry in fs::read_dir(layer)? {
                let name = entry?.file_name();
                if !children.contains_key(&name)
                    && let Some(node) = Self::child(folder, &name)?
                {
                    children.insert(name, node);
                }
            }
        }
        Ok(children)
    }

    /// Follows `path` from the root, and its last link too if `follow`. Beyond the first missing name the rest
    /// is taken as it stands.
    pub(crate) fn find(&self, path: &Path, follow: bool) -> io::Result<Found> {
        let mut todo = parts(path);
        todo.reverse();
        // The folders walked through, with the root at the bottom.
        let mut walked: Vec<(OsString, Option<Node>)> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                walked.pop();
                continue;
            }
            let here = walked.last().map_or(Some(self.root()), |(_, node)| node.clone());
            let node = match &here {
                Some(Node::Folder(folders)) => Self::child(folders, &name)?,
                Some(Node::Leaf(_)) | None => None,
            };
            if let Some(Node::Leaf(leaf)) = &node
                && (follow || !todo.is_empty())
                && fs::symlink_metadata(leaf)?.is_symlink()
            {
                links += 1;
                if links > MOST_LINKS {
                    return Err(io::Error::from(rustix::io::Errno::LOOP));
                }
                let target = fs::read_link(leaf)?;
                if target.is_absolute() {
                    walked.clear();
                }
                todo.extend(parts(&target).into_iter().rev());
                continue;
            }
            walked.push((name, node));
        }
        let node = walked.last().map_or(Some(self.root()), |(_, node)| node.clone());
        Ok(Found { path: walked.into_iter().map(|(name, _)| name).collect(), node })
    }

    /// The text of a file such as `/etc/passwd`; `None` if it is not there.
    pub(crate) fn read(&self, path: &str) -> io::Result<Option<String>> {
        match self.find(Path::new(path), true)?.node {
            Some(Node::Leaf(path)) => fs::read_to_string(path).map(Some),
            Some(Node::Folder(_)) | None => Ok(None),
        }
    }
}

/// The names of a path; `..` stays, for it depends on what links lead to.
pub(crate) fn parts(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(folder: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::lgetxattr(folder, *name, &mut value)
            .is_ok_and(|length| value[..length] == *b"y")
    })
}
