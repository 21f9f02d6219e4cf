//! The tree that all steps before typing work on. Scalars stay text until somebody knows their type, because
//! `no`, `22:22` and `0755` mean different things in different places.

use indexmap::IndexMap;

use crate::report::{Position, Report};
use crate::value;

/// A `!reset` or `!override` tag, which only merging looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    Reset,
    Override,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Where the value begins.
    pub(crate) position: Position,
    /// Where its key begins, for the values of a mapping.
    pub(crate) key: Option<Position>,
    pub(crate) directive: Option<Directive>,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Mapping),
}

pub(crate) type Mapping = IndexMap<String, Node>;

impl Node {
    pub(crate) fn new(position: Position, value: Value) -> Self {
        Self { position, key: None, directive: None, value }
    }

    pub(crate) fn text(position: &Position, text: impl Into<String>) -> Self {
        Self::new(position.clone(), Value::Text(text.into()))
    }

    pub(crate) fn mapping<'k>(
        position: &Position,
        entries: impl IntoIterator<Item = (&'k str, Self)>,
    ) -> Self {
        let entries = entries.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
        Self::new(position.clone(), Value::Mapping(entries))
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    pub(crate) fn as_mapping(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Mapping(mapping) => Some(mapping),
            Value::Null | Value::Text(_) | Value::Sequence(_) => None,
        }
    }

    pub(crate) fn as_mapping_mut(&mut self) -> Option<&mut Mapping> {
        match &mut self.value {
            Value::Mapping(mapping) => Some(mapping),
            Value::Null | Value::Text(_) | Value::Sequence(_) => None,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        self.as_mapping()?.get(name)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The key's position where there is one: that is what a reader looks for.
    pub(crate) fn place(&self) -> &Position {
        self.key.as_ref().unwrap_or(&self.position)
    }

    /// How many nodes the tree has.
    pub(crate) fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Text(_) => 0,
            Value::Sequence(items) => items.iter().map(Self::size).sum(),
            Value::Mapping(entries) => entries.values().map(Self::size).sum(),
        }
    }

    fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Text(_) => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// A node with its path, read as the type that somebody expects. Each reader reports what does not fit and returns
/// nothing then.
#[derive(Debug, Clone)]
pub(crate) struct View<'n> {
    pub(crate) node: &'n Node,
    pub(crate) path: String,
}

impl<'n> View<'n> {
    pub(crate) fn new(node: &'n Node, path: impl Into<String>) -> Self {
        Self { node, path: path.into() }
    }

    /// The attribute, unless it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<View<'n>> {
        let node = self.node.get(name).filter(|node| !node.is_null())?;
        Some(View::new(node, join(&self.path, name)))
    }

    pub(crate) fn problem(&self, report: &mut Report, message: impl Into<String>) {
        report.problem(&self.node.position, &self.path, message);
    }

    pub(crate) fn warn(&self, report: &mut Report, message: impl Into<String>) {
        report.warn(self.node.place(), &self.path, message);
    }

    pub(crate) fn note(&self, report: &mut Report, message: impl Into<String>) {
        report.note(self.node.place(), &self.path, message);
    }

    fn expected(&self, report: &mut Report, what: &str) {
        self.problem(report, format!("expected {what}, found {}", self.node.kind()));
    }

    /// The entries of a mapping without its `x-` keys.
    pub(crate) fn entries(&self, report: &mut Report) -> Vec<(&'n str, View<'n>)> {
        match &self.node.value {
            Value::Mapping(entries) => entries
                .iter()
                .filter(|(name, _)| !name.starts_with("x-"))
                .map(|(name, node)| (name.as_str(), View::new(node, join(&self.path, name))))
                .collect(),
            Value::Null => Vec::new(),
            Value::Text(_) | Value::Sequence(_) => {
                self.expected(report, "a mapping");
                Vec::new()
            }
        }
    }

    /// All entries, or none where it is no mapping.
    pub(crate) fn entries_if_mapping(&self) -> Vec<(&'n str, View<'n>)> {
        let entries = self.node.as_mapping().into_iter().flatten();
        entries
            .map(|(name, node)| (name.as_str(), View::new(node, join(&self.path, name))))
            .collect()
    }

    pub(crate) fn items(&self, report: &mut Report) -> Vec<View<'n>> {
        match &self.node.value {
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .map(|(index, node)| View::new(node, format!("{}[{index}]", self.path)))
                .collect(),
            Value::Null => Vec::new(),
            Value::Text(_) | Value::Mapping(_) => {
                self.expected(report, "a list");
                Vec::new()
            }
        }
    }

    pub(crate) fn text(&self, report: &mut Report) -> Option<String> {
        if let Value::Text(text) = &self.node.value {
            return Some(text.clone());
        }
        self.expected(report, "a single value");
        None
    }

    /// A list of single values; one alone counts as a list of one.
    pub(crate) fn texts(&self, report: &mut Report) -> Vec<String> {
        if let Value::Text(text) = &self.node.value {
            return vec![text.clone()];
        }
        self.items(report).iter().filter_map(|item| item.text(report)).collect()
    }

    /// A mapping to single values; null stays apart from the empty text.
    pub(crate) fn pairs(&self, report: &mut Report) -> IndexMap<String, Option<String>> {
        let Some(mapping) = self.node.as_mapping() else {
            self.entries(report);
            return IndexMap::new();
        };
        let mut pairs = IndexMap::new();
        for (name, node) in mapping {
            let view = View::new(node, join(&self.path, name));
            if node.is_null() {
                pairs.insert(name.clone(), None);
            } else if let Some(text) = view.text(report) {
                pairs.insert(name.clone(), Some(text));
            }
        }
        pairs
    }

    pub(crate) fn boolean(&self, report: &mut Report) -> Option<bool> {
        let text = self.text(report)?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Some(true),
            "false" | "no" | "off" | "n" => Some(false),
            _ => {
                self.problem(report, format!("`{text}` is neither `true` nor `false`"));
                None
            }
        }
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, report: &mut Report) -> Option<T> {
        let text = self.text(report)?;
        let number = text.trim().parse().ok();
        if number.is_none() {
            self.problem(report, format!("`{text}` is not a number that fits here"));
        }
        number
    }

    /// A duration such as `1m30s`.
    pub(crate) fn duration(&self, report: &mut Report) -> Option<std::time::Duration> {
        let text = self.text(report)?;
        match value::duration(&text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.problem(report, error.to_string());
                None
            }
        }
    }

    /// A size such as `64m`, in bytes.
    pub(crate) fn bytes(&self, report: &mut Report) -> Option<u64> {
        let text = self.text(report)?;
        match value::bytes(&text) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.problem(report, error.to_string());
                None
            }
        }
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
