//! JSON with a note of the keys that come twice. The last of them counts, as it does for most parsers, but who wrote the
//! document should know.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads a document and the paths of the fields that it has twice.
///
/// # Errors
/// When the text is no JSON, nests too deeply, or goes on after its end.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut walk = Walk { path: String::new(), duplicates: Vec::new() };
    let value = Place(&mut walk).deserialize(&mut reader)?;
    reader.end()?;
    Ok((value, walk.duplicates))
}

struct Walk {
    path: String,
    duplicates: Vec<String>,
}

struct Place<'walk>(&'walk mut Walk);

impl Place<'_> {
    /// Goes one step down for as long as `run` takes.
    fn within<T>(&mut self, part: &str, run: impl FnOnce(Place<'_>) -> T) -> T {
        let length = self.0.path.len();
        if length > 0 && !part.starts_with('[') {
            self.0.path.push('.');
        }
        self.0.path.push_str(part);
        let outcome = run(Place(self.0));
        self.0.path.truncate(length);
        outcome
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let part = format!("[{}]", items.len());
            match self.within(&part, |place| list.next_element_seed(place))? {
                Some(item) => items.push(item),
                None => return Ok(items.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = self.within(&name, |place| {
                if entries.contains_key(&name) {
                    place.0.duplicates.push(place.0.path.clone());
                }
                map.next_value_seed(place)
            })?;
            entries.insert(name, value);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn notes_what_comes_twice() {
        let text = r#"{"a": 1, "b": [{"c": 1}, {"c": 1, "c": {"d": -2.5, "d": null}}], "a": 3}"#;
        let (value, duplicates) = parse(text.as_bytes()).unwrap();
        assert_eq!(value, json!({"a": 3, "b": [{"c": 1}, {"c": {"d": null}}]}));
        assert_eq!(duplicates, ["b[1].c", "b[1].c.d", "a"]);
    }

    #[test]
    fn refuses_what_is_no_document() {
        for text in ["", "{", "{} {}", "[1,]", "nul"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn reads_what_others_read(text in "[\\[\\]{}\",:0-9a-c.e -]{0,40}") {
            let ours = parse(text.as_bytes()).ok().map(|(value, _)| value);
            let theirs = serde_json::from_str::<Value>(&text).ok();
            proptest::prop_assert_eq!(ours, theirs);
        }
    }
}
