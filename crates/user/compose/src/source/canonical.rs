//! Brings one document to the long forms and its paths to absolute ones, before anything is merged: a list and a
//! mapping cannot be merged, and a path means something else in a file of another folder.
//!
//! What has the wrong shape is left as it is; the typing step reports it.

use std::path::{Component, Path, PathBuf};

use super::interpolate::Variables;
use super::node::{Mapping, Node, Value, join};
use crate::report::Report;
use crate::value::{port, volume};

/// Where relative paths begin and `~` ends.
pub(crate) struct Base<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) variables: &'a Variables,
}

impl Base<'_> {
    /// The path made absolute, without `.` and `..`.
    pub(crate) fn absolute(&self, path: &str) -> PathBuf {
        let home = || self.variables.get("HOME").map_or("/root", String::as_str);
        let path = match path.strip_prefix('~') {
            Some("") => PathBuf::from(home()),
            Some(rest) if rest.starts_with('/') => PathBuf::from(format!("{}{rest}", home())),
            Some(_) | None => self.directory.join(path),
        };
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::CurDir => {}
                other => clean.push(other),
            }
        }
        clean
    }

    fn resolve(&self, entries: &mut Mapping, name: &str) {
        if let Some(node) = entries.get_mut(name)
            && let Value::Text(path) = &mut node.value
            && !path.is_empty()
        {
            *path = self.absolute(path).to_string_lossy().into_owned();
        }
    }
}

/// Attributes that may be a list of `name=value` or a mapping.
const PAIRS: [&str; 4] = ["environment", "labels", "annotations", "sysctls"];
/// Attributes that may be a list of names or a mapping from them.
const NAMES: [&str; 2] = ["depends_on", "networks"];
/// Attributes that may be one value or a list.
const LISTS: [&str; 5] = ["dns", "dns_search", "tmpfs", "dns_opt", "profiles"];

pub(crate) fn document(document: &mut Node, base: &Base<'_>, report: &mut Report) {
    let Some(root) = document.as_mapping_mut() else { return };
    for kind in ["secrets", "configs"] {
        for entry in root.get_mut(kind).and_then(Node::as_mapping_mut).into_iter().flatten() {
            if let Some(entries) = entry.1.as_mapping_mut() {
                base.resolve(entries, "file");
            }
        }
    }
    for kind in ["networks", "volumes"] {
        for entry in root.get_mut(kind).and_then(Node::as_mapping_mut).into_iter().flatten() {
            if let Some(labels) = entry.1.as_mapping_mut().and_then(|map| map.get_mut("labels")) {
                to_pairs(labels);
            }
        }
    }
    for (name, node) in
        root.get_mut("services").and_then(Node::as_mapping_mut).into_iter().flatten()
    {
        if let Some(entries) = node.as_mapping_mut() {
            service(entries, &join("services", name), base, report);
        }
    }
}

fn service(entries: &mut Mapping, path: &str, base: &Base<'_>, report: &mut Report) {
    for name in PAIRS {
        if let Some(node) = entries.get_mut(name) {
            to_pairs(node);
        }
    }
    for name in NAMES {
        if let Some(node) = entries.get_mut(name) {
            to_names(node, name);
        }
    }
    for name in LISTS {
        if let Some(node) = entries.get_mut(name) {
            to_list(node);
        }
    }
    if let Some(node) = entries.get_mut("extra_hosts") {
        hosts_to_list(node);
    }
    if let Some(node) = entries.get_mut("build") {
        build(node, base);
    }
    if let Some(deploy) = entries.get_mut("deploy").and_then(Node::as_mapping_mut)
        && let Some(labels) = deploy.get_mut("labels")
    {
        to_pairs(labels);
    }
    if let Some(node) = entries.get_mut("env_file") {
        to_list(node);
        each_item(node, |item| {
            text_to_entry(item, "path");
            if let Some(entries) = item.as_mapping_mut() {
                base.resolve(entries, "path");
            }
        });
    }
    for name in ["secrets", "configs"] {
        if let Some(node) = entries.get_mut(name) {
            each_item(node, |item| text_to_entry(item, "source"));
        }
    }
    if let Some(node) = entries.get_mut("extends") {
        text_to_entry(node, "service");
        if let Some(entries) = node.as_mapping_mut() {
            base.resolve(entries, "file");
        }
    }
    if let Some(node) = entries.get_mut("ports") {
        ports(node, &join(path, "ports"), report);
    }
    if let Some(node) = entries.get_mut("volumes") {
        volumes(node, &join(path, "volumes"), base, report);
    }
}

fn each_item(node: &mut Node, mut change: impl FnMut(&mut Node)) {
    if let Value::Sequence(items) = &mut node.value {
        items.iter_mut().for_each(&mut change);
    }
}

fn text_to_entry(node: &mut Node, name: &str) {
    if node.as_text().is_some() {
        let inner = Node { key: None, directive: None, ..node.clone() };
        node.value = Node::mapping(&node.position, [(name, inner)]).value;
    }
}

fn to_list(node: &mut Node) {
    if node.as_text().is_some() {
        let inner = Node { key: None, directive: None, ..node.clone() };
        node.value = Value::Sequence(vec![inner]);
    }
}

/// `[NAME=value, OTHER]` to a mapping, where a name alone is null: its value comes from outside.
fn to_pairs(node: &mut Node) {
    let Value::Sequence(items) = &node.value else { return };
    if items.iter().any(|item| item.as_mapping().is_some()) {
        return;
    }
    let mut pairs = Mapping::new();
    for item in items {
        let Some(text) = item.as_text() else { continue };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Value::Text(value.to_owned())),
            None => (text, Value::Null),
        };
        let mut value = Node::new(item.position.clone(), value);
        value.key = Some(item.position.clone());
        pairs.insert(name.trim().to_owned(), value);
    }
    node.value = Value::Mapping(pairs);
}

fn to_names(node: &mut Node, attribute: &str) {
    let Value::Sequence(items) = &node.value else { return };
    if items.iter().any(|item| item.as_text().is_none()) {
        return;
    }
    let mut names = Mapping::new();
    for item in items {
        let mut value = if attribute == "depends_on" {
            let condition = Node::text(&item.position, "service_started");
            Node::mapping(&item.position, [("condition", condition)])
        } else {
            Node::new(item.position.clone(), Value::Null)
        };
        value.key = Some(item.position.clone());
        names.insert(item.as_text().unwrap_or_default().to_owned(), value);
    }
    node.value = Value::Mapping(names);
}

fn hosts_to_list(node: &mut Node) {
    let Value::Mapping(hosts) = &node.value else { return };
    let mut items = Vec::new();
    for (host, addresses) in hosts {
        let list = match &addresses.value {
            Value::Sequence(list) => list.as_slice(),
            Value::Null | Value::Text(_) | Value::Mapping(_) => std::slice::from_ref(addresses),
        };
        for address in list {
            let text = address.as_text().unwrap_or_default();
            items.push(Node::text(&address.position, format!("{host}={text}")));
        }
    }
    node.value = Value::Sequence(items);
}

fn build(node: &mut Node, base: &Base<'_>) {
    text_to_entry(node, "context");
    let position = node.position.clone();
    let Some(entries) = node.as_mapping_mut() else { return };
    entries.entry("context".to_owned()).or_insert_with(|| Node::text(&position, "."));
    let remote = entries
        .get("context")
        .and_then(Node::as_text)
        .is_some_and(|context| context.contains("://") || context.starts_with("git@"));
    if !remote {
        base.resolve(entries, "context");
    }
    for name in ["args", "labels"] {
        if let Some(node) = entries.get_mut(name) {
            to_pairs(node);
        }
    }
}

fn ports(node: &mut Node, path: &str, report: &mut Report) {
    let Value::Sequence(items) = &mut node.value else { return };
    let mut long = Vec::new();
    for (index, item) in std::mem::take(items).into_iter().enumerate() {
        let Some(text) = item.as_text() else {
            long.push(item);
            continue;
        };
        match port::parse(text) {
            Ok(ports) => long.extend(ports.iter().map(|port| long_port(&item, port))),
            Err(error) => {
                report.problem(&item.position, &format!("{path}[{index}]"), error.to_string());
            }
        }
    }
    *items = long;
}

fn long_port(item: &Node, port: &port::ShortPort) -> Node {
    let text = |text: &str| Node::text(&item.position, text);
    let mut entries =
        vec![("target", text(&port.target.to_string())), ("protocol", text(&port.protocol))];
    if let Some(published) = port.published {
        entries.push(("published", text(&published.to_string())));
    }
    if let Some(address) = &port.address {
        entries.push(("host_ip", text(address)));
    }
    Node { directive: item.directive, ..Node::mapping(&item.position, entries) }
}

fn volumes(node: &mut Node, path: &str, base: &Base<'_>, report: &mut Report) {
    let Value::Sequence(items) = &mut node.value else { return };
    let mut long = Vec::new();
    for (index, mut item) in std::mem::take(items).into_iter().enumerate() {
        if let Some(text) = item.as_text() {
            match volume::parse(text) {
                Ok(short) => long.push(long_volume(&item, &short, base)),
                Err(error) => {
                    report.problem(&item.position, &format!("{path}[{index}]"), error.to_string());
                }
            }
            continue;
        }
        if let Some(entries) = item.as_mapping_mut()
            && entries.get("type").and_then(Node::as_text) == Some("bind")
        {
            base.resolve(entries, "source");
        }
        long.push(item);
    }
    *items = long;
}

fn long_volume(item: &Node, short: &volume::ShortVolume, base: &Base<'_>) -> Node {
    let text = |text: &str| Node::text(&item.position, text);
    let bind = short.is_bind();
    let kind = if bind { "bind" } else { "volume" };
    let mut entries = vec![("type", text(kind)), ("target", text(&short.target))];
    if let Some(source) = &short.source {
        let source = if bind {
            base.absolute(source).to_string_lossy().into_owned()
        } else {
            source.clone()
        };
        entries.push(("source", text(&source)));
    }
    let mut bind_options = Vec::new();
    for option in &short.options {
        match option.as_str() {
            "ro" => entries.push(("read_only", text("true"))),
            "z" | "Z" => bind_options.push(("selinux", text(option))),
            "nocopy" => {
                let nocopy = Node::mapping(&item.position, [("nocopy", text("true"))]);
                entries.push(("volume", nocopy));
            }
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                bind_options.push(("propagation", text(option)));
            }
            // `rw`, and hints for other systems that Docker on Linux ignores as well.
            _ => {}
        }
    }
    if bind && !bind_options.is_empty() {
        entries.push(("bind", Node::mapping(&item.position, bind_options)));
    }
    Node { directive: item.directive, ..Node::mapping(&item.position, entries) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let variables: Variables = [("HOME".to_owned(), "/home/ada".to_owned())].into();
        let base = Base { directory: Path::new("/srv/app"), variables: &variables };
        assert_eq!(base.absolute("./x/../y"), Path::new("/srv/app/y"));
        assert_eq!(base.absolute("~/data"), Path::new("/home/ada/data"));
        assert_eq!(base.absolute("/etc/x"), Path::new("/etc/x"));
        assert_eq!(base.absolute("../x"), Path::new("/srv/x"));
    }
}
