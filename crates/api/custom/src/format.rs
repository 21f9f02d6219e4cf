//! The formats texts and numbers may be asked to have.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// A known format. Unknown ones judge nothing, as upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Moment,
    Date,
    Duration,
    Bytes,
    Int32,
    Int64,
    Pattern(&'static str),
    Uri,
    Ipv4,
    Ipv6,
    Cidr,
}

/// Formats that a regular expression describes, for the whole text.
const PATTERNS: [(&str, &str); 15] = [
    ("email", r"[^@\s]+@[^@\s]+"),
    (
        "hostname",
        r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*\.?",
    ),
    ("uuid", r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"),
    ("uuid3", r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}"),
    ("uuid4", r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}"),
    ("uuid5", r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}"),
    ("mac", r"(?i)[0-9a-f]{2}([:-][0-9a-f]{2}){5}([:-][0-9a-f]{2}){0,2}"),
    ("isbn10", r"[0-9]{9}[0-9Xx]"),
    ("isbn13", r"97[89][0-9]{10}"),
    ("isbn", r"([0-9]{9}[0-9Xx]|97[89][0-9]{10})"),
    ("ssn", r"[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}"),
    ("creditcard", r"[0-9][0-9 -]{11,22}[0-9]"),
    ("hexcolor", r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    ("rgbcolor", r"rgb\(\s*[0-9]{1,3}\s*,\s*[0-9]{1,3}\s*,\s*[0-9]{1,3}\s*\)"),
    ("bsonobjectid", r"[0-9a-fA-F]{24}"),
];

static COMPILED: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    PATTERNS
        .into_iter()
        .filter_map(|(name, pattern)| Some((name, Regex::new(&format!("^(?:{pattern})$")).ok()?)))
        .collect()
});

impl Format {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "date-time" | "datetime" => Self::Moment,
            "date" => Self::Date,
            "duration" => Self::Duration,
            "byte" => Self::Bytes,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "uri" => Self::Uri,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "cidr" => Self::Cidr,
            other => Self::Pattern(PATTERNS.iter().find(|(name, _)| *name == other)?.0),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Moment => "date-time",
            Self::Date => "date",
            Self::Duration => "duration",
            Self::Bytes => "byte",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uri => "uri",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Cidr => "cidr",
            Self::Pattern(name) => name,
        }
    }

    /// Whether a value has the format. Values of other types are judged by their type.
    pub fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Int32, Value::Number(number)) => {
                number.as_i64().is_none_or(|number| i32::try_from(number).is_ok())
            }
            (Self::Int64, Value::Number(number)) => !number.is_u64() || number.is_i64(),
            (_, Value::String(text)) => self.fits_text(text),
            _ => true,
        }
    }

    fn fits_text(self, text: &str) -> bool {
        match self {
            Self::Moment => text.parse::<jiff::Timestamp>().is_ok(),
            Self::Date => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
            Self::Duration => {
                !text.is_empty() && text.parse::<jiff::SignedDuration>().is_ok() || text == "0"
            }
            Self::Bytes => berth_objects::base64_decode(text).is_some(),
            Self::Int32 | Self::Int64 => true,
            Self::Uri => {
                text.split_once(':').is_some_and(|(scheme, rest)| {
                    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                        && !rest.contains(char::is_whitespace)
                }) || (text.starts_with('/') && !text.contains(char::is_whitespace))
            }
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Cidr => text.parse::<ipnet::IpNet>().is_ok(),
            Self::Pattern(name) => COMPILED
                .iter()
                .find(|(known, _)| *known == name)
                .is_none_or(|(_, pattern)| pattern.is_match(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_judge() {
        assert_eq!(COMPILED.len(), PATTERNS.len());
        for (format, good, bad) in [
            ("date-time", "2024-01-02T03:04:05Z", "2024-01-02"),
            ("date", "2024-01-02", "2024-13-02"),
            ("duration", "1h30m", "soon"),
            ("byte", "aGk=", "%"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("uri", "https://x.example/a", "no uri"),
            ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "x"),
            ("hostname", "a.example", "a_b"),
            ("email", "a@b.example", "a"),
        ] {
            let format = Format::parse(format).unwrap();
            assert!(format.fits(&good.into()), "{format:?} {good}");
            assert!(!format.fits(&bad.into()), "{format:?} {bad}");
        }
        assert!(Format::parse("password").is_none());
        assert!(!Format::Int32.fits(&5_000_000_000_i64.into()));
    }
}
