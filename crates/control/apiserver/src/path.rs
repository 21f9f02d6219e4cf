//! Paths and queries of requests, parsed once.

use std::collections::HashMap;

use berth_objects::{Handle, Status, Subresource};

use crate::kinds::Kinds;

/// What a path names.
#[derive(Debug)]
pub(crate) enum Target {
    /// An object or a set of objects.
    Resource(ResourceTarget),
    /// Anything else: discovery, health, version.
    Other(Vec<String>),
}

#[derive(Debug)]
pub(crate) struct ResourceTarget {
    pub handle: Handle,
    /// Empty for the cluster, or for all namespaces.
    pub namespace: String,
    /// Empty for a set.
    pub name: String,
    pub subresource: Option<Subresource>,
    /// The deprecated `/watch/` form of the path.
    pub watch: bool,
}

/// Decodes `%41` and, in queries, `+`.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[index], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                index += 2;
            }
            (b'+', _) if plus => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The parameters of a query; the last of a name wins, all are kept for lists.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub fn parse(text: Option<&str>) -> Self {
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(decode(name, true)).or_default().push(decode(value, true));
        }
        Self(all)
    }

    /// The value, or the empty text.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(|values| values.last()).map_or("", String::as_str)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.0.contains_key(name)
            && !matches!(self.text(name).to_lowercase().as_str(), "false" | "0")
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("invalid value for parameter {name}: \"{text}\""))
            }),
        }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Finds what a path names.
pub(crate) fn parse(path: &str, kinds: &Kinds) -> Result<Target, Status> {
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match words.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(Target::Other(parts)),
    };
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let unknown =
        || Status::new(404, "NotFound", "the server could not find the requested resource");
    let find = |plural| kinds.find(group, version, plural);
    // A namespace is an object itself and also the folder of others.
    let (handle, namespace, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..]
            if !matches!(*plural, "status" | "finalize") =>
        {
            let resource = find(plural).filter(|handle| handle.get().namespaced());
            (resource.ok_or_else(unknown)?, *namespace, rest)
        }
        [plural, rest @ ..] => (find(plural).ok_or_else(unknown)?, "", rest),
        [] => return Err(unknown()),
    };
    let resource = handle.get();
    let (name, subresource) = match rest {
        [] => ("", None),
        [name] => (*name, None),
        [name, part] => {
            let found = resource.subresources.iter().find(|known| known.name() == *part);
            (*name, Some(*found.ok_or_else(unknown)?))
        }
        // What follows is the other server's.
        [name, "proxy", ..] if !watch => {
            let proxy = |known: &&Subresource| matches!(known, Subresource::Proxy(_));
            let found = resource.subresources.iter().find(proxy);
            (*name, Some(*found.ok_or_else(unknown)?))
        }
        _ => return Err(unknown()),
    };
    if !name.is_empty() && resource.namespaced() && namespace.is_empty() {
        return Err(unknown());
    }
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    Ok(Target::Resource(ResourceTarget { handle, namespace, name, subresource, watch }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str) -> Option<(String, String, String, Option<Subresource>)> {
        match parse(path, &Kinds::default()) {
            Ok(Target::Resource(t)) => {
                Some((t.handle.get().plural.to_owned(), t.namespace, t.name, t.subresource))
            }
            Ok(Target::Other(_)) | Err(_) => None,
        }
    }

    #[test]
    fn paths_name_resources() {
        let found = find("/apis/apps/v1/namespaces/a/deployments/b/scale").unwrap();
        assert_eq!(found, ("deployments".into(), "a".into(), "b".into(), Some(Subresource::Scale)));
        assert_eq!(find("/api/v1/namespaces/a/status").unwrap().0, "namespaces");
        assert_eq!(find("/api/v1/namespaces/a/pods").unwrap().0, "pods");
        assert_eq!(find("/api/v1/pods").unwrap().1, "");
        assert_eq!(find("/api/v1/namespaces/a/pods/b%2Dc").unwrap().2, "b-c");
        for none in [
            "/api/v1/pods/a",
            "/api/v1/things",
            "/api/v1",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/pods/b/nothing",
            "/apis/apps/v2/deployments",
        ] {
            assert_eq!(find(none), None, "{none}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc&limit=5&follow&x=1+2&x=3"));
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert_eq!(query.number("limit"), Ok(Some(5)));
        assert!(query.flag("follow") && !query.flag("watch"));
        assert_eq!(query.all("x"), ["1 2", "3"]);
    }
}
