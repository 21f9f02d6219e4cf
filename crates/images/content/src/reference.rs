//! Names of images, as people write them and as they are stored.
//!
//! `nginx` means `docker.io/library/nginx:latest`, because every Compose file and manifest relies on it. The
//! first part is a registry when it has a dot or a port or is `localhost`, as in every other engine.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use berth_unpack::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// A movable name for a manifest within its repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// A complete image name: registry, repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

/// Text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there, or too much.
    #[error("image name `{0}` is empty or longer than 255 characters")]
    Length(String),
    /// The host part.
    #[error("image name `{name}` has a bad registry `{registry}`")]
    Registry {
        /// The whole.
        name: String,
        /// The part.
        registry: String,
    },
    /// The path part.
    #[error(
        "image name `{name}` has a bad part `{part}`: use lower-case letters and digits, with single \
         `.`, `_` or `-` between them"
    )]
    Repository {
        /// The whole.
        name: String,
        /// The part.
        part: String,
    },
    /// The tag.
    #[error("image name `{name}` has a bad tag `{tag}`")]
    Tag {
        /// The whole.
        name: String,
        /// The part.
        tag: String,
    },
    /// The digest.
    #[error("image name `{name}` has a bad digest")]
    Digest {
        /// The whole.
        name: String,
        /// Why.
        source: berth_unpack::ParseDigestError,
    },
}

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let bytes = text.as_bytes();
        let good = bytes.len() <= TAG_LIMIT
            && bytes.first().is_some_and(|first| word(*first))
            && bytes.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-'));
        good.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Reference {
    /// Host and optional port, `docker.io` for the default.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry, `library/` included.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless the name has only a digest.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, if the name pins one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository at this digest, without a tag.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The short form people write: without `docker.io/library/` and without a default tag's digest.
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        let short = whole.strip_prefix("docker.io/").unwrap_or(&whole);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }

    /// Where the store keeps it. No repository part begins with `_`, so nothing collides.
    pub(crate) fn file(&self) -> PathBuf {
        let folder = PathBuf::from(&self.registry).join(&self.repository);
        match (&self.digest, &self.tag) {
            (Some(digest), _) => folder.join("_digests").join(digest.hex()),
            (None, Some(tag)) => folder.join("_tags").join(tag.as_str()),
            (None, None) => folder.join("_tags").join("latest"),
        }
    }

    /// The reverse of [`Reference::file`], from the parts of the path.
    pub(crate) fn from_file(parts: &[&str]) -> Option<Self> {
        let [registry, repository @ .., kind, last] = parts else { return None };
        let name = format!("{registry}/{}", repository.join("/"));
        match *kind {
            "_tags" => format!("{name}:{last}").parse().ok(),
            "_digests" => format!("{name}@sha256:{last}").parse().ok(),
            _ => None,
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        let whole = || name.to_owned();
        if name.is_empty() || name.len() > NAME_LIMIT + TAG_LIMIT + 72 {
            return Err(ReferenceError::Length(whole()));
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse();
                (
                    rest,
                    Some(
                        digest
                            .map_err(|source| ReferenceError::Digest { name: whole(), source })?,
                    ),
                )
            }
            None => (name, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => {
                let bad = || ReferenceError::Tag { name: whole(), tag: tag.to_owned() };
                (rest, Some(Tag::parse(tag).ok_or_else(bad)?))
            }
            _ => (rest, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !good_registry(registry) {
            return Err(ReferenceError::Registry { name: whole(), registry: registry.to_owned() });
        }
        if let Some(part) = path.split('/').find(|part| !good_part(part)) {
            return Err(ReferenceError::Repository { name: whole(), part: part.to_owned() });
        }
        let bare = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if bare { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + repository.len() + 1 > NAME_LIMIT {
            return Err(ReferenceError::Length(whole()));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| Tag("latest".to_owned())));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn good_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let good_host = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }),
    };
    good_host && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Lower-case words, separated by one `.`, one or two `_`, or any number of `-`.
fn good_part(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    ends && bytes.split(|byte| word(*byte)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn completes_short_names() {
        for (short, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:tag", "localhost:5000/x:tag"),
            ("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest"),
            ("index.docker.io/x", "docker.io/library/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("a__b/c---d:_x", "docker.io/a__b/c---d:_x"),
        ] {
            assert_eq!(short.parse::<Reference>().unwrap().to_string(), whole);
        }
        let pinned: Reference = format!("nginx@{DIGEST}").parse().unwrap();
        assert_eq!(pinned.to_string(), format!("docker.io/library/nginx@{DIGEST}"));
        assert_eq!(pinned.tag(), None);
        let both: Reference = format!("nginx:1@{DIGEST}").parse().unwrap();
        assert_eq!(both.familiar(), format!("nginx:1@{DIGEST}"));
    }

    #[test]
    fn refuses_what_names_nothing() {
        for bad in [
            "",
            ":tag",
            "Nginx",
            "a//b",
            "a/../b",
            "_a/b",
            "a_/b",
            "a..b",
            "x:",
            "x:-y",
            "x@sha256:00",
            "host.:5000/x",
            "localhost:99999/x",
            "-x.y/z",
            "a/_tags/b",
            "x:a b",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn its_file_names_it() {
        for name in ["nginx", "localhost:5000/a/b:t", &format!("x.y/z@{DIGEST}")] {
            let reference: Reference = name.parse().unwrap();
            let file = reference.file();
            let parts: Vec<_> = file.iter().map(|part| part.to_str().unwrap()).collect();
            assert_eq!(Reference::from_file(&parts), Some(reference));
        }
    }
}
