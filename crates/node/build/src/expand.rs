//! Variables and quotes in instructions.
//!
//! The rules are a small part of a shell's: single quotes keep everything, double quotes expand, the escape character
//! keeps the next one, and `${name:-word}`, `${name:+word}` and their kin choose. Words are not split by
//! expansion.

use std::iter::Peekable;
use std::str::Chars;

use crate::error::Problem;

/// Values of variables; the last of a name counts.
pub(crate) type Variables = Vec<(String, String)>;

pub(crate) fn value<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    variables.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Sets a variable, in its old place if it has one.
pub(crate) fn set(variables: &mut Variables, name: &str, value: &str) {
    match variables.iter_mut().find(|(key, _)| key == name) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((name.to_owned(), value.to_owned())),
    }
}

/// Expands one word: quotes fall away, variables become their values.
pub(crate) fn expand(
    text: &str,
    variables: &[(String, String)],
    escape: char,
) -> Result<String, Problem> {
    let mut expander =
        Expander { rest: text.chars().peekable(), variables, escape, quotes: Quotes::Shell };
    expander.until(None)
}

/// Expands the body of a here-document: variables become their values, quotes stay.
pub(crate) fn expand_body(
    text: &str,
    variables: &[(String, String)],
    escape: char,
) -> Result<String, Problem> {
    let mut expander =
        Expander { rest: text.chars().peekable(), variables, escape, quotes: Quotes::Plain };
    expander.until(None)
}

/// Splits at blanks outside quotes; quotes and escapes stay for [`expand`].
pub(crate) fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut braces = 0_usize;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match quote {
            None if char == '{' && word.ends_with('$') => braces += 1,
            None if char == '}' => braces = braces.saturating_sub(1),
            None if braces == 0 && char.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if char == '"' || char == '\'' => quote = Some(char),
            Some(open) if char == open => quote = None,
            _ => {}
        }
        word.push(char);
        if char == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `name=value` pairs of `ENV` and `LABEL`, expanded, or the old form of a name and the rest of the line.
pub(crate) fn pairs(
    text: &str,
    variables: &[(String, String)],
    escape: char,
) -> Result<Variables, Problem> {
    let words = words(text, escape);
    let first = words.first().ok_or_else(|| Problem::Syntax("no name is given".to_owned()))?;
    if !first.contains('=') {
        let rest = text.trim_start().strip_prefix(first.as_str()).unwrap_or("").trim();
        if rest.is_empty() {
            return Err(Problem::Syntax(format!("`{first}` has no value")));
        }
        return Ok(vec![(expand(first, variables, escape)?, expand(rest, variables, escape)?)]);
    }
    let mut pairs = Vec::new();
    for word in &words {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| Problem::Syntax(format!("`{word}` is not of the form name=value")))?;
        let name = expand(name, variables, escape)?;
        if name.is_empty() {
            return Err(Problem::Syntax(format!("`{word}` has no name")));
        }
        pairs.push((name, expand(value, variables, escape)?));
    }
    Ok(pairs)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Shell,
    Plain,
}

struct Expander<'a> {
    rest: Peekable<Chars<'a>>,
    variables: &'a [(String, String)],
    escape: char,
    quotes: Quotes,
}

impl Expander<'_> {
    /// Up to `end`, which is consumed, or the end of the text.
    fn until(&mut self, end: Option<char>) -> Result<String, Problem> {
        let mut out = String::new();
        while let Some(char) = self.rest.next() {
            match char {
                char if Some(char) == end => return Ok(out),
                '\'' if self.quotes == Quotes::Shell => self.single(&mut out)?,
                '"' if self.quotes == Quotes::Shell => self.double(&mut out)?,
                '$' => self.variable(&mut out)?,
                char if char == self.escape => match (self.quotes, self.rest.next()) {
                    (Quotes::Shell, next) => out.extend(next),
                    (Quotes::Plain, Some('$')) => out.push('$'),
                    (Quotes::Plain, next) => {
                        out.push(char);
                        out.extend(next);
                    }
                },
                char => out.push(char),
            }
        }
        match end {
            None => Ok(out),
            Some(end) => Err(Problem::Syntax(format!("a closing `{end}` is missing"))),
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), Problem> {
        for char in self.rest.by_ref() {
            if char == '\'' {
                return Ok(());
            }
            out.push(char);
        }
        Err(Problem::Syntax("a closing `'` is missing".to_owned()))
    }

    fn double(&mut self, out: &mut String) -> Result<(), Problem> {
        while let Some(char) = self.rest.next() {
            match char {
                '"' => return Ok(()),
                '$' => self.variable(out)?,
                char if char == self.escape => match self.rest.next() {
                    Some(next) if matches!(next, '"' | '$') || next == self.escape => {
                        out.push(next)
                    }
                    next => {
                        out.push(char);
                        out.extend(next);
                    }
                },
                char => out.push(char),
            }
        }
        Err(Problem::Syntax("a closing `\"` is missing".to_owned()))
    }

    fn variable(&mut self, out: &mut String) -> Result<(), Problem> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            }
            out.push_str(value(self.variables, &name).unwrap_or(""));
            return Ok(());
        }
        let name = self.name();
        if name.is_empty() {
            return Err(Problem::Variable("`${` is not followed by a name".to_owned()));
        }
        let colon = self.rest.next_if_eq(&':').is_some();
        let operator = self.rest.next();
        let found = value(self.variables, &name).filter(|value| !(colon && value.is_empty()));
        let chosen = match operator {
            Some('}') if !colon => found.unwrap_or("").to_owned(),
            Some('-') => {
                let word = self.until(Some('}'))?;
                found.map_or(word, str::to_owned)
            }
            Some('+') => {
                let word = self.until(Some('}'))?;
                found.map_or(String::new(), |_| word)
            }
            Some('?') => {
                let word = self.until(Some('}'))?;
                let missing = || Problem::Variable(format!("variable `{name}` is not set: {word}"));
                found.ok_or_else(missing)?.to_owned()
            }
            other => {
                let shown: String = other.into_iter().collect();
                let colon = if colon { ":" } else { "" };
                return Err(Problem::Unsupported(format!("`${{{name}{colon}{shown}…}}`")));
            }
        };
        out.push_str(&chosen);
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(char) =
            self.rest.next_if(|char| char.is_ascii_alphanumeric() || *char == '_')
        {
            name.push(char);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        [("x", "1"), ("empty", ""), ("y", "a b")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn expands_as_a_shell_would() {
        for (text, expected) in [
            ("$x", "1"),
            ("${x}2", "12"),
            ("$xy-", "-"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${none-d$x}", "d1"),
            ("${x:+set}", "set"),
            ("${none:+set}", ""),
            ("${none:-${empty:-deep}}", "deep"),
            ("'$x'", "$x"),
            ("\"$x '$y'\"", "1 'a b'"),
            (r"\$x", "$x"),
            (r#""\$x\n""#, r"$x\n"),
            ("$", "$"),
            ("a$-b", "a$-b"),
        ] {
            assert_eq!(expand(text, &variables(), '\\').unwrap(), expected, "{text}");
        }
        for bad in ["${", "${x", "'a", "\"a", "${x#p}", "${none:?gone}", "${}"] {
            assert!(expand(bad, &variables(), '\\').is_err(), "{bad}");
        }
    }

    #[test]
    fn splits_pairs_at_blanks_outside_quotes() {
        let text = r#"a=b c="d e" f='g $x' i=j\ k l=$y"#;
        let pairs = pairs(text, &variables(), '\\').unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(pairs, ["a=b", "c=d e", "f=g $x", "i=j k", "l=a b"]);
        assert_eq!(
            super::pairs("old style $x", &[("x".into(), "1".into())], '\\').unwrap()[0].1,
            "style 1"
        );
        assert!(super::pairs("a=b c", &[], '\\').is_err());
        assert!(super::pairs("alone", &[], '\\').is_err());
    }

    #[test]
    fn bodies_keep_their_quotes() {
        assert_eq!(
            expand_body("'$x' \"$x\" \\$x \\n", &variables(), '\\').unwrap(),
            "'1' \"1\" $x \\n"
        );
    }
}
