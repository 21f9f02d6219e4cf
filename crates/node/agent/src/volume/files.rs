//! Files made from ConfigMaps, Secrets, fields and tokens, replaced all at once.
//!
//! The layout is upstream's, since programs watch it: the files are in a directory of their own, `..data` is a link to it, and each
//! name of the volume is a link through `..data`. A change writes a new directory and turns that one link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};
use kube::ResourceExt;

use super::follow::{Kind, Reference};
use crate::config::Cause;

const DATA: &str = "..data";
/// What upstream gives files where nobody says.
const MODE: u32 = 0o644;

/// The files of a volume as they should be.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<PathBuf, (Vec<u8>, Option<i32>)>,
    /// The mode of files that have none of their own.
    pub mode: Option<i32>,
    /// What they were made from, with the version that was read.
    pub read: BTreeMap<Reference, Option<String>>,
}

impl Files {
    /// Adds one.
    pub fn put(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) -> Result<(), Cause> {
        let path = PathBuf::from(path);
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        let ours = path.as_os_str().as_encoded_bytes().starts_with(b"..");
        if !inside || ours || path.as_os_str().is_empty() {
            let path = path.display();
            return Err(Cause::config(format!("`{path}` is not a path within a volume")));
        }
        self.files.insert(path, (content, mode));
        Ok(())
    }

    fn add(
        &mut self,
        what: &str,
        mut data: BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Cause> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return data.into_iter().try_for_each(|(name, content)| self.put(&name, content, None));
        };
        for item in items {
            match data.remove(&item.key) {
                Some(content) => self.put(&item.path, content, item.mode)?,
                None if optional => {}
                None => return Err(Cause::config(format!("{what} has no key `{}`", item.key))),
            }
        }
        Ok(())
    }

    fn note(&mut self, kind: Kind, namespace: &str, name: &str, version: Option<String>) {
        let reference = Reference { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.read.insert(reference, version);
    }

    /// Adds the keys of a ConfigMap, which may be absent where it is optional.
    pub fn add_config_map(
        &mut self,
        (namespace, name): (&str, &str),
        map: Option<ConfigMap>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Cause> {
        let fixed = map.as_ref().is_some_and(|map| map.immutable == Some(true));
        if !fixed {
            let version = map.as_ref().and_then(ResourceExt::resource_version);
            self.note(Kind::ConfigMap, namespace, name, version);
        }
        let Some(map) = map else { return Ok(()) };
        let text = map.data.unwrap_or_default().into_iter();
        let mut data: BTreeMap<String, Vec<u8>> =
            text.map(|(name, text)| (name, text.into_bytes())).collect();
        data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(name, it)| (name, it.0)));
        self.add(&format!("ConfigMap `{name}`"), data, items, optional)
    }

    /// Adds the keys of a Secret, which may be absent where it is optional.
    pub fn add_secret(
        &mut self,
        (namespace, name): (&str, &str),
        secret: Option<Secret>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Cause> {
        let fixed = secret.as_ref().is_some_and(|secret| secret.immutable == Some(true));
        if !fixed {
            let version = secret.as_ref().and_then(ResourceExt::resource_version);
            self.note(Kind::Secret, namespace, name, version);
        }
        let Some(secret) = secret else { return Ok(()) };
        let data = secret.data.unwrap_or_default().into_iter().map(|(name, it)| (name, it.0));
        self.add(&format!("Secret `{name}`"), data.collect(), items, optional)
    }

    /// Makes a directory hold these files, in the group if one is named. Says whether anything changed.
    pub fn write(&self, directory: &Path, group: Option<u32>) -> io::Result<bool> {
        fs::create_dir_all(directory)?;
        let current = fs::read_link(directory.join(DATA)).ok();
        // An earlier change may have been interrupted behind this step, so what follows is done in any case.
        let same = current.filter(|current| self.are_in(&directory.join(current), group));
        let is_new = same.is_none();
        let fresh = match same.and_then(|name| name.into_os_string().into_string().ok()) {
            Some(name) => name,
            None => {
                let now = Timestamp::now();
                let time = now.strftime("..%Y_%m_%d_%H_%M_%S");
                let fresh = format!("{time}.{:09}", now.subsec_nanosecond());
                self.fill(&directory.join(&fresh), group)?;
                turn(Path::new(&fresh), &directory.join(DATA))?;
                fresh
            }
        };
        let tops: BTreeSet<&Path> = self
            .files
            .keys()
            .filter_map(|path| path.components().next())
            .map(|top| Path::new(top.as_os_str()))
            .collect();
        for top in &tops {
            let (link, target) = (directory.join(top), Path::new(DATA).join(top));
            if fs::read_link(&link).ok().as_ref() != Some(&target) {
                turn(&target, &link)?;
            }
        }
        // What was here before goes last, and so does what an interrupted change has left.
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let kept = name == DATA || name.as_encoded_bytes() == fresh.as_bytes();
            if kept || tops.contains(Path::new(&name)) {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(is_new)
    }

    fn mode_of(&self, own: Option<i32>, group: Option<u32>) -> u32 {
        let mode = own.or(self.mode).map_or(MODE, i32::cast_unsigned) & 0o777;
        // Who is in the pod's group may read what the owner may.
        if group.is_some() { mode | 0o440 } else { mode }
    }

    fn fill(&self, directory: &Path, group: Option<u32>) -> io::Result<()> {
        fs::create_dir(directory)?;
        for (path, (content, mode)) in &self.files {
            let target = directory.join(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            // Nobody reads it before it has its mode: containers may see the directory already.
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&target)?;
            file.write_all(content)?;
            std::os::unix::fs::chown(&target, None, group)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(self.mode_of(*mode, group)))?;
        }
        // A container may be anybody.
        for folder in folders(directory)? {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn are_in(&self, directory: &Path, group: Option<u32>) -> bool {
        let same = |(path, (content, mode)): (&PathBuf, &(Vec<u8>, Option<i32>))| {
            let target = directory.join(path);
            fs::metadata(&target).is_ok_and(|it| {
                it.mode() & 0o777 == self.mode_of(*mode, group)
                    && group.is_none_or(|group| it.gid() == group)
            }) && fs::read(&target).is_ok_and(|found| found == *content)
        };
        let count = count_files(directory);
        count.is_ok_and(|count| count == self.files.len()) && self.files.iter().all(same)
    }
}

/// Makes a link lead elsewhere, in one step.
fn turn(target: &Path, link: &Path) -> io::Result<()> {
    let draft = link.with_file_name("..new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(target, &draft)?,
    }
    fs::rename(draft, link)
}

/// A directory and all below it.
fn folders(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(folder) = all.get(next).cloned() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                all.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(all)
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for folder in folders(directory)? {
        for entry in fs::read_dir(folder)? {
            count += usize::from(!entry?.file_type()?.is_dir());
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_keep_to_their_directory_and_get_their_mode() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files { mode: Some(0o400), ..Files::default() };
        for bad in ["../out", "/etc/passwd", "", "..data", "..x/y"] {
            assert!(files.put(bad, Vec::new(), None).is_err(), "{bad}");
        }
        files.put("a/key", b"value".to_vec(), None).unwrap();
        files.put("open", b"x".to_vec(), Some(0o666)).unwrap();
        files.write(directory.path(), None).unwrap();
        let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("a/key"), mode("open"), mode("a")), (0o400, 0o666, 0o755));
        assert_eq!(text(&directory.path().join("a/key")), "value");
        files.write(directory.path(), Some(1234)).unwrap();
        assert_eq!((mode("a/key"), mode("open")), (0o440, 0o666));
        assert_eq!(fs::metadata(directory.path().join("a/key")).unwrap().gid(), 1234);
    }

    #[test]
    fn a_change_replaces_all_at_once_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let write = |pairs: &[(&str, &str)]| {
            let mut files = Files::default();
            pairs
                .iter()
                .for_each(|(path, text)| files.put(path, text.as_bytes().to_vec(), None).unwrap());
            files.write(directory, None).unwrap()
        };
        assert!(write(&[("a", "1"), ("d/b", "1")]));
        let open = fs::File::open(directory.join("..data")).unwrap();
        assert!(!write(&[("a", "1"), ("d/b", "1")]), "nothing has changed");
        assert!(write(&[("a", "2"), ("c", "2")]));
        assert_eq!(
            (text(&directory.join("a")), text(&directory.join("c"))),
            ("2".into(), "2".into())
        );
        assert_eq!(fs::read_link(directory.join("a")).unwrap(), Path::new("..data/a"));
        let seen = names(directory);
        assert_eq!(seen.len(), 4, "{seen:?}");
        assert_eq!(&seen[1..], ["..data", "a", "c"]);
        // Who holds the old directory open has it whole or empty, never mixed.
        assert_eq!(open.metadata().unwrap().nlink(), 0);
        // What an interrupted change did not come to is done by the next attempt.
        fs::remove_file(directory.join("a")).unwrap();
        assert!(!write(&[("a", "2"), ("c", "2")]));
        assert_eq!(text(&directory.join("a")), "2");
        // What an interrupted change left goes with the next.
        fs::create_dir(directory.join("..2020_01_01")).unwrap();
        symlink("nowhere", directory.join("..new")).unwrap();
        assert!(write(&[("a", "3")]));
        assert_eq!(names(directory)[1..], ["..data", "a"]);
    }

    #[test]
    fn files_of_an_older_layout_become_links() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "old").unwrap();
        let mut files = Files::default();
        files.put("a", b"new".to_vec(), None).unwrap();
        assert!(files.write(folder.path(), None).unwrap());
        assert_eq!(text(&folder.path().join("a")), "new");
        assert!(fs::symlink_metadata(folder.path().join("a")).unwrap().is_symlink());
    }
}
