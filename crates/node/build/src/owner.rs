//! Owners by name or number, as `--chown` has them.

use std::io;

use crate::error::{OnFile as _, Problem};
use crate::view::View;

/// A numeric owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// `user`, `user:group`, by name (looked up in the image) or number. Without a group it is the user's own, or
    /// the same number, as docker does.
    pub(crate) fn parse(text: &str, view: &View) -> Result<Self, Problem> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let read = |path: &str| -> Result<String, Problem> {
            let text: io::Result<Option<String>> = view.read(path);
            Ok(text.on_file("read", path)?.unwrap_or_default())
        };
        let (uid, own) = match user.parse() {
            Ok(uid) => (uid, uid),
            Err(_) => {
                let passwd = read("/etc/passwd")?;
                let entry = lookup(&passwd, user, "user")?;
                (number(&entry, 2, user)?, number(&entry, 3, user)?)
            }
        };
        let gid = match group {
            None | Some("") => own,
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => number(&lookup(&read("/etc/group")?, group, "group")?, 2, group)?,
            },
        };
        Ok(Self { uid, gid })
    }
}

fn lookup<'a>(table: &'a str, name: &str, kind: &str) -> Result<Vec<&'a str>, Problem> {
    let mut entries = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = entries.find(|fields| fields[0] == name);
    found.ok_or_else(|| Problem::Missing(format!("the image has no {kind} `{name}`")))
}

fn number(entry: &[&str], position: usize, name: &str) -> Result<u32, Problem> {
    let field = entry.get(position).and_then(|field| field.parse().ok());
    field.ok_or_else(|| Problem::Missing(format!("the image has a broken entry for `{name}`")))
}
