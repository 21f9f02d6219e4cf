//! Names that are valid in a cluster (DNS-1123), and the closest known name to a mistyped one.

/// The longest DNS label.
const MAX_LABEL: usize = 63;

/// The closest DNS-1123 label: lower case, `-` for what is not allowed. Empty if nothing remains.
pub(crate) fn label(text: &str) -> String {
    let mut label = String::new();
    for character in text.chars() {
        let character = character.to_ascii_lowercase();
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            label.push(character);
        } else if !label.is_empty() {
            label.push('-');
        }
        if label.len() == MAX_LABEL {
            break;
        }
    }
    label.trim_end_matches('-').to_owned()
}

pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty() && label(text) == text
}

/// Services in a cluster must begin with a letter (RFC 1035).
pub(crate) fn service(text: &str) -> String {
    let label = label(text);
    if label.starts_with(|first: char| first.is_ascii_digit()) {
        return self::label(&format!("s-{label}"));
    }
    label
}

/// Whether `text` may name a service as it is.
pub(crate) fn is_service(text: &str) -> bool {
    !text.is_empty() && service(text) == text
}

/// Whether `text` may be the key of an annotation: `name` or `domain/name`.
pub(crate) fn is_qualified(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let valid_prefix =
        prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label));
    let ends = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric());
    valid_prefix
        && name.len() <= MAX_LABEL
        && ends(name.chars().next())
        && ends(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The candidate that `text` was most likely meant to be.
pub(crate) fn closest<'c>(
    text: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let limit = 1 + text.len() / 4;
    candidates
        .into_iter()
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?`, or nothing.
pub(crate) fn suggestion<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    closest(text, candidates)
        .map(|candidate| format!("; did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// Edits between two words, where swapped neighbours count as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels() {
        assert_eq!(label("My_App.2"), "my-app-2");
        assert_eq!(label("_x_"), "x");
        assert_eq!(label("ÄÖ"), "");
        assert_eq!(service("2048"), "s-2048");
        assert!(is_label("web-1"));
        assert!(!is_label("web_1"));
        assert!(label(&"a".repeat(80)).len() <= MAX_LABEL);
    }

    #[test]
    fn mistyped_names_find_their_neighbour() {
        let names = ["environment", "env_file", "ports", "image"];
        assert_eq!(closest("enviroment", names), Some("environment"));
        assert_eq!(closest("imgae", names), Some("image"));
        assert_eq!(closest("port", names), Some("ports"));
        assert_eq!(closest("zebra", names), None);
    }
}
