//! Schedules of CronJobs: five fields of numbers and names, or one of the words behind an `@`.

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

struct Field {
    least: u32,
    most: u32,
    /// Names of the values from `least` on.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { least: 0, most: 59, names: &[] },
    Field { least: 0, most: 23, names: &[] },
    Field { least: 1, most: 31, names: &[] },
    Field { least: 1, most: 12, names: &MONTHS },
    Field { least: 0, most: 6, names: &DAYS },
];

/// Says what is wrong with a schedule.
pub(super) fn check(text: &str) -> Result<(), String> {
    if let Some(word) = text.strip_prefix('@') {
        let words = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every = word.strip_prefix("every ").is_some_and(is_duration);
        return if words.contains(&word) || every {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {text}"))
        };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: {text}", fields.len()));
    }
    for (text, field) in fields.iter().zip(&FIELDS) {
        text.split(',').try_for_each(|part| range(part, field))?;
    }
    Ok(())
}

/// `1h30m`, in whole units.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let after = &rest[digits..];
        let unit = ["ms", "h", "m", "s"].into_iter().find(|unit| after.starts_with(unit));
        match unit {
            Some(unit) if digits > 0 => rest = &after[unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

fn range(part: &str, field: &Field) -> Result<(), String> {
    let (values, step) = match part.split_once('/') {
        Some((values, step)) => (values, Some(step)),
        None => (part, None),
    };
    if let Some(step) = step {
        match step.parse::<u32>() {
            Ok(0) => return Err(format!("step of range should be a positive number: {part}")),
            Ok(_) => {}
            Err(_) => return Err(format!("failed to parse int from {step}")),
        }
    }
    if matches!(values, "*" | "?") {
        return Ok(());
    }
    let (first, last) = values.split_once('-').unwrap_or((values, values));
    let (first, last) = (value(first, field)?, value(last, field)?);
    if first < field.least {
        return Err(format!(
            "beginning of range ({first}) below minimum ({}): {part}",
            field.least
        ));
    }
    if last > field.most {
        return Err(format!("end of range ({last}) above maximum ({}): {part}", field.most));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    Ok(())
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    let lower = text.to_lowercase();
    if let Some(position) = field.names.iter().position(|name| *name == lower) {
        return Ok(field.least + u32::try_from(position).unwrap_or_default());
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn tells_schedules_from_other_texts() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-MAR mon", "0 0 ? * 0", "@daily", "@every 1h30m"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "a * * * *",
            "5-1 * * * *",
            "@sometimes",
            "@every x",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
