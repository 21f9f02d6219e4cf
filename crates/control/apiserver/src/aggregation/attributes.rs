//! What a request to another server asks for, read from its path alone: the kinds are not known here.

use berth_access::Attributes;
use berth_objects::{FieldSelector, Status};
use http::Method;

use crate::path::Query;
use crate::service::verb_of;

/// A path made of parts as others will read it, whoever they are: nothing in it can be taken for something else.
///
/// # Errors
/// When a part is empty, leads elsewhere, or holds what separates parts.
pub(crate) fn plain_path(
    parts: &[String],
    raw: Option<&str>,
    query: &Query,
) -> Result<String, Status> {
    let last = parts.len().saturating_sub(1);
    let mut path = String::new();
    for (at, part) in parts.iter().enumerate() {
        let strange = |c: char| c.is_control() || matches!(c, '/' | '\\' | '%');
        let empty = part.is_empty() && at != last;
        if empty || part == "." || part == ".." || part.contains(strange) {
            let message =
                format!("the path has the part \"{}\", which no name can be", part.escape_debug());
            return Err(Status::bad_request(message));
        }
        path.push('/');
        for byte in part.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    // Some servers leave out a pair that they cannot read, and then answer another question.
    if raw.is_some_and(|raw| !is_plain(raw)) {
        let message = "the query has a `;` or a percent sign without two hexadecimal digits of a text behind it";
        return Err(Status::bad_request(message));
    }
    for name in ["watch", "fieldSelector"] {
        if query.all(name).len() > 1 {
            return Err(Status::bad_request(format!("the parameter {name} may be said only once")));
        }
    }
    Ok(path)
}

fn is_plain(raw: &str) -> bool {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b';' => return false,
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'-'), bytes.next().unwrap_or(b'-')];
                let value = std::str::from_utf8(&digits).ok().filter(|it| !it.starts_with('+'));
                let Some(byte) = value.and_then(|it| u8::from_str_radix(it, 16).ok()) else {
                    return false;
                };
                decoded.push(byte);
            }
            byte => decoded.push(byte),
        }
    }
    std::str::from_utf8(&decoded).is_ok()
}

/// What is asked for. The group is the first, the version the second of what is behind `/apis`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Wanted {
    /// From the parts of a path: `apis`, a group, a version and what is behind them, or something that is no resource.
    pub fn parse(parts: &[String], method: &Method, query: &Query) -> Self {
        let words: Vec<&str> =
            parts.iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
        let ["apis", group, version, rest @ ..] = words.as_slice() else {
            return Self { verb: method.as_str().to_lowercase(), ..Self::default() };
        };
        let mut wanted = Self {
            verb: method.as_str().to_lowercase(),
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            ..Self::default()
        };
        let (old, rest) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && !matches!(rest[0], "status" | "finalize") =>
            {
                (*namespace, rest)
            }
            rest => ("", rest),
        };
        let [resource, rest @ ..] = rest else { return wanted };
        let name = rest.first().copied().unwrap_or_default();
        let watches = old || query.flag("watch");
        // What is no verb is judged by its method, which roles do not grant.
        let verb = match (method.as_str(), name) {
            ("PUT", _) => Some("update"),
            ("PATCH", _) => Some("patch"),
            // Only a set is watched.
            (_, name) => verb_of(method, !name.is_empty(), watches && name.is_empty()),
        };
        if let Some(verb) = verb {
            verb.clone_into(&mut wanted.verb);
        }
        (*resource).clone_into(&mut wanted.resource);
        namespace.clone_into(&mut wanted.namespace);
        name.clone_into(&mut wanted.name);
        rest.get(1).copied().unwrap_or_default().clone_into(&mut wanted.subresource);
        if name.is_empty() && matches!(wanted.verb.as_str(), "list" | "watch") {
            let selector = FieldSelector::parse(query.text("fieldSelector")).ok();
            let named = selector.and_then(|it| it.exact("metadata.name").map(str::to_owned));
            wanted.name = named.unwrap_or_default();
        }
        wanted
    }

    /// Whether the answer may go on without end.
    pub fn lasts(&self) -> bool {
        const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
        self.verb == "watch" || STREAMS.contains(&self.subresource.as_str())
    }

    /// The same for those who judge it.
    pub fn attributes<'a>(&'a self, path: &'a str) -> Attributes<'a> {
        if self.resource.is_empty() {
            return Attributes { verb: &self.verb, path, ..Attributes::default() };
        }
        Attributes {
            verb: &self.verb,
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(method: &Method, path: &str) -> [String; 5] {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<String> = path.split('/').skip(1).map(str::to_owned).collect();
        let it = Wanted::parse(&parts, method, &Query::parse(Some(query)));
        [it.verb, it.namespace, it.resource, it.name, it.subresource]
    }

    #[test]
    fn a_path_is_forwarded_only_if_everybody_reads_it_alike() {
        let plain = |path: &str| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let parts: Vec<String> =
                path.split('/').skip(1).map(|it| crate::path::decode(it, false)).collect();
            plain_path(&parts, Some(query), &Query::parse(Some(query)))
        };
        assert_eq!(plain("/apis/g/v1/a:b@c/%41 %C3%A9/").unwrap(), "/apis/g/v1/a:b@c/A%20%C3%A9/");
        for bad in [
            "/apis/g/v1/flunders/x%2Fstatus",
            "/apis/g/v1/../v2/x",
            "/apis/g/v1/namespaces//flunders",
            "/apis/g/v1/flunders/..%2F..%2Fb",
            "/apis/g/v1/x%252Fy",
            "/apis/g/v1/./x",
            "/apis/g/v1/x%00",
            "/apis/g/v1/x?fieldSelector=&fieldSelector=metadata.name%3Dmine",
            "/apis/g/v1/x?watch=1&watch=0",
            "/apis/g/v1/x?watch=%zz",
            "/apis/g/v1/x?watch=1;",
            "/apis/g/v1/x?a=%",
            "/apis/g/v1/x?a=%ff",
        ] {
            assert!(plain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_say_what_is_asked_for() {
        for (method, path, expected) in [
            (Method::GET, "/apis/g/v1", ["get", "", "", "", ""]),
            (Method::GET, "/apis/g/v1/flunders", ["list", "", "flunders", "", ""]),
            (
                Method::GET,
                "/apis/g/v1/namespaces/a/flunders/b/status",
                ["get", "a", "flunders", "b", "status"],
            ),
            (
                Method::GET,
                "/apis/g/v1/watch/namespaces/a/flunders",
                ["watch", "a", "flunders", "", ""],
            ),
            (
                Method::GET,
                "/apis/g/v1/flunders?watch=1&fieldSelector=metadata.name%3Dx",
                ["watch", "", "flunders", "x", ""],
            ),
            (
                Method::DELETE,
                "/apis/g/v1/namespaces/a/flunders",
                ["deletecollection", "a", "flunders", "", ""],
            ),
            (Method::POST, "/apis/g/v1/namespaces/a/flunders", ["create", "a", "flunders", "", ""]),
            (Method::PUT, "/apis/g/v1/namespaces/a/expand", ["update", "a", "expand", "", ""]),
            (Method::GET, "/apis/g/v1/flunders/x?watch=1", ["get", "", "flunders", "x", ""]),
            (Method::OPTIONS, "/apis/g/v1/flunders/x", ["options", "", "flunders", "x", ""]),
            (Method::GET, "/apis/g/v1/namespaces/a", ["get", "", "namespaces", "a", ""]),
        ] {
            assert_eq!(wanted(&method, path), expected, "{path}");
        }
    }
}
