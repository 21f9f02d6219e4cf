//! Label selectors, as text and as objects, and field selectors.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct NotASelector(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// Which objects, by their labels. All requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<(String, Operator)>,
}

impl LabelSelector {
    /// Parses the text form: `a=b,c!=d,e in (f, g),h notin (i),j,!k,l>1`.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, NotASelector> {
        let mut requirements = Vec::new();
        for part in split(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    break;
                }
                return Err(NotASelector("found ',', expected: identifier".into()));
            }
            let (key, operator) = requirement(part)?;
            if !is_qualified_name(&key) {
                return Err(NotASelector(format!("invalid label key \"{key}\"")));
            }
            requirements.push((key, operator));
        }
        Ok(Self { requirements })
    }

    /// Reads the object form: `matchLabels` and `matchExpressions`. An absent selector selects nothing and gives `None`.
    ///
    /// # Errors
    /// When an operator is unknown.
    pub fn from_object(selector: Option<&Value>) -> Result<Option<Self>, NotASelector> {
        let Some(selector) = selector.filter(|selector| !selector.is_null()) else {
            return Ok(None);
        };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            requirements.extend(Self::from_map(labels).requirements);
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let text = |name| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let values = expression.get("values").and_then(Value::as_array);
            let values =
                values.into_iter().flatten().filter_map(Value::as_str).map(String::from).collect();
            let operator = match text("operator") {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::Absent,
                other => return Err(NotASelector(format!("\"{other}\" is not a valid operator"))),
            };
            requirements.push((text("key").to_owned(), operator));
        }
        Ok(Some(Self { requirements }))
    }

    /// Selects objects that have all these labels.
    #[must_use]
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        let requirements = labels.iter().map(|(key, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            (key.clone(), Operator::In(BTreeSet::from([value])))
        });
        Self { requirements: requirements.collect() }
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether these labels are selected.
    #[must_use]
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let label = |key: &str| labels?.get(key)?.as_str();
        let number = |key: &str| label(key)?.parse::<i64>().ok();
        self.requirements.iter().all(|(key, operator)| match operator {
            Operator::In(values) => label(key).is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => label(key).is_none_or(|value| !values.contains(value)),
            Operator::Exists => label(key).is_some(),
            Operator::Absent => label(key).is_none(),
            Operator::Greater(bound) => number(key).is_some_and(|value| value > *bound),
            Operator::Less(bound) => number(key).is_some_and(|value| value < *bound),
        })
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |values: &BTreeSet<String>| {
            values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        };
        let mut sorted: Vec<_> = self.requirements.iter().collect();
        sorted.sort_by(|left, right| left.0.cmp(&right.0));
        for (position, (key, operator)) in sorted.into_iter().enumerate() {
            if position > 0 {
                out.write_str(",")?;
            }
            match operator {
                Operator::In(values) if values.len() == 1 => write!(out, "{key}={}", list(values))?,
                Operator::In(values) => write!(out, "{key} in ({})", list(values))?,
                Operator::NotIn(values) if values.len() == 1 => {
                    write!(out, "{key}!={}", list(values))?;
                }
                Operator::NotIn(values) => write!(out, "{key} notin ({})", list(values))?,
                Operator::Exists => out.write_str(key)?,
                Operator::Absent => write!(out, "!{key}")?,
                Operator::Greater(bound) => write!(out, "{key}>{bound}")?,
                Operator::Less(bound) => write!(out, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (position, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Result<(String, Operator), NotASelector> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    if let Some((key, value)) = part.split_once("!=") {
        return Ok((key.trim().to_owned(), Operator::NotIn(checked(one(value))?)));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok((key.trim().to_owned(), Operator::In(checked(one(value))?)));
    }
    let bound = |value: &str| {
        value.trim().parse().map_err(|_| NotASelector(format!("\"{value}\" is no integer")))
    };
    if let Some((key, value)) = part.split_once('>') {
        return Ok((key.trim().to_owned(), Operator::Greater(bound(value)?)));
    }
    if let Some((key, value)) = part.split_once('<') {
        return Ok((key.trim().to_owned(), Operator::Less(bound(value)?)));
    }
    if let Some(key) = part.strip_prefix('!') {
        return Ok((key.trim().to_owned(), Operator::Absent));
    }
    let Some((key, rest)) = part.split_once(char::is_whitespace) else {
        return Ok((part.to_owned(), Operator::Exists));
    };
    let rest = rest.trim();
    let (operator, list) = rest.split_at(rest.find('(').unwrap_or(rest.len()));
    let values = list.strip_prefix('(').and_then(|list| list.strip_suffix(')'));
    let values = values.ok_or_else(|| NotASelector(format!("\"{part}\"")))?;
    let values = checked(values.split(',').map(|value| value.trim().to_owned()).collect())?;
    match operator.trim() {
        "in" => Ok((key.to_owned(), Operator::In(values))),
        "notin" => Ok((key.to_owned(), Operator::NotIn(values))),
        other => Err(NotASelector(format!("found '{other}', expected: in, notin, =, ==, !="))),
    }
}

fn checked(values: BTreeSet<String>) -> Result<BTreeSet<String>, NotASelector> {
    match values.iter().find(|value| !is_label_value(value)) {
        Some(wrong) => Err(NotASelector(format!("invalid label value: \"{wrong}\""))),
        None => Ok(values),
    }
}

/// Whether a text may stand as a label's value.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || (text.len() <= 63 && is_name_part(text))
}

/// Whether a text may stand as a label's or annotation's key: a name of at most 63 characters behind an optional domain.
#[must_use]
pub fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let part = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        edge(part.as_bytes().first())
            && edge(part.as_bytes().last())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(part))
        && name.len() <= 63
        && is_name_part(name)
}

fn is_name_part(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Which objects, by some of their fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses `path=value,path!=value`; a backslash protects `,`, `=` and itself.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, NotASelector> {
        let mut requirements = Vec::new();
        let mut parts = vec![String::new()];
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let last = parts.last_mut().expect("never empty");
            match character {
                '\\' => last.extend(characters.next()),
                ',' => parts.push(String::new()),
                other => last.push(other),
            }
        }
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==") {
                (path, true, value)
            } else if let Some((path, value)) = part.split_once('=') {
                (path, true, value)
            } else {
                return Err(NotASelector(format!("invalid selector: '{part}'")));
            };
            requirements.push((path.to_owned(), equal, value.to_owned()));
        }
        Ok(Self { requirements })
    }

    /// The paths it looks at.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.requirements.iter().map(|(path, _, _)| path.as_str())
    }

    /// The value a path must have, if the selector demands one.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|(name, equal, _)| *equal && name == path)?;
        Some(&found.2)
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The selector with a path called by another name, where the name people select by is not that of the field.
    #[must_use]
    pub fn renamed(mut self, name: &str, path: &str) -> Self {
        for requirement in self.requirements.iter_mut().filter(|(known, _, _)| known == name) {
            path.clone_into(&mut requirement.0);
        }
        self
    }

    /// Whether the object is selected. An absent field reads as the empty text, as false and as zero.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|(path, equal, wanted)| {
            let found = path.split('.').try_fold(object, |value, part| value.get(part));
            let same = match found {
                None | Some(Value::Null) => matches!(wanted.as_str(), "" | "false" | "0"),
                Some(Value::String(text)) => text == wanted,
                Some(Value::Bool(flag)) => wanted.parse() == Ok(*flag),
                Some(Value::Number(number)) => {
                    wanted.parse::<serde_json::Number>().is_ok_and(|wanted| wanted == *number)
                }
                Some(Value::Array(_) | Value::Object(_)) => false,
            };
            same == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selects_by_labels() {
        let labels = json!({"app": "web", "tier": "front", "n": "5"});
        let holds = |text: &str| LabelSelector::parse(text).unwrap().matches(labels.as_object());
        for yes in [
            "",
            "app=web",
            "app==web,tier",
            "!x",
            "app in (a, web)",
            "app!=x",
            "y notin (a)",
            "n>4",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in ["app=x", "!app", "x", "app notin (web,b)", "n<5", "app!=web", "app in (a)"] {
            assert!(!holds(no), "{no}");
        }
        for wrong in ["a b", "=", "a in b", "a=b=c,", "a=!", ",a"] {
            assert!(LabelSelector::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(LabelSelector::parse("b in (y,x),a").unwrap().to_string(), "a,b in (x,y)");
    }

    #[test]
    fn selects_by_expressions() {
        let selector = json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(Some(&selector)).unwrap().unwrap();
        assert!(selector.matches(json!({"a": "b"}).as_object()));
        assert!(!selector.matches(json!({"a": "b", "c": ""}).as_object()));
        assert_eq!(LabelSelector::from_object(None), Ok(None));
    }

    #[test]
    fn selects_by_fields() {
        let pod = json!({"spec": {"nodeName": "n", "unschedulable": true}});
        let holds = |text: &str| FieldSelector::parse(text).unwrap().matches(&pod);
        assert!(holds("spec.nodeName=n,status.phase!=Failed,spec.unschedulable=true"));
        assert!(holds("status.replicas=0,status.x="));
        assert!(!holds("spec.nodeName!=n"));
        let renamed = FieldSelector::parse("node=n").unwrap().renamed("node", "spec.nodeName");
        assert!(renamed.matches(&pod));
        assert!(FieldSelector::parse("x").is_err());
    }
}
