//! What a request to another server asks for, read from its path alone: the kinds are not known here.

use berth_access::Attributes;
use berth_objects::FieldSelector;
use http::Method;

use crate::path::Query;
use crate::service::verb_of;

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
        let words: Vec<&str> = parts.iter().map(String::as_str).collect();
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
        if let Some(verb) = verb_of(method, !name.is_empty(), watches) {
            verb.clone_into(&mut wanted.verb);
        }
        (*resource).clone_into(&mut wanted.resource);
        namespace.clone_into(&mut wanted.namespace);
        name.clone_into(&mut wanted.name);
        rest.get(1).copied().unwrap_or_default().clone_into(&mut wanted.subresource);
        if name.is_empty() && matches!(wanted.verb.as_str(), "list" | "watch" | "deletecollection")
        {
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
            (Method::OPTIONS, "/apis/g/v1/flunders/x", ["options", "", "flunders", "x", ""]),
            (Method::GET, "/apis/g/v1/namespaces/a", ["get", "", "namespaces", "a", ""]),
        ] {
            assert_eq!(wanted(&method, path), expected, "{path}");
        }
    }
}
