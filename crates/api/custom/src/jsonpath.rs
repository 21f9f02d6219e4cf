//! The paths of printer columns: fields, indexes, wildcards and simple filters.

use serde_json::Value;

/// A path, read once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Descend(String),
    Filter { path: Path, equal: bool, value: Value },
    Exists(Path),
}

impl Path {
    /// Reads `.spec.containers[?(@.name=="a")].image`. Nothing if it is no path.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                let (name, after) = name(after)?;
                steps.push(Step::Descend(name));
                rest = after;
            } else if let Some(after) = rest.strip_prefix('.') {
                if after.is_empty() && steps.is_empty() {
                    break;
                }
                if let Some(after) = after.strip_prefix('*') {
                    steps.push(Step::All);
                    rest = after;
                    continue;
                }
                let (name, after) = name(after)?;
                steps.push(Step::Field(name));
                rest = after;
            } else {
                let inner = rest.strip_prefix('[')?;
                let end = closing(inner)?;
                steps.push(bracket(inner[..end].trim())?);
                rest = &inner[end + 1..];
            }
        }
        Some(Self(steps))
    }

    /// The names, if the path has nothing but names.
    pub fn plain(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// All values the path leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.take(value)).collect();
        }
        found
    }
}

impl Step {
    fn take<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let items = || value.as_array().into_iter().flatten();
        match self {
            Self::Field(name) => match value {
                // A field of a list is that of each element.
                Value::Array(items) => items.iter().filter_map(|item| item.get(name)).collect(),
                other => other.get(name).into_iter().collect(),
            },
            Self::Index(place) => {
                let length = value.as_array().map_or(0, Vec::len);
                let place = match usize::try_from(*place) {
                    Ok(place) => Some(place),
                    Err(_) => usize::try_from(place.unsigned_abs())
                        .ok()
                        .and_then(|back| length.checked_sub(back)),
                };
                place.and_then(|place| value.get(place)).into_iter().collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(fields) => fields.values().collect(),
                _ => Vec::new(),
            },
            Self::Descend(name) => {
                let (mut found, mut open) = (Vec::new(), vec![value]);
                while let Some(value) = open.pop() {
                    found.extend(value.get(name));
                    match value {
                        Value::Array(items) => open.extend(items),
                        Value::Object(fields) => open.extend(fields.values()),
                        _ => {}
                    }
                }
                found
            }
            Self::Filter { path, equal, value } => items()
                .filter(|item| path.find(item).iter().any(|found| (*found == value) == *equal))
                .collect(),
            Self::Exists(path) => items().filter(|item| !path.find(item).is_empty()).collect(),
        }
    }
}

/// The end of a bracket, past quotes and brackets within.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    for (place, character) in text.char_indices() {
        match (quote, character) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(place),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

/// A name, in which a backslash takes away the meaning of a dot.
fn name(text: &str) -> Option<(String, &str)> {
    let (mut name, mut escaped) = (String::new(), false);
    let mut end = text.len();
    for (place, character) in text.char_indices() {
        match character {
            _ if escaped => {
                name.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' => {
                end = place;
                break;
            }
            other => name.push(other),
        }
    }
    (!name.is_empty()).then(|| (name, &text[end..]))
}

fn literal(text: &str) -> Option<Value> {
    let quoted = |mark: char| text.strip_prefix(mark).and_then(|text| text.strip_suffix(mark));
    match quoted('\'').or_else(|| quoted('"')) {
        Some(text) => Some(Value::from(text.replace("\\'", "'").replace("\\\"", "\""))),
        None => serde_json::from_str(text).ok(),
    }
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Ok(place) = text.parse() {
        return Some(Step::Index(place));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        let filter = filter.trim().strip_prefix('@')?;
        for (operator, equal) in [("==", true), ("!=", false)] {
            if let Some((path, value)) = filter.split_once(operator) {
                let (path, value) = (Path::parse(path.trim())?, literal(value.trim())?);
                return Some(Step::Filter { path, equal, value });
            }
        }
        return Some(Step::Exists(Path::parse(filter.trim())?));
    }
    match literal(text)? {
        Value::String(name) => Some(Step::Field(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({"spec": {"a.b": 1, "list": [{"name": "x", "v": 1}, {"name": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let found = |path: &str| {
            Path::parse(path).unwrap().find(&object).into_iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(found(".status.conditions[?(@.type==\"Ready\")].status"), [json!("True")]);
        assert_eq!(found(".status.conditions[?(@.type=='Other')].status"), [json!(null); 0]);
        assert_eq!(found(".spec.list[*].v"), [json!(1), json!(2)]);
        assert_eq!(found(".spec.list[-1].name"), [json!("y")]);
        assert_eq!(found(".spec.list[0]['name']"), [json!("x")]);
        assert_eq!(found(".spec.a\\.b"), [json!(1)]);
        assert_eq!(found("{.spec.list[?(@.v)].name}"), [json!("x"), json!("y")]);
        assert_eq!(found("..v").len(), 2);
        assert_eq!(found(".missing.deep"), [json!(null); 0]);
        for none in ["spec", ".spec[", ".spec[?(x)]", ".spec..", ".a[b]"] {
            assert_eq!(Path::parse(none), None, "{none}");
        }
    }
}
