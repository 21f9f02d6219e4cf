//! Who asks, and whether they may.

/// Who asks. Travels in the extensions of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The groups the user is in.
    pub groups: Vec<String>,
}

impl Identity {
    /// A user in groups.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        Self { user: user.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    /// Whether the user is in a group.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the HTTP method in lower case.
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
    /// The path as sent.
    pub path: &'a str,
}

/// May they?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They may.
    Allow,
    /// They may not, for this reason, which may be empty.
    Deny(String),
}

/// Decides who may do what. Asked once for each request; must not block.
pub trait Authorizer: Send + Sync + 'static {
    /// Judges one request.
    fn authorize(&self, identity: &Identity, attributes: &Attributes<'_>) -> Verdict;
}

/// Allows the cluster's own groups everything and anybody else nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct GroupAuthorizer;

impl Authorizer for GroupAuthorizer {
    fn authorize(&self, identity: &Identity, _attributes: &Attributes<'_>) -> Verdict {
        const TRUSTED: [&str; 3] = ["system:masters", "system:nodes", "system:controllers"];
        if TRUSTED.iter().any(|group| identity.is_in(group)) {
            Verdict::Allow
        } else {
            Verdict::Deny(String::new())
        }
    }
}

impl Attributes<'_> {
    /// The sentence a refused user reads.
    pub(crate) fn refusal(&self, identity: &Identity, reason: &str) -> String {
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
