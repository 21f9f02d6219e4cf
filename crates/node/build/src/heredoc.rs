//! Here-documents that the parser does not see.
//!
//! It knows `RUN <<EOF`, but not `RUN cat <<EOF > file`, and would take the body for instructions. Bodies of such commands are
//! blanked in the text that is parsed, line for line and byte for byte, so that positions stay true; the
//! command itself is then taken from the text as written.

use std::collections::BTreeMap;

/// Where the commands with blanked bodies end, by the position of their first line's end.
pub(crate) type Bodies = BTreeMap<usize, usize>;

/// The text to parse, and the commands whose bodies were blanked.
pub(crate) fn blank(text: &str, escape: char) -> (String, Bodies) {
    let mut out = text.as_bytes().to_vec();
    let mut bodies = Bodies::new();
    let mut at = 0;
    while at < text.len() {
        let end = logical_end(text, at, escape);
        let line = &text[at..end];
        let word = line.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
        let known = matches!(word.as_str(), "RUN" | "COPY" | "ADD");
        let markers = if known { delimiters(line) } else { Vec::new() };
        let Some(close) = close_of(text, end, &markers) else {
            at = end + 1;
            continue;
        };
        // The parser reads markers only before anything else.
        let first = line.find("<<").unwrap_or(0);
        let before = line[..first].split_whitespace().skip(1).any(|word| !word.starts_with("--"));
        let after = line[first..].matches("<<").count() == 1;
        if word == "RUN" && (before || !after) {
            for byte in &mut out[end..close] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            // Every marker in the line has to go, too.
            for (offset, _) in line.match_indices("<<") {
                out[at + offset..at + offset + 2].copy_from_slice(b"  ");
            }
            bodies.insert(end, close);
        }
        at = close + 1;
    }
    (String::from_utf8(out).unwrap_or_else(|_| text.to_owned()), bodies)
}

/// The end of an instruction's lines, continued ones included.
fn logical_end(text: &str, start: usize, escape: char) -> usize {
    let mut at = start;
    loop {
        let end = text[at..].find('\n').map_or(text.len(), |offset| at + offset);
        let line = &text[at..end];
        let comment = at > start && line.trim_start().starts_with('#');
        if end == text.len() || !(comment || line.trim_end().ends_with(escape)) {
            return end;
        }
        at = end + 1;
    }
}

/// The words after `<<` and `<<-`, and whether tabs before them are dropped.
fn delimiters(line: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("<<") {
        rest = after;
        if let Some(more) = after.strip_prefix('<') {
            // A here-string.
            rest = more;
            continue;
        }
        let (after, tabs) = after.strip_prefix('-').map_or((after, false), |after| (after, true));
        let quote = after.chars().next().filter(|char| matches!(char, '"' | '\''));
        let after = quote.map_or(after, |_| &after[1..]);
        let length = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let word = &after[..length.unwrap_or(after.len())];
        // `$((1<<2))` is no here-document.
        if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            found.push((word.to_owned(), tabs));
        }
    }
    found
}

/// Where the line of the last delimiter ends; `None` if there is none, or one is missing.
fn close_of(text: &str, end: usize, markers: &[(String, bool)]) -> Option<usize> {
    let mut at = end + 1;
    let mut waiting = markers.iter();
    let mut current = waiting.next()?;
    while at < text.len() {
        let close = text[at..].find('\n').map_or(text.len(), |offset| at + offset);
        let line = text[at..close].trim_end_matches('\r');
        let line = if current.1 { line.trim_start_matches('\t') } else { line };
        if line == current.0 {
            match waiting.next() {
                Some(next) => current = next,
                None => return Some(close),
            }
        }
        at = close + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_only_what_the_parser_would_stumble_over() {
        let text = "FROM x\nRUN cat <<A > /a && cat <<-'B'\nRUN one\nA\nCMD two\n\tB\nRUN <<C\nRUN cat <<D\nD\nC\nCOPY <<E /e\ne\nE\nRUN echo $((1<<2))\n";
        let (blanked, bodies) = blank(text, '\\');
        assert_eq!(blanked.len(), text.len());
        assert!(!blanked.contains("one") && !blanked.contains("CMD two"));
        assert!(
            blanked.contains("RUN <<C\nRUN cat <<D\nD\nC\nCOPY <<E /e\ne\nE\nRUN echo $((1<<2))\n")
        );
        assert_eq!(bodies.len(), 1);
        let (start, close) = bodies.first_key_value().unwrap();
        assert_eq!(&text[*start..*close], "\nRUN one\nA\nCMD two\n\tB");
    }

    #[test]
    fn an_unclosed_document_is_left_to_the_parser() {
        let text = "RUN cat <<A\nbody\n";
        assert_eq!(blank(text, '\\').0, text);
    }
}
