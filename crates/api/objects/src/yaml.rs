//! YAML to JSON, for request bodies: one document, the core schema's scalars, anchors within limits.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use serde_json::{Map, Number, Value};

/// The most values a document may have once its aliases are followed.
const LARGEST: usize = 500_000;
const DEEPEST: usize = 200;

/// Why a text is no usable YAML.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The text is malformed.
    #[error("error converting YAML to JSON: {0}")]
    Malformed(#[from] ScanError),
    /// It is well-formed, but no object can be made of it.
    #[error("error converting YAML to JSON: {0}")]
    Unusable(&'static str),
}

/// Reads the first document.
///
/// # Errors
/// When the text is malformed, a key is no scalar or comes twice, or aliases multiply beyond reason.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    let (value, duplicates) = parse_noting(text)?;
    if duplicates.is_empty() { Ok(value) } else { Err(YamlError::Unusable("a key comes twice")) }
}

/// Reads the first document and the paths of the fields that it has twice, of which the last counts.
///
/// # Errors
/// When the text is malformed, a key is no scalar, or aliases multiply beyond reason.
pub fn parse_noting(text: &str) -> Result<(Value, Vec<String>), YamlError> {
    let mut parser = Parser::new_from_str(text);
    let mut reader =
        Reader { anchors: HashMap::new(), values: 0, path: String::new(), duplicates: Vec::new() };
    loop {
        match next(&mut parser)? {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd | Event::DocumentEnd => return Ok((Value::Null, Vec::new())),
            event => {
                let value = reader.value(event, &mut parser, 0)?;
                return Ok((value, reader.duplicates));
            }
        }
    }
}

type Input<'text> = Parser<'text, saphyr_parser::StrInput<'text>>;

fn next<'text>(parser: &mut Input<'text>) -> Result<Event<'text>, YamlError> {
    match parser.next_event() {
        Some(event) => Ok(event?.0),
        None => Err(YamlError::Unusable("it ends early")),
    }
}

struct Reader {
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
    path: String,
    duplicates: Vec<String>,
}

impl Reader {
    fn value<'text>(
        &mut self,
        event: Event<'text>,
        parser: &mut Input<'text>,
        depth: usize,
    ) -> Result<Value, YamlError> {
        let before = self.values;
        self.count(1)?;
        if depth > DEEPEST {
            return Err(YamlError::Unusable("it nests too deeply"));
        }
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (value, size) = known.ok_or(YamlError::Unusable("an alias has no anchor"))?;
                self.count(size)?;
                return Ok(value);
            }
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style), anchor),
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match next(parser)? {
                        Event::SequenceEnd => break,
                        event => {
                            let length = self.enter(&format!("[{}]", items.len()));
                            items.push(self.value(event, parser, depth + 1)?);
                            self.path.truncate(length);
                        }
                    }
                }
                (Value::Array(items), anchor)
            }
            Event::MappingStart(anchor, _) => (self.mapping(parser, depth)?, anchor),
            _ => return Err(YamlError::Unusable("it ends early")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.values - before));
        }
        Ok(value)
    }

    fn mapping(&mut self, parser: &mut Input<'_>, depth: usize) -> Result<Value, YamlError> {
        let mut entries = Map::new();
        loop {
            let name = match next(parser)? {
                Event::MappingEnd => return Ok(Value::Object(entries)),
                event => self.value(event, parser, depth + 1)?,
            };
            let name = match name {
                Value::String(name) => name,
                Value::Number(_) | Value::Bool(_) => name.to_string(),
                _ => return Err(YamlError::Unusable("a key is no scalar")),
            };
            let event = next(parser)?;
            let length = self.enter(&name);
            let value = self.value(event, parser, depth + 1)?;
            if name != "<<" && entries.contains_key(&name) {
                self.duplicates.push(self.path.clone());
            }
            self.path.truncate(length);
            if name == "<<" {
                let Value::Object(merged) = value else {
                    return Err(YamlError::Unusable("only mappings can be merged"));
                };
                for (name, value) in merged {
                    entries.entry(name).or_insert(value);
                }
            } else {
                entries.insert(name, value);
            }
        }
    }

    /// Goes one step down and says where to come back to.
    fn enter(&mut self, part: &str) -> usize {
        let length = self.path.len();
        if length > 0 && !part.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(part);
        length
    }

    fn count(&mut self, more: usize) -> Result<(), YamlError> {
        self.values += more;
        if self.values > LARGEST {
            return Err(YamlError::Unusable("it is too large"));
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    let based = |prefix, base| i64::from_str_radix(digits.strip_prefix(prefix)?, base).ok();
    if let Some(number) = based("0x", 16).or_else(|| based("0o", 8)) {
        return if negative { -number } else { number }.into();
    }
    // A leading zero means octal to the YAML 1.1 readers our users come from; file modes are written so.
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        return match i64::from_str_radix(digits, 8) {
            Ok(number) => if negative { -number } else { number }.into(),
            Err(_) => Value::String(text.to_owned()),
        };
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Value::String(text.to_owned());
    }
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    if let Ok(number) = text.parse::<u64>() {
        return number.into();
    }
    match text.parse::<f64>().ok().and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_manifests() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: &l {x: \"1\"}}\n\
                    data:\n  n: 0644\n  t: yes\n  q: 'true'\n  f: 1.5\n  e:\n  m: |\n    a\n    b\n\
                    copy: *l\nlist:\n- 1\n- -2\n- 1Gi\n";
        assert_eq!(
            parse(text).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "a", "labels": {"x": "1"}},
                "data": {"n": 420, "t": "yes", "q": "true", "f": 1.5, "e": null, "m": "a\nb\n"},
                "copy": {"x": "1"}, "list": [1, -2, "1Gi"]})
        );
    }

    #[test]
    fn refuses_what_is_dangerous() {
        parse("a: 1\na: 2").unwrap_err();
        parse("a: [").unwrap_err();
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let last = level - 1;
            let line = vec![format!("*a{last}"); 10].join(",");
            bomb += &format!("a{level}: &a{level} [{line}]\n");
        }
        assert!(matches!(parse(&bomb), Err(YamlError::Unusable("it is too large"))));
        parse(&"[".repeat(5000)).unwrap_err();
    }
}
