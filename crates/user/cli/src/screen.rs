//! Where all text goes out. Results go to standard output, everything about the way there to standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Writes a line of a result. A reader who left (`| head`) is no error.
pub fn line(text: impl Display) {
    let _reader_left = writeln!(io::stdout().lock(), "{text}");
}

/// Writes bytes of a container's output as they are.
///
/// # Errors
/// When the reader has left; there is no point in going on.
pub fn output(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes bytes of a container's error output as they are.
///
/// # Errors
/// When the reader has left.
pub fn error_output(bytes: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(bytes)
}

/// Writes a line about what is going on.
pub fn note(text: impl Display) {
    let _reader_left = writeln!(io::stderr().lock(), "{text}");
}

/// Whether progress may be drawn.
pub fn draws() -> bool {
    io::stderr().is_terminal()
}

/// A size for people: `12.3 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    // Tenths of the unit, so that whole numbers suffice.
    let mut tenths = bytes.saturating_mul(10);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    let (whole, tenth) = (tenths / 10, tenths % 10);
    if tenth == 0 || whole >= 100 || unit == 0 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{tenth} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        let shown = [0, 999, 1000, 1500, 12_345_678, 999_999_999, 5_000_000_000].map(size);
        assert_eq!(shown, ["0 B", "999 B", "1 kB", "1.5 kB", "12.3 MB", "999 MB", "5 GB"]);
    }
}
