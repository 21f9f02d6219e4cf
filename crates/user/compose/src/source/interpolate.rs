//! `$VAR`, `${VAR}` and their defaults, in every value and in no key.
//!
//! A dollar sign that begins neither is left as it is, as Docker does: shell code such as `$(date)` is common in
//! commands.

use std::collections::BTreeMap;

use super::node::{Node, Value, join};
use crate::report::Report;

/// How deep defaults may nest in defaults.
const MAX_DEPTH: usize = 16;

/// The variables a file may use: the caller's environment over the `.env` file.
pub(crate) type Variables = BTreeMap<String, String>;

/// Why a text cannot be interpolated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InterpolationError {
    #[error("`${{` has no closing brace")]
    Open,
    #[error("`{0}` is not a variable; write `$$` for a dollar sign, or `${{NAME}}` for a variable")]
    Form(String),
    #[error("required variable `{name}` is not set{}; set it in the environment or in `.env`", reason(.message))]
    Required { name: String, message: String },
    #[error("defaults are nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

fn reason(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// Interpolates all values below `node`.
pub(crate) fn tree(node: &mut Node, path: &str, variables: &Variables, report: &mut Report) {
    match &mut node.value {
        Value::Null => {}
        Value::Text(text) => {
            if !text.contains('$') {
                return;
            }
            let mut unset = Vec::new();
            match interpolate(text, variables, &mut unset) {
                Ok(new) => {
                    *text = new;
                    for name in unset {
                        let message = format!(
                            "uses the variable `{name}`, which is not set; it is taken as empty"
                        );
                        report.warn(&node.position, path, message);
                        report.unset(&node.position, name);
                    }
                }
                Err(error) => report.problem(&node.position, path, error.to_string()),
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                tree(item, &format!("{path}[{index}]"), variables, report);
            }
        }
        Value::Mapping(entries) => {
            for (name, entry) in entries {
                tree(entry, &join(path, name), variables, report);
            }
        }
    }
}

/// The text with its variables replaced. Names without value and default are added to `unset`.
pub(crate) fn interpolate(
    text: &str,
    variables: &Variables,
    unset: &mut Vec<String>,
) -> Result<String, InterpolationError> {
    expand(text, variables, unset, 0)
}

fn expand(
    text: &str,
    variables: &Variables,
    unset: &mut Vec<String>,
    depth: usize,
) -> Result<String, InterpolationError> {
    if depth > MAX_DEPTH {
        return Err(InterpolationError::Depth);
    }
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            result.push('$');
            rest = escaped;
        } else if let Some(inner) = after.strip_prefix('{') {
            let end = closing_brace(inner).ok_or(InterpolationError::Open)?;
            result.push_str(&braced(&inner[..end], variables, unset, depth)?);
            rest = &inner[end + 1..];
        } else {
            let length = name_length(after);
            if length == 0 {
                result.push('$');
            } else {
                result.push_str(&plain(&after[..length], variables, unset));
            }
            rest = &after[length..];
        }
    }
    result.push_str(rest);
    Ok(result)
}

fn braced(
    inner: &str,
    variables: &Variables,
    unset: &mut Vec<String>,
    depth: usize,
) -> Result<String, InterpolationError> {
    let length = name_length(inner);
    let (name, operation) = inner.split_at(length);
    if name.is_empty() {
        return Err(InterpolationError::Form(format!("${{{inner}}}")));
    }
    let value = variables.get(name);
    let filled = value.filter(|value| !value.is_empty());
    let (colon, operator) = match operation.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, operation),
    };
    let present = if colon { filled } else { value };
    if let Some(default) = operator.strip_prefix('-') {
        return match present {
            Some(value) => Ok(value.clone()),
            None => expand(default, variables, unset, depth + 1),
        };
    }
    if let Some(message) = operator.strip_prefix('?') {
        return match present {
            Some(value) => Ok(value.clone()),
            None => Err(InterpolationError::Required {
                name: name.to_owned(),
                message: expand(message, variables, unset, depth + 1)?,
            }),
        };
    }
    if let Some(replacement) = operator.strip_prefix('+') {
        return match present {
            Some(_) => expand(replacement, variables, unset, depth + 1),
            None => Ok(String::new()),
        };
    }
    if operation.is_empty() {
        return Ok(plain(name, variables, unset));
    }
    Err(InterpolationError::Form(format!("${{{inner}}}")))
}

fn plain(name: &str, variables: &Variables, unset: &mut Vec<String>) -> String {
    variables.get(name).cloned().unwrap_or_else(|| {
        unset.push(name.to_owned());
        String::new()
    })
}

/// Where the brace closes that was opened before `text`. Only `${` nests, so that JSON may stand in a default.
fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut open = 1_usize;
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(index);
                }
            }
            b'$' if bytes.get(index + 1) == Some(&b'{') => {
                open += 1;
                index += 1;
            }
            _ => {}
        }
        index += 1;
    }
    None
}

fn name_length(text: &str) -> usize {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(text: &str) -> String {
        let variables: Variables =
            [("A", "a"), ("EMPTY", ""), ("B", "b")].map(|(k, v)| (k.into(), v.into())).into();
        let mut unset = Vec::new();
        match interpolate(text, &variables, &mut unset) {
            Ok(text) if unset.is_empty() => text,
            Ok(text) => format!("{text} (unset {})", unset.join(" ")),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn replaces_every_form() {
        assert_eq!(filled("$A-${B}/$$A"), "a-b/$A");
        assert_eq!(filled("${X:-x} ${X-x} ${EMPTY:-x} ${EMPTY-x}|"), "x x x |");
        assert_eq!(filled("${A:+x} ${EMPTY:+x} ${EMPTY+x} ${X+x}|"), "x  x |");
        assert_eq!(filled("${X:-${Y:-$A}}"), "a");
        assert_eq!(filled("${X:-{\"k\": 1}}"), "{\"k\": 1}");
        assert_eq!(filled("$X"), " (unset X)");
        assert_eq!(filled("${X:-a:b?c}"), "a:b?c");
        assert_eq!(filled("$(date) $! $1 $"), "$(date) $! $1 $");
    }

    #[test]
    fn refuses_what_it_cannot_replace() {
        assert!(filled("${X:?say who}").contains("`X` is not set: say who"));
        assert!(filled("${EMPTY:?}").contains("is not set"));
        assert_eq!(filled("${EMPTY?}"), "");
        assert!(filled("${A").contains("no closing brace"));
        for wrong in ["${}", "${A!b}", "${1}", "${ A}"] {
            assert!(filled(wrong).contains("is not a variable"), "{wrong}: {}", filled(wrong));
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[${}:?+A-Zé -]{0,40}") {
            let _ = filled(&text);
        }

        #[test]
        fn text_without_dollar_stays(text in "[^$]{0,40}") {
            prop_assert_eq!(filled(&text), text);
        }

        #[test]
        fn doubled_dollars_come_back(text in "\\PC{0,20}") {
            prop_assert_eq!(filled(&text.replace('$', "$$")), text);
        }
    }
}
