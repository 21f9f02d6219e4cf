//! Objects as they are stored, with their revision written into the text: for lists of thousands, where reading each object only to
//! write it again is most of the work.

use std::io::Write;

use berth_objects::{Resource, Status};
use berth_store::Record;

/// Whether what is stored is what this view shows, but for the revision.
pub(crate) fn fits(resource: &Resource<'_>) -> bool {
    let converted =
        matches!((resource.group, resource.version), ("events.k8s.io", _) | ("autoscaling", "v1"));
    !converted && berth_rules::find(resource.group, resource.version, resource.plural).is_some()
}

/// Appends an object with its revision.
pub(crate) fn append(record: &Record, out: &mut Vec<u8>) -> Result<(), Status> {
    let text = &record.value[..];
    let inside =
        metadata(text).ok_or_else(|| Status::internal("an object in the store has no metadata"))?;
    out.extend_from_slice(&text[..inside]);
    write!(out, "\"resourceVersion\":\"{}\"", record.revision).map_err(Status::internal)?;
    if text.get(inside) != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(&text[inside..]);
    Ok(())
}

/// Where the inside of the object's metadata begins. The text is compact, as we have written it.
fn metadata(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    if text.first() != Some(&b'{') {
        return None;
    }
    loop {
        // Behind `{` or `,` stands a name.
        let name = at + 1;
        let end = string(text, name)?;
        if text.get(end) != Some(&b':') {
            return None;
        }
        if &text[name..end] == b"\"metadata\"" {
            return (text.get(end + 1) == Some(&b'{')).then_some(end + 2);
        }
        at = value(text, end + 1)?;
        if text.get(at) != Some(&b',') {
            return None;
        }
    }
}

/// The place behind a string that begins here.
fn string(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The place behind a value that begins here.
fn value(text: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut depth) = (at, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => at = string(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b',' | b'}' | b']' if depth == 0 => return Some(at),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_store::Revision;
    use serde_json::{Value, json};

    use super::*;

    fn spliced(value: &str) -> Option<Value> {
        let record = Record {
            key: "k".into(),
            value: value.to_owned().into(),
            revision: Revision(7),
            created: Revision(1),
        };
        let mut out = Vec::new();
        append(&record, &mut out).ok()?;
        Some(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn the_revision_is_written_where_it_belongs() {
        let objects = [
            json!({"metadata": {}}),
            json!({"metadata": {"name": "a"}, "kind": "K"}),
            json!({"kind": "\"metadata\":{", "a": [{"metadata": {"b": "]}"}}, 1, null], "b": true, "n": 1.5,
                "metadata": {"name": "x"}}),
            json!({"apiVersion": "v1", "esc\"aped": "\\", "metadata": {"labels": {"metadata": "y"}}}),
        ];
        for mut object in objects {
            let found = spliced(&object.to_string()).unwrap();
            object["metadata"]["resourceVersion"] = "7".into();
            assert_eq!(found, object);
        }
        for wrong in ["", "{}", "[]", "{\"metadata\":1}", "{\"a\":1}", "{\"a", "null"] {
            assert!(spliced(wrong).is_none(), "{wrong}");
        }
    }
}
