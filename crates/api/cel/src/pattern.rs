//! Regular expressions as Kubernetes means them: those of RE2, in which `\w`, `\d`, `\s` and `\b` know only ASCII.
//!
//! Compiled ones are shared: the same few stand in many schemas.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use regex::{Regex, RegexBuilder};

/// The size to which one may grow when compiled.
const LARGEST: usize = 1 << 20;
/// Entries of the table before those nobody uses are looked for.
const TIDY: usize = 256;

static KNOWN: Mutex<Option<HashMap<String, Weak<Regex>>>> = Mutex::new(None);

/// Compiles a regular expression, or finds it compiled.
///
/// # Errors
/// When the text is none, or becomes too large.
pub fn pattern(text: &str) -> Result<Arc<Regex>, String> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let table = known.get_or_insert_with(HashMap::new);
    if let Some(found) = table.get(text).and_then(Weak::upgrade) {
        return Ok(found);
    }
    drop(known);
    let compiled = Arc::new(compile(text)?);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let table = known.get_or_insert_with(HashMap::new);
    if table.len() >= TIDY {
        table.retain(|_, pattern| pattern.strong_count() > 0);
    }
    table.insert(text.to_owned(), Arc::downgrade(&compiled));
    Ok(compiled)
}

fn compile(text: &str) -> Result<Regex, String> {
    let built =
        RegexBuilder::new(&translate(text)).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        other => other.to_string(),
    })
}

/// The same expression in the words of the `regex` crate.
fn translate(text: &str) -> String {
    let mut translated = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    // Whether we are within a class, and whether it has just begun.
    let (mut class, mut begun) = (false, false);
    while let Some(character) = characters.next() {
        let first = std::mem::take(&mut begun);
        match (character, class) {
            ('\\', _) => match characters.next() {
                Some(escaped) => translated += &escape(escaped, class),
                None => translated.push('\\'),
            },
            ('[', false) => {
                (class, begun) = (true, true);
                translated.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    translated.push('^');
                }
            }
            // The names of classes begin like a class; any other bracket stands for itself.
            ('[', true) if characters.peek() != Some(&':') => translated += "\\[",
            ('[', true) => {
                translated.push('[');
                for inner in characters.by_ref() {
                    translated.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            (']', true) if first => translated += "\\]",
            (']', true) => {
                class = false;
                translated.push(']');
            }
            // Twice they would be operators.
            ('&' | '~', true) => {
                translated.push('\\');
                translated.push(character);
            }
            (other, _) => translated.push(other),
        }
    }
    translated
}

fn escape(escaped: char, class: bool) -> String {
    let word = match escaped {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => "[\\t\\n\\f\\r ]",
        'S' => "[^\\t\\n\\f\\r ]",
        'b' if !class => "(?-u:\\b)",
        'B' if !class => "(?:(?-u:\\B))",
        other => return format!("\\{other}"),
    };
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_upstream() {
        let fits = |text: &str, value: &str| pattern(text).unwrap().is_match(value);
        assert!(fits(r"^\w+$", "a_1") && !fits(r"^\w+$", "é"));
        assert!(fits(r"^\d+$", "12") && !fits(r"^\d+$", "١"));
        assert!(fits(r"^[\w.-]+$", "a.b-c") && !fits(r"^[\w.-]+$", "a/b"));
        assert!(fits(r"^[^\s/]+$", "ab") && !fits(r"^[^\s/]+$", "a b"));
        assert!(fits(r"^[[:alpha:]_]+$", "ab_") && fits("^[[]$", "["));
        assert!(fits("^[]a]+$", "]a") && fits("^[a&&b]+$", "&"));
        assert!(fits(r"a\b", "a é") && fits(r"^\S$", "x"));
        assert!(fits(r"^(\w{1,253})$", &"a".repeat(253)), "it stays small");
        pattern("(").unwrap_err();
        assert_eq!(pattern(r"\pL{1000}{1000}").unwrap_err(), "it is too large");
        let held = pattern("^same$").unwrap();
        assert!(Arc::ptr_eq(&held, &pattern("^same$").unwrap()));
    }
}
