//! What is asked, and the answer.

use crate::Identity;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, a verb of its own such as `bind`,
    /// or the HTTP method in lower case.
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The resource, empty for a path that is none.
    pub resource: &'a str,
    /// The subresource.
    pub subresource: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
    /// The path as sent; only what is no resource is judged by it.
    pub path: &'a str,
}

/// May they?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They may, for this reason.
    Allow(String),
    /// They may not, for this reason, which may be empty.
    Deny(String),
}

impl Verdict {
    /// Whether they may.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::Deny(reason) => reason,
        }
    }
}

impl Attributes<'_> {
    /// The sentence a refused user reads. It tells what was asked, and nothing about what there is.
    #[must_use]
    pub fn refusal(&self, identity: &Identity, reason: &str) -> String {
        let mut text = format!("User \"{}\" cannot {} ", identity.user, self.verb);
        if self.resource.is_empty() {
            text += &format!("path \"{}\"", self.path);
        } else {
            let resource = match self.subresource {
                "" => self.resource.to_owned(),
                part => format!("{}/{part}", self.resource),
            };
            text += &format!("resource \"{resource}\" in API group \"{}\"", self.group);
            text += &match self.namespace {
                "" => " at the cluster scope".to_owned(),
                namespace => format!(" in the namespace \"{namespace}\""),
            };
        }
        if !reason.is_empty() {
            text += &format!(": {reason}");
        }
        text
    }
}
