//! Files of variables: `.env` beside the Compose file, and `env_file`.

use indexmap::IndexMap;

use super::interpolate::{Variables, interpolate};

/// A line that is no variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct EnvironmentError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// Reads `NAME=value` lines. Values may be quoted, a quoted one may span lines, `export` may stand before a name, and
/// all but single-quoted values may use variables of the file itself and of `outer`, which wins.
pub(crate) fn parse(
    text: &str,
    outer: &Variables,
) -> Result<IndexMap<String, String>, EnvironmentError> {
    let mut values = IndexMap::new();
    let mut known = outer.clone();
    let mut rest = text.trim_start_matches('\u{feff}');
    let total = text.lines().count();
    while !rest.is_empty() {
        let line = total.saturating_sub(rest.lines().count()) + 1;
        let fail = |message: String| EnvironmentError { line, message };
        let end = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let (current, following) = rest.split_at(end);
        let content = current.trim();
        if content.is_empty() || content.starts_with('#') {
            rest = following;
            continue;
        }
        let offset = rest.len() - rest.trim_start().len();
        let from_name = &rest[offset..];
        let unexported = from_name.strip_prefix("export ").map_or(from_name, str::trim_start);
        let length = unexported.find(['=', ':', '\n']).unwrap_or(unexported.len());
        let name = unexported[..length].trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(fail(format!("`{content}` is not `NAME=value`")));
        }
        if !unexported[length..].starts_with(['=', ':']) {
            // A name alone passes the outer variable on.
            if let Some(value) = outer.get(name) {
                values.insert(name.to_owned(), value.clone());
            }
            rest = following;
            continue;
        }
        let after = unexported[length + 1..].trim_start_matches([' ', '\t']);
        let (value, remaining) = read_value(after, &known).map_err(fail)?;
        if !outer.contains_key(name) {
            known.insert(name.to_owned(), value.clone());
        }
        values.insert(name.to_owned(), value);
        rest = remaining;
    }
    Ok(values)
}

/// Reads the lines as they are, for `format: raw`.
pub(crate) fn parse_raw(text: &str) -> IndexMap<String, String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.to_owned()))
        .collect()
}

fn read_value<'t>(text: &'t str, known: &Variables) -> Result<(String, &'t str), String> {
    let expand =
        |text: &str| interpolate(text, known, &mut Vec::new()).map_err(|error| error.to_string());
    if let Some(quoted) = text.strip_prefix('\'') {
        let end = quoted.find('\'').ok_or("a single quote is not closed")?;
        return Ok((quoted[..end].to_owned(), rest_of_line(&quoted[end + 1..])));
    }
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, rest) = double_quoted(quoted).ok_or("a double quote is not closed")?;
        return Ok((expand(&value)?, rest_of_line(rest)));
    }
    let end = text.find('\n').unwrap_or(text.len());
    let line = &text[..end];
    let comment = line
        .char_indices()
        .find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with([' ', '\t'])))
        .map_or(line.len(), |(at, _)| at);
    Ok((expand(line[..comment].trim())?, rest_of_line(&text[end..])))
}

/// The content up to the closing quote with its escapes undone, and what follows. `\$` stays a dollar sign.
fn double_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                '$' => value.push_str("$$"),
                same @ ('"' | '\\' | '\'') => value.push(same),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

fn rest_of_line(text: &str) -> &str {
    text.find('\n').map_or("", |end| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<String> {
        let outer: Variables = [("OUTER".to_owned(), "o".to_owned())].into();
        match parse(text, &outer) {
            Ok(values) => values.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn reads_what_people_write() {
        let text = "# note\nA=1\nexport B = two words # why\nC='$A #'\nD=\"$A\\n\\$A\"\nE=${A}-$OUTER\n\nOUTER\nF=\nG=\"x\ny\"\nH=a#b\n";
        let expected = [
            "A=1",
            "B=two words",
            "C=$A #",
            "D=1\n$A",
            "E=1-o",
            "OUTER=o",
            "F=",
            "G=x\ny",
            "H=a#b",
        ];
        assert_eq!(read(text), expected);
    }

    #[test]
    fn names_the_line_of_a_mistake() {
        assert!(read("A=1\nB='x\n")[0].starts_with("line 2: a single quote"));
        assert!(read("A=1\n\n=x\n")[0].starts_with("line 3:"));
        assert_eq!(parse_raw("A='x'\n#c\nB=$Y").get("A").unwrap(), "'x'");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[A-C='\"\\\\$ #\n:{}é]{0,60}") {
            let _ = read(&text);
        }
    }
}
