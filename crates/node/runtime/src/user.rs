//! Who a process runs as: `USER` of an image or `-u`, resolved against the container's own account files.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// The ids of a process and the home directory of its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, from the image's `/etc/group`.
    pub groups: Vec<u32>,
    /// Home directory; `/` when the account has none.
    pub home: String,
}

/// Why a user cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name in `/etc/passwd` of the image.
    #[error("the image has no user `{0}` in /etc/passwd")]
    Unknown(String),
    /// No such name in `/etc/group` of the image.
    #[error("the image has no group `{0}` in /etc/group")]
    UnknownGroup(String),
    /// An account file could not be read.
    #[error("cannot read `{path}` of the image")]
    Read {
        /// Path within the root filesystem.
        path: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// Account files beyond this size are refused: they are read into memory.
const LIMIT: u64 = 4 << 20;

/// What stands before a user whom the image's groups do not count.
pub const STRICT: char = '=';

/// Resolves `user`, `uid`, `user:group` or `uid:gid` against the root filesystem behind `root`. Empty means root. After
/// [`STRICT`] the user is in no group of the image but the first.
///
/// # Errors
/// An unknown name, or unreadable account files. A number needs no entry.
pub fn resolve(root: BorrowedFd<'_>, user: &str) -> Result<Account, UserError> {
    let passwd = read(root, "etc/passwd")?;
    let group = read(root, "etc/group")?;
    let (strict, user) = user.strip_prefix(STRICT).map_or((false, user), |user| (true, user));
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    // A number is nobody's name, whatever the image says.
    let number = name.parse::<u32>().ok();
    let mut entries = passwd.lines().filter_map(PasswdEntry::parse);
    let entry = entries.find(|entry| number.map_or(entry.name == name, |uid| uid == entry.uid));
    let (uid, entry_gid) = match (&entry, name.parse::<u32>()) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Ok(uid)) => (uid, 0),
        (None, Err(_)) => return Err(UserError::Unknown(name.to_owned())),
    };
    let gid = match group_name {
        None => entry_gid,
        Some(wanted) => group_id(&group, wanted)?,
    };
    let groups = match (&entry, group_name) {
        (Some(entry), None) if !strict => memberships(&group, entry.name),
        _ => Vec::new(),
    };
    let home = entry.map_or("/", |entry| entry.home).to_owned();
    Ok(Account { uid, gid, groups, home: if home.is_empty() { "/".to_owned() } else { home } })
}

/// The groups that the image's `/etc/group` counts a user among, who is given by name or number.
///
/// # Errors
/// Unreadable account files.
pub fn groups_of(root: BorrowedFd<'_>, user: &str) -> Result<Vec<u32>, UserError> {
    let passwd = read(root, "etc/passwd")?;
    let number = user.parse::<u32>().ok();
    let mut entries = passwd.lines().filter_map(PasswdEntry::parse);
    let entry = entries.find(|entry| number.map_or(entry.name == user, |uid| uid == entry.uid));
    let Some(entry) = entry else { return Ok(Vec::new()) };
    Ok(memberships(&read(root, "etc/group")?, entry.name))
}

/// The home directory of a user id, `/` when it has no entry.
///
/// # Errors
/// Unreadable account files.
pub fn home(root: BorrowedFd<'_>, uid: u32) -> Result<String, UserError> {
    let passwd = read(root, "etc/passwd")?;
    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| entry.uid == uid);
    Ok(entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned())
}

struct PasswdEntry<'line> {
    name: &'line str,
    uid: u32,
    gid: u32,
    home: &'line str,
}

impl<'line> PasswdEntry<'line> {
    fn parse(line: &'line str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

fn group_id(group: &str, wanted: &str) -> Result<u32, UserError> {
    let named = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok())?
    });
    named.or_else(|| wanted.parse().ok()).ok_or_else(|| UserError::UnknownGroup(wanted.to_owned()))
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let gid = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|member| member == user).then_some(gid)
        })
        .collect()
}

fn read(root: BorrowedFd<'_>, path: &'static str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::Read { path, source };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(failed(error.into())),
    };
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_numbers_and_groups_resolve_as_in_docker() {
        let root = std::env::temp_dir().join(format!("berth-user-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:70:71::/srv:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:71:\nlogs:x:9:app,root\n")
            .unwrap();
        let handle = std::fs::File::open(&root).unwrap();
        let ask = |user: &str| resolve(handle.as_fd(), user);
        let account = |uid, gid, groups: &[u32], home: &str| Account {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        };
        assert_eq!(ask("").unwrap(), account(0, 0, &[9], "/root"));
        assert_eq!(ask("app").unwrap(), account(70, 71, &[9], "/srv"));
        assert_eq!(ask("70").unwrap(), account(70, 71, &[9], "/srv"));
        assert_eq!(ask("app:logs").unwrap(), account(70, 9, &[], "/srv"));
        assert_eq!(ask("1234").unwrap(), account(1234, 0, &[], "/"));
        assert_eq!(ask("1234:55").unwrap(), account(1234, 55, &[], "/"));
        assert_eq!(
            ask("nobody").unwrap_err().to_string(),
            "the image has no user `nobody` in /etc/passwd"
        );
        assert!(matches!(ask("app:none"), Err(UserError::UnknownGroup(name)) if name == "none"));
        std::fs::remove_dir_all(root).unwrap();
    }
}
