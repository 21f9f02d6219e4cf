//! `COPY` and `ADD`: finding sources, hashing them, laying them into a new layer.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use berth_content::Digest;
use berth_unpack::Hashing;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat,
};

use crate::error::{OnFile as _, Problem};
use crate::ignore::{Ignore, pattern_matcher};
use crate::owner::Owner;
use crate::view::{Node, View};

/// Where sources come from.
pub(crate) struct Tree<'a> {
    pub view: View,
    /// For the build context.
    pub ignore: Option<&'a Ignore>,
}

/// One source that was found.
pub(crate) struct Item {
    /// Relative to the tree's root, without links.
    pub path: PathBuf,
    pub node: Node,
}

/// How copied files look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dress {
    /// `None` keeps the owner.
    pub owner: Option<Owner>,
    /// `None` keeps the mode.
    pub mode: Option<u32>,
}

impl Tree<'_> {
    fn hides(&self, path: &Path) -> bool {
        self.ignore.is_some_and(|ignore| ignore.hides(path))
    }

    /// What a source pattern names; at least one.
    pub(crate) fn sources(&self, pattern: &str) -> Result<Vec<Item>, Problem> {
        let missing = || {
            let hint =
                if self.ignore.is_some() { " in the build context (or it is ignored)" } else { "" };
            Problem::Missing(format!("`{pattern}` is not there{hint}"))
        };
        let trimmed = pattern.trim_start_matches('/');
        if self.ignore.is_some()
            && Path::new(trimmed).components().any(|part| part.as_os_str() == "..")
        {
            return Err(Problem::Missing(format!("`{pattern}` is outside the build context")));
        }
        if !pattern.contains(['*', '?', '[']) {
            let found = self.view.find(Path::new(trimmed), true).on_file("look for", pattern)?;
            let node = found
                .node
                .filter(|node| matches!(node, Node::Folder(_)) || !self.hides(&found.path));
            let node = node.ok_or_else(missing)?;
            return Ok(vec![Item { path: found.path, node }]);
        }
        let trimmed = trimmed.trim_start_matches("./").trim_end_matches('/');
        let matcher = pattern_matcher(trimmed).map_err(|error| {
            Problem::Syntax(format!("bad pattern `{pattern}`: {}", error.kind()))
        })?;
        let depth = Path::new(trimmed).components().count();
        let mut items = Vec::new();
        if let Node::Folder(root) = self.view.root() {
            self.matching(&root, Path::new(""), depth, &matcher, &mut items)?;
        }
        if items.is_empty() { Err(missing()) } else { Ok(items) }
    }

    fn matching(
        &self,
        folder: &[PathBuf],
        at: &Path,
        depth: usize,
        matcher: &globset::GlobMatcher,
        items: &mut Vec<Item>,
    ) -> Result<(), Problem> {
        for (name, node) in View::children(folder).on_file("list", at)? {
            let path = at.join(name);
            if depth == 1 && matcher.is_match(&path) && !self.hides(&path) {
                let found = self.view.find(&path, true).on_file("look for", &path)?;
                items.extend(found.node.map(|node| Item { path: path.clone(), node }));
            } else if let (Node::Folder(inner), true) = (&node, depth > 1) {
                self.matching(inner, &path, depth - 1, matcher, items)?;
            }
        }
        Ok(())
    }

    /// The visible children of a folder.
    fn children(&self, folders: &[PathBuf], at: &Path) -> Result<Vec<(PathBuf, Node)>, Problem> {
        let mut visible = Vec::new();
        for (name, node) in View::children(folders).on_file("list", at)? {
            let path = at.join(name);
            let look_inside = matches!(node, Node::Folder(_))
                && self.ignore.is_some_and(Ignore::may_bring_back)
                && self.any_visible(&node, &path)?;
            if !self.hides(&path) || look_inside {
                visible.push((path, node));
            }
        }
        Ok(visible)
    }

    fn any_visible(&self, node: &Node, at: &Path) -> Result<bool, Problem> {
        if !self.hides(at) {
            return Ok(true);
        }
        let Node::Folder(folders) = node else { return Ok(false) };
        for (name, child) in View::children(folders).on_file("list", at)? {
            if self.any_visible(&child, &at.join(name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hashes names, kinds, modes and contents; not times. Owners count where they are kept.
    pub(crate) fn hash(
        &self,
        item: &Item,
        owners: bool,
        to: &mut dyn Write,
    ) -> Result<(), Problem> {
        self.hash_node(&item.node, &item.path, &item.path, owners, to)
    }

    fn hash_node(
        &self,
        node: &Node,
        path: &Path,
        base: &Path,
        owners: bool,
        to: &mut dyn Write,
    ) -> Result<(), Problem> {
        let meta = node.metadata().on_file("look at", path)?;
        let name = path.strip_prefix(base).unwrap_or(path).as_os_str();
        let owner = if owners { (meta.uid(), meta.gid()) } else { (0, 0) };
        let mut line = format!("{:?} {:o} {owner:?} {} ", name, meta.mode(), meta.rdev());
        if meta.is_symlink() {
            line += &format!("{:?}", fs::read_link(node.path()).on_file("read", path)?);
        } else if meta.is_file() {
            let mut file = Hashing::new(File::open(node.path()).on_file("open", path)?);
            io::copy(&mut file, &mut io::sink()).on_file("read", path)?;
            line += &file.finish().0.to_string();
        }
        line.push('\n');
        to.write_all(line.as_bytes()).on_file("hash", path)?;
        if let Node::Folder(folders) = node {
            for (child_path, child) in self.children(folders, path)? {
                self.hash_node(&child, &child_path, base, owners, to)?;
            }
        }
        Ok(())
    }
}

/// A layer being filled.
pub(crate) struct Layer<'a> {
    /// What is below it.
    pub below: &'a View,
    /// Where its files go.
    pub upper: &'a Path,
}

impl Layer<'_> {
    fn whole(&self) -> View {
        self.below.over(self.upper)
    }

    /// Whether a path is a folder in the image so far.
    pub(crate) fn is_folder(&self, path: &Path) -> Result<bool, Problem> {
        let found = self.whole().find(path, true).on_file("look for", path)?;
        Ok(matches!(found.node, Some(Node::Folder(_))))
    }

    /// Makes a folder with its parents; existing ones look as they did, new ones are 0755 and owned by `owner`.
    /// Returns where it is in the layer.
    pub(crate) fn folder(&self, path: &Path, owner: Owner) -> Result<PathBuf, Problem> {
        let found = self.whole().find(path, true).on_file("look for", path)?;
        let mut place = self.upper.to_owned();
        let mut so_far = PathBuf::new();
        for name in found.path.iter() {
            so_far.push(name);
            place.push(name);
            if fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_dir()) {
                continue;
            }
            let below = self.below.find(&so_far, false).on_file("look for", &so_far)?.node;
            match below {
                Some(Node::Folder(folders)) => {
                    fs::create_dir(&place).on_file("create", &place)?;
                    let meta = fs::symlink_metadata(&folders[0]).on_file("look at", &so_far)?;
                    dress(&folders[0], &place, &meta, Dress { owner: None, mode: None })?;
                }
                Some(Node::Leaf(_)) => {
                    let shown = Path::new("/").join(&so_far);
                    return Err(Problem::Missing(format!("`{}` is not a folder", shown.display())));
                }
                None => {
                    fs::create_dir(&place).on_file("create", &place)?;
                    set_mode(&place, 0o755)?;
                    std::os::unix::fs::lchown(&place, Some(owner.uid), Some(owner.gid))
                        .on_file("change the owner of", &place)?;
                }
            }
        }
        Ok(place)
    }

    /// Copies a source to `to` in the image. A folder's contents go into the folder `to`.
    pub(crate) fn put(
        &self,
        tree: &Tree<'_>,
        item: &Item,
        to: &Path,
        clothes: Dress,
    ) -> Result<(), Problem> {
        self.put_node(tree, &item.node, &item.path, to, clothes)
    }

    fn put_node(
        &self,
        tree: &Tree<'_>,
        node: &Node,
        path: &Path,
        to: &Path,
        clothes: Dress,
    ) -> Result<(), Problem> {
        let owner = clothes.owner.unwrap_or(Owner { uid: 0, gid: 0 });
        match node {
            Node::Folder(folders) => {
                let existed = self.is_folder(to)?;
                let place = self.folder(to, owner)?;
                if !existed {
                    let meta = node.metadata().on_file("look at", path)?;
                    dress(node.path(), &place, &meta, clothes)?;
                }
                for (child_path, child) in tree.children(folders, path)? {
                    let name = child_path.file_name().unwrap_or(OsStr::new(""));
                    self.put_node(tree, &child, &child_path, &to.join(name), clothes)?;
                }
                Ok(())
            }
            Node::Leaf(source) => {
                let place = self.place(to, owner)?;
                let meta = fs::symlink_metadata(source).on_file("look at", path)?;
                copy_leaf(source, &place, &meta)?;
                dress(source, &place, &meta, clothes)
            }
        }
    }

    /// Writes a file of the Dockerfile itself.
    pub(crate) fn write(
        &self,
        text: &str,
        to: &Path,
        owner: Owner,
        mode: u32,
    ) -> Result<(), Problem> {
        let place = self.place(to, owner)?;
        fs::write(&place, text).on_file("write", &place)?;
        std::os::unix::fs::lchown(&place, Some(owner.uid), Some(owner.gid))
            .on_file("change the owner of", &place)?;
        set_mode(&place, mode)?;
        set_times(&place, 0, 0)
    }

    /// A free place for a file: parents are there, an earlier file of this layer is gone.
    fn place(&self, to: &Path, owner: Owner) -> Result<PathBuf, Problem> {
        // A link to a file is written through, as `cp` and docker do; its target is inside the image.
        let to = self.whole().find(to, true).on_file("look for", to)?;
        if matches!(to.node, Some(Node::Folder(_))) {
            let shown = Path::new("/").join(&to.path);
            return Err(Problem::Missing(format!("`{}` is a folder, not a file", shown.display())));
        }
        let above = to.path.parent().unwrap_or(Path::new(""));
        let name = to.path.file_name();
        let name = name.ok_or_else(|| Problem::Syntax("the destination is the root".to_owned()))?;
        let place = self.folder(above, owner)?.join(name);
        match fs::remove_file(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome.on_file("replace", &place)?,
        }
        Ok(place)
    }
}

fn copy_leaf(source: &Path, place: &Path, meta: &Metadata) -> Result<(), Problem> {
    let kind = meta.file_type();
    if kind.is_file() {
        let mut from = File::open(source).on_file("open", source)?;
        let mut to = File::create_new(place).on_file("create", place)?;
        io::copy(&mut from, &mut to).map(drop).on_file("copy", source)
    } else if kind.is_symlink() {
        let target = fs::read_link(source).on_file("read", source)?;
        std::os::unix::fs::symlink(target, place).on_file("create", place)
    } else if kind.is_socket() {
        Err(Problem::Unsupported(format!("copying the socket `{}`", source.display())))
    } else {
        let (kind, device) = if kind.is_fifo() {
            (FileType::Fifo, 0)
        } else if kind.is_char_device() {
            (FileType::CharacterDevice, meta.rdev())
        } else {
            (FileType::BlockDevice, meta.rdev())
        };
        mknodat(CWD, place, kind, Mode::from_raw_mode(meta.mode()), device).on_file("create", place)
    }
}

/// Owner, mode, attributes and times, in the order that keeps all of them.
fn dress(source: &Path, place: &Path, meta: &Metadata, clothes: Dress) -> Result<(), Problem> {
    let owner = clothes.owner.unwrap_or(Owner { uid: meta.uid(), gid: meta.gid() });
    std::os::unix::fs::lchown(place, Some(owner.uid), Some(owner.gid))
        .on_file("change the owner of", place)?;
    if !meta.is_symlink() {
        set_mode(place, clothes.mode.unwrap_or(meta.mode() & 0o7777))?;
    }
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(source, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        outcome => outcome.on_file("read the attributes of", source)?,
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        if overlay || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let name = OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(source, name, &mut value)
            .on_file("read the attributes of", source)?;
        rustix::fs::lsetxattr(place, name, &value[..length], XattrFlags::empty())
            .on_file("set the attributes of", place)?;
    }
    set_times(place, meta.mtime(), meta.mtime_nsec())
}

fn set_mode(place: &Path, mode: u32) -> Result<(), Problem> {
    fs::set_permissions(place, fs::Permissions::from_mode(mode)).on_file("set the mode of", place)
}

fn set_times(place: &Path, tv_sec: i64, tv_nsec: i64) -> Result<(), Problem> {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW).on_file("set the times of", place)
}

/// The digest of what `fill` writes.
pub(crate) fn digest_of(
    fill: impl FnOnce(&mut dyn Write) -> Result<(), Problem>,
) -> Result<Digest, Problem> {
    let mut hashing = Hashing::new(io::sink());
    fill(&mut hashing)?;
    Ok(hashing.finish().0)
}
