//! Merging of two trees in long form, the later over the earlier.
//!
//! Mappings merge key by key and lists are joined, except where joining makes no sense: commands are replaced, and
//! ports, volumes, secrets and configs are one per place in the container.

use super::node::{Directive, Mapping, Node, Value};

/// `over` on top of `base`. `path` says where both stand, from the root of the document.
pub(crate) fn merge(base: Node, over: Node, path: &[&str]) -> Node {
    if over.directive.is_some() {
        return over;
    }
    if over.is_null() && !keeps_null(path) {
        return base;
    }
    let key = base.key.clone();
    let merged = match (base.value, over.value) {
        (Value::Mapping(base), Value::Mapping(over_entries)) => {
            let value = Value::Mapping(mappings(base, over_entries, path));
            Node { value, ..Node::new(over.position, Value::Null) }
        }
        (Value::Sequence(base), Value::Sequence(items)) if !is_replaced(path) => {
            Node::new(over.position, Value::Sequence(sequences(base, items, path)))
        }
        (_, value) => Node::new(over.position, value),
    };
    Node { key: over.key.or(key), directive: base.directive, ..merged }
}

fn mappings(mut base: Mapping, over: Mapping, path: &[&str]) -> Mapping {
    for (name, node) in over {
        match base.get_mut(&name) {
            Some(slot) => {
                let below: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
                let old = std::mem::replace(slot, Node::new(node.position.clone(), Value::Null));
                *slot = merge(old, node, &below);
            }
            None => {
                base.insert(name, node);
            }
        }
    }
    base
}

fn sequences(mut base: Vec<Node>, over: Vec<Node>, path: &[&str]) -> Vec<Node> {
    let attribute = path.last().copied().unwrap_or_default();
    for item in over {
        let wanted = identity(attribute, &item);
        match base.iter_mut().find(|old| identity(attribute, old) == wanted) {
            Some(old) => *old = item,
            None => base.push(item),
        }
    }
    base
}

/// What makes an item of a list the same as another one.
fn identity(attribute: &str, item: &Node) -> String {
    let text = |name: &str| item.get(name).and_then(Node::as_text).unwrap_or_default().to_owned();
    match attribute {
        "ports" if item.as_mapping().is_some() => {
            let protocol = item.get("protocol").and_then(Node::as_text).unwrap_or("tcp");
            format!("{}|{}|{}|{protocol}", text("host_ip"), text("published"), text("target"))
        }
        "volumes" if item.as_mapping().is_some() => text("target"),
        "secrets" | "configs" if item.as_mapping().is_some() => {
            let target = text("target");
            if target.is_empty() { text("source") } else { target }
        }
        "env_file" if item.as_mapping().is_some() => text("path"),
        _ => format!("{:?}", plain(item)),
    }
}

/// The content without positions.
fn plain(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Null => vec!["~".to_owned()],
        Value::Text(text) => vec![format!("={text}")],
        Value::Sequence(items) => items.iter().flat_map(plain).chain(["]".to_owned()]).collect(),
        Value::Mapping(entries) => entries
            .iter()
            .flat_map(|(name, node)| [format!("{name}:")].into_iter().chain(plain(node)))
            .chain(["}".to_owned()])
            .collect(),
    }
}

/// A variable without a value is taken from outside, which a later file may well mean.
fn keeps_null(path: &[&str]) -> bool {
    matches!(path, ["services", _, "environment", _] | ["services", _, "build", "args", _])
}

fn is_replaced(path: &[&str]) -> bool {
    matches!(
        path,
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"]
    )
}

/// Removes what `!reset` marks, and the marks of `!override`.
pub(crate) fn settle(node: &mut Node) {
    node.directive = None;
    match &mut node.value {
        Value::Null | Value::Text(_) => {}
        Value::Sequence(items) => {
            items.retain(|item| item.directive != Some(Directive::Reset));
            items.iter_mut().for_each(settle);
        }
        Value::Mapping(entries) => {
            entries.retain(|_, entry| entry.directive != Some(Directive::Reset));
            entries.values_mut().for_each(settle);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::{canonical, interpolate::Variables, yaml};
    use super::*;
    use crate::report::Report;

    fn read(text: &str) -> Node {
        let mut report = Report::default();
        let file: Arc<Path> = Path::new("compose.yaml").into();
        let mut node = yaml::parse(text, &file, &mut report).remove(0);
        let variables = Variables::new();
        let base = canonical::Base { directory: Path::new("/app"), variables: &variables };
        canonical::document(&mut node, &base, &mut report);
        report.finish().unwrap();
        node
    }

    fn merged(base: &str, over: &str) -> String {
        let wrap = |service: &str| read(&format!("services: {{web: {service}}}"));
        let mut node = merge(wrap(base), wrap(over), &[]);
        settle(&mut node);
        let web = node.get("services").unwrap().get("web").unwrap().clone();
        plain(&web).join(" ")
    }

    #[test]
    fn lists_join_and_commands_are_replaced() {
        assert_eq!(
            merged("{command: [a, b], cap_add: [A]}", "{command: [c], cap_add: [A, B]}"),
            "command: =c ] cap_add: =A =B ] }"
        );
    }

    #[test]
    fn lists_and_mappings_of_variables_merge_by_name() {
        assert_eq!(
            merged("{environment: [A=1, B=2]}", "{environment: {B: 3, C: }}"),
            "environment: A: =1 B: =3 C: ~ } }"
        );
    }

    #[test]
    fn a_volume_replaces_the_one_at_its_path() {
        assert_eq!(
            merged("{volumes: ['a:/x', 'b:/y']}", "{volumes: ['c:/x']}"),
            "volumes: type: =volume target: =/x source: =c } type: =volume target: =/y source: =b } ] }"
        );
    }

    #[test]
    fn reset_removes_and_override_replaces() {
        assert_eq!(
            merged(
                "{ports: ['80:80'], dns: [a], image: x}",
                "{ports: !reset [], dns: !override [b]}"
            ),
            "dns: =b ] image: =x }"
        );
    }
}
