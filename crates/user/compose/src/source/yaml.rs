//! YAML to nodes, with a position each, anchors and `<<` resolved, and limits on size, depth and expansion.
//!
//! Docker accepts a bracket that closes a flow collection left of the block's indentation, the parser does not. Such
//! a line is pushed to the right and parsed again; inside brackets indentation has no meaning, so nothing else changes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use indexmap::map::Entry;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::node::{Directive, Mapping, Node, Value};
use crate::report::{Position, Report};

/// The largest file that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 4 << 20;
const MAX_DEPTH: usize = 64;
/// Nodes of one file after aliases are expanded.
const MAX_NODES: usize = 400_000;
const MAX_PUSHED_LINES: usize = 256;
const PUSH: usize = 64;

/// The documents of a file. Empty, with problems reported, when it cannot be read as YAML.
pub(crate) fn parse(text: &str, file: &Arc<Path>, report: &mut Report) -> Vec<Node> {
    let start = Position { file: Arc::clone(file), line: 1, column: 1 };
    if text.len() > MAX_BYTES {
        report.problem(&start, "", format!("the file is larger than {MAX_BYTES} bytes"));
        return Vec::new();
    }
    let mut text = text.trim_start_matches('\u{feff}').to_owned();
    let mut pushed = HashMap::new();
    loop {
        let mut attempt = Report::default();
        let mut builder = Builder::new(file, &pushed, &mut attempt);
        match builder.run(&text) {
            Ok(()) => {
                let documents = builder.documents;
                let Err(problems) = attempt.finish() else { return documents };
                for problem in problems {
                    report.problem(&problem.position, &problem.path, problem.message);
                }
                return Vec::new();
            }
            Err(error) => {
                let line = error.marker().line();
                let repairable = error.info().starts_with("invalid indentation")
                    && !error.info().contains("anchor")
                    && !error.info().contains("quoted")
                    && pushed.len() < MAX_PUSHED_LINES
                    && !pushed.contains_key(&line);
                if repairable && let Some(offset) = line_offset(&text, line) {
                    pushed.insert(line, PUSH);
                    text.insert_str(offset, &" ".repeat(PUSH));
                    continue;
                }
                let column = error.marker().col().saturating_sub(shift(&pushed, line)) + 1;
                let position = Position { file: Arc::clone(file), line, column };
                report.problem(&position, "", explain(&text, line, error.info()));
                return Vec::new();
            }
        }
    }
}

fn shift(pushed: &HashMap<usize, usize>, line: usize) -> usize {
    pushed.get(&line).copied().unwrap_or(0)
}

fn line_offset(text: &str, line: usize) -> Option<usize> {
    if line <= 1 {
        return Some(0);
    }
    text.match_indices('\n').nth(line - 2).map(|(offset, _)| offset + 1)
}

/// The parser's words, with what to do for the mistakes that people make most.
fn explain(text: &str, line: usize, info: &str) -> String {
    let content = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let indented_by_tab =
        content.chars().take_while(|c| c.is_whitespace()).any(|character| character == '\t');
    if indented_by_tab {
        return "the line is indented with a tab; YAML wants spaces".to_owned();
    }
    if info.contains("mapping values are not allowed") {
        return format!("{info}; quote the value if it contains `: `");
    }
    format!("not valid YAML: {info}")
}

struct Builder<'r> {
    file: Arc<Path>,
    pushed: HashMap<usize, usize>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    documents: Vec<Node>,
    nodes: usize,
    report: &'r mut Report,
}

struct Frame {
    position: Position,
    anchor: usize,
    directive: Option<Directive>,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Mapping, key: Option<(Option<String>, Position)>, merges: Vec<Node> },
}

impl<'r> Builder<'r> {
    fn new(file: &Arc<Path>, pushed: &HashMap<usize, usize>, report: &'r mut Report) -> Self {
        Self {
            file: Arc::clone(file),
            pushed: pushed.clone(),
            stack: Vec::new(),
            anchors: HashMap::new(),
            documents: Vec::new(),
            nodes: 0,
            report,
        }
    }

    fn run(&mut self, text: &str) -> Result<(), ScanError> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event?;
            if !self.take(event, span) {
                break;
            }
        }
        Ok(())
    }

    fn position(&self, span: Span) -> Position {
        let line = span.start.line();
        let column = span.start.col().saturating_sub(shift(&self.pushed, line)) + 1;
        Position { file: Arc::clone(&self.file), line, column }
    }

    /// False when a limit is reached and reading on makes no sense.
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        let position = self.position(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let directive = self.directive(tag.as_deref(), &position);
                let plain = style == ScalarStyle::Plain && !is_text_tag(tag.as_deref());
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Text(text.into_owned()) };
                let mut node = Node::new(position, value);
                node.directive = directive;
                self.complete(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(position, anchor, tag.as_deref(), Content::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content =
                    Content::Mapping { entries: Mapping::new(), key: None, merges: Vec::new() };
                self.open(position, anchor, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, position),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                true
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => true,
        }
    }

    fn directive(&mut self, tag: Option<&Tag>, position: &Position) -> Option<Directive> {
        let tag = tag?;
        if tag.is_yaml_core_schema() || tag.suffix.is_empty() {
            return None;
        }
        match tag.suffix.as_str() {
            "reset" => Some(Directive::Reset),
            "override" => Some(Directive::Override),
            other => {
                let message = format!("the tag `!{other}` has no meaning here; remove it");
                self.report.problem(position, "", message);
                None
            }
        }
    }

    fn open(
        &mut self,
        position: Position,
        anchor: usize,
        tag: Option<&Tag>,
        content: Content,
    ) -> bool {
        if self.stack.len() >= MAX_DEPTH {
            self.report.problem(&position, "", format!("nested deeper than {MAX_DEPTH} levels"));
            return false;
        }
        let directive = self.directive(tag, &position);
        self.stack.push(Frame { position, anchor, directive, content });
        true
    }

    fn close(&mut self) -> bool {
        let Some(frame) = self.stack.pop() else { return true };
        let value = match frame.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { mut entries, merges, .. } => {
                for merge in merges {
                    self.merge(&mut entries, merge);
                }
                Value::Mapping(entries)
            }
        };
        let mut node = Node::new(frame.position, value);
        node.directive = frame.directive;
        self.complete(node, frame.anchor)
    }

    /// `<<`: what is written out wins, then the earlier of several.
    fn merge(&mut self, entries: &mut Mapping, merge: Node) {
        match merge.value {
            Value::Mapping(merged) => {
                for (name, node) in merged {
                    entries.entry(name).or_insert(node);
                }
            }
            Value::Sequence(items) if items.iter().all(|item| item.as_mapping().is_some()) => {
                for item in items {
                    self.merge(entries, item);
                }
            }
            Value::Null => {}
            Value::Text(_) | Value::Sequence(_) => self.report.problem(
                merge.place(),
                "<<",
                "only mappings can be merged; use an alias of a mapping, or a list of them",
            ),
        }
    }

    fn alias(&mut self, anchor: usize, position: Position) -> bool {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            self.report.problem(&position, "", "the alias refers to something that contains it");
            return false;
        };
        self.nodes += node.size();
        self.complete(node, 0)
    }

    fn complete(&mut self, mut node: Node, anchor: usize) -> bool {
        self.nodes += 1;
        if anchor > 0 {
            self.nodes += node.size();
            self.anchors.insert(anchor, node.clone());
        }
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values once its aliases are expanded");
            self.report.problem(&node.position, "", message);
            return false;
        }
        let Some(frame) = self.stack.last_mut() else {
            self.documents.push(node);
            return true;
        };
        match &mut frame.content {
            Content::Sequence(items) => {
                node.key = None;
                items.push(node);
            }
            Content::Mapping { entries, key, merges } => match key.take() {
                None => {
                    let name = node.as_text().map(str::to_owned);
                    if name.is_none() {
                        self.report.problem(&node.position, "", "a key must be a single value");
                    }
                    *key = Some((name, node.position));
                }
                Some((None, _)) => {}
                Some((Some(name), place)) => {
                    node.key = Some(place.clone());
                    if name == "<<" {
                        merges.push(node);
                        return true;
                    }
                    match entries.entry(name) {
                        Entry::Vacant(vacant) => {
                            vacant.insert(node);
                        }
                        Entry::Occupied(first) => {
                            let message = format!(
                                "the key is written twice, first on line {}; remove one",
                                first.get().place().line
                            );
                            self.report.problem(&place, first.key(), message);
                        }
                    }
                }
            },
        }
        true
    }
}

fn is_text_tag(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<Node>, String> {
        let mut report = Report::default();
        let file: Arc<Path> = Path::new("compose.yaml").into();
        let documents = parse(text, &file, &mut report);
        report.finish().map(|_| documents).map_err(|problems| {
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn scalars_stay_text_and_know_where_they_are() {
        let documents = read("a: no\nb:\n  - 22:22\n  - 0755\nc: ~\n").unwrap();
        let root = &documents[0];
        assert_eq!(root.get("a").unwrap().as_text(), Some("no"));
        assert!(root.get("c").unwrap().is_null());
        let Value::Sequence(items) = &root.get("b").unwrap().value else { panic!("a list") };
        assert_eq!(items[1].as_text(), Some("0755"));
        assert_eq!(items[1].position.to_string(), "compose.yaml:4:5");
        assert_eq!(root.get("b").unwrap().place().to_string(), "compose.yaml:2:1");
    }

    #[test]
    fn merges_a_list_of_aliases_and_the_first_wins() {
        let text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 3\n";
        let documents = read(text).unwrap();
        let z = documents[0].get("z").unwrap();
        let value = |name: &str| z.get(name).unwrap().as_text().unwrap().to_owned();
        assert_eq!((value("a"), value("b"), value("c")), ("3".into(), "1".into(), "2".into()));
    }

    #[test]
    fn a_bracket_may_close_left_of_its_key() {
        let text = "services:\n  a:\n    test: [\n      one,\n  ]\n    image: x\n";
        let documents = read(text).unwrap();
        let service = documents[0].get("services").unwrap().get("a").unwrap();
        assert_eq!(service.get("image").unwrap().as_text(), Some("x"));
        assert_eq!(service.get("image").unwrap().position.to_string(), "compose.yaml:6:12");
    }

    #[test]
    fn mistakes_come_with_their_place() {
        assert_eq!(
            read("a: 1\nb: 2\na: 3\n").unwrap_err(),
            "compose.yaml:3:1: `a`: the key is written twice, first on line 1; remove one"
        );
        let tab = read("services:\n\tweb:\n\t\timage: x\n").unwrap_err();
        assert!(tab.contains("indented with a tab"), "{tab}");
        assert!(tab.starts_with("compose.yaml:2:"), "{tab}");
        assert!(read("a: [1, 2\nb: 3").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-c&*<>|!:{}\\[\\],#'\"\\-? \n\t]{0,60}") {
            let _ = read(&text);
        }
    }

    #[test]
    fn aliases_cannot_grow_without_bound() {
        let mut text = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let aliases = vec![format!("*l{}", level - 1); 10].join(", ");
            text.push_str(&format!("l{level}: &l{level} [{aliases}]\n"));
        }
        assert!(read(&text).unwrap_err().contains("aliases are expanded"));
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(read(&deep).unwrap_err().contains("deeper"), "{deep}");
        assert!(read("a: &a [*a]").is_err());
    }
}
