//! Moments as the API writes them.

use jiff::Timestamp;

/// RFC 3339 in UTC, whole seconds: `2026-01-31T12:00:00Z`.
#[must_use]
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 in UTC with six decimals.
#[must_use]
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads either, with any offset.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// A short age as tables show it: two units while young, one when old.
#[must_use]
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - since.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => pair(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_shorten() {
        let start = Timestamp::UNIX_EPOCH;
        let show = |seconds| age(start, Timestamp::from_second(seconds).unwrap());
        assert_eq!(show(5), "5s");
        assert_eq!(show(125), "2m5s");
        assert_eq!(show(1200), "20m");
        assert_eq!(show(4 * 3600 + 60), "4h1m");
        assert_eq!(show(49 * 3600), "2d1h");
        assert_eq!(show(30 * 86_400), "30d");
        assert_eq!(seconds(start), "1970-01-01T00:00:00Z");
        assert_eq!(micros(start), "1970-01-01T00:00:00.000000Z");
    }
}
