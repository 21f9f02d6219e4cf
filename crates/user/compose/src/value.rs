//! The small languages inside Compose values: durations, sizes, CPU counts, command lines and names.

pub(crate) mod name;
pub(crate) mod port;
pub(crate) mod volume;

use std::time::Duration;

/// Why a value cannot be read. The text says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("`{0}` is not a duration; write a number with a unit, such as `10s` or `1m30s`")]
    Duration(String),
    #[error("`{0}` is not a size; write a number with a unit, such as `512m` or `2g`")]
    Bytes(String),
    #[error("`{0}` is not a number of processors; write `0.5` or `2`")]
    Processors(String),
    #[error("`{0}` has an opening quote without a closing one")]
    Quote(String),
    #[error("`{0}` ends in a backslash that escapes nothing")]
    Escape(String),
    #[error("{0}")]
    Other(String),
}

/// `1h30m`, `1.5s`, `500ms`; `0` needs no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, ValueError> {
    let fail = || ValueError::Duration(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fail());
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let number: f64 = rest[..end].parse().map_err(|_| fail())?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |length| end + length);
        let factor = match &rest[end..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return Err(fail()),
        };
        seconds += number * factor;
        rest = &rest[unit_end..];
    }
    // Binary fractions leave 1.5 s a nanosecond off; nothing here is finer than a microsecond.
    let rounded = (seconds * 1e6).round() / 1e6;
    Duration::try_from_secs_f64(rounded).map_err(|_| fail())
}

/// `64m`, `1.5G`, `512MiB`, `1024`; units are powers of 1024 as in Docker.
pub(crate) fn bytes(text: &str) -> Result<u64, ValueError> {
    let fail = || ValueError::Bytes(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let power = match lower[end..].trim_start() {
        "" | "b" => 0_u32,
        "k" | "kb" | "ki" | "kib" => 1,
        "m" | "mb" | "mi" | "mib" => 2,
        "g" | "gb" | "gi" | "gib" => 3,
        "t" | "tb" | "ti" | "tib" => 4,
        "p" | "pb" | "pi" | "pib" => 5,
        _ => return Err(fail()),
    };
    let unit = 1024_u64.pow(power);
    let (whole, fraction) = lower[..end].split_once('.').unwrap_or((&lower[..end], ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(fail());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| fail())? };
    let mut total = whole.checked_mul(unit).ok_or_else(fail)?;
    // More digits than this make no difference of a byte.
    let digits = &fraction[..fraction.len().min(18)];
    if !digits.is_empty() {
        let part: u128 = digits.parse().map_err(|_| fail())?;
        let scale = digits.chars().fold(1_u128, |scale, _| scale * 10);
        let part = u64::try_from(part * u128::from(unit) / scale).map_err(|_| fail())?;
        total = total.checked_add(part).ok_or_else(fail)?;
    }
    Ok(total)
}

/// `0.5` processors, in thousandths.
pub(crate) fn processors(text: &str) -> Result<u64, ValueError> {
    let fail = || ValueError::Processors(text.to_owned());
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let digits = |part: &str| part.chars().all(|digit| digit.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(fail());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| fail())? };
    let padded: String = fraction.chars().chain("000".chars()).take(3).collect();
    let thousandths: u64 = padded.parse().map_err(|_| fail())?;
    whole.checked_mul(1000).and_then(|whole| whole.checked_add(thousandths)).ok_or_else(fail)
}

/// Splits a command line into words as a shell does, without expanding anything.
pub(crate) fn words(text: &str) -> Result<Vec<String>, ValueError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(other) => word.push(other),
                        None => return Err(ValueError::Quote(text.to_owned())),
                    }
                }
            }
            '"' => double_quoted(&mut characters, word.get_or_insert_default())
                .ok_or_else(|| ValueError::Quote(text.to_owned()))?,
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(other) => word.get_or_insert_default().push(other),
                None => return Err(ValueError::Escape(text.to_owned())),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

fn double_quoted(characters: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match characters.next()? {
            '"' => return Some(()),
            '\\' => match characters.next()? {
                '\n' => {}
                escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                other => word.extend(['\\', other]),
            },
            other => word.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_durations() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "10", "s", "-1s", "1y", "1s2", "999999999999999999999999w"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn reads_sizes() {
        assert_eq!(bytes("1.5G"), Ok(1_610_612_736));
        assert_eq!(bytes("64m"), Ok(64 << 20));
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1 kb"), Ok(1024));
        assert_eq!(bytes("1000"), Ok(1000));
        for wrong in ["", "m", "1x", "-1m", "1.2.3m", "99999999999p"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn reads_processors() {
        assert_eq!(processors("0.50"), Ok(500));
        assert_eq!(processors("2"), Ok(2000));
        assert_eq!(processors(".1"), Ok(100));
        assert!(processors("half").is_err());
        assert!(processors("-1").is_err());
    }

    #[test]
    fn splits_command_lines() {
        let line = r#"/bin/bash -c "echo 'a b' && exit \"1\"" 'x y'z a\ b ''"#;
        let expected = ["/bin/bash", "-c", r#"echo 'a b' && exit "1""#, "x yz", "a b", ""];
        assert_eq!(words(line).unwrap(), expected);
        assert!(words("echo 'a").is_err());
        assert!(words("echo \\").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in "[0-9a-zA-Z.µ \\-\"'\\\\$]{0,24}|\\PC{0,24}") {
            let _ = duration(&text);
            let _ = bytes(&text);
            let _ = processors(&text);
            let _ = words(&text);
            let _ = port::parse(&text);
            let _ = volume::parse(&text);
            let _ = name::label(&text);
        }

        #[test]
        fn whole_seconds_and_bytes_survive(number in 0_u32..1_000_000) {
            prop_assert_eq!(duration(&format!("{number}s")), Ok(Duration::from_secs(number.into())));
            prop_assert_eq!(bytes(&format!("{number}k")), Ok(u64::from(number) * 1024));
        }
    }
}
