//! Quantities: numbers with the suffixes of memory and CPU.
//!
//! Held as a count of billionths, which is as fine as the API goes; what is finer rounds up, as the API says.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;

const BINARY: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// A number as in `500m`, `1Gi` or `12e6`.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct NotAQuantity;

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// So many thousandths.
    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }

    /// Whole units, rounded up: bytes, or cores.
    #[must_use]
    pub fn value(&self) -> i64 {
        saturate(ceiling(self.nanos, NANO))
    }

    /// Thousandths, rounded up: millicores.
    #[must_use]
    pub fn milli(&self) -> i64 {
        saturate(ceiling(self.nanos, NANO / 1000))
    }

    /// Whether it is below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// The sum, in the format of the first that is not zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, in the format of the first that is not zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { nanos: other.nanos.saturating_neg(), ..other })
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// How many times the other this is.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio is rounded anyway")]
    pub fn over(self, other: Self) -> f64 {
        self.nanos as f64 / other.nanos as f64
    }
}

fn ceiling(number: i128, divisor: i128) -> i128 {
    number.div_euclid(divisor) + i128::from(number.rem_euclid(divisor) != 0)
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, suffix) = unsigned.split_at(end.unwrap_or(unsigned.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(NotAQuantity);
        }
        let (two, ten, format) = suffix_of(suffix)?;
        let mut digits: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()).take(30) {
            digits = digits.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
        }
        if whole.len() + fraction.len() > 30 {
            return Err(NotAQuantity);
        }
        let places = i32::try_from(fraction.len()).map_err(|_| NotAQuantity)?;
        let exponent = ten - places + 9;
        let power = 10_i128.checked_pow(exponent.unsigned_abs());
        let scaled = digits.saturating_mul(1_i128 << two);
        let largest = i128::from(i64::MAX) * NANO;
        let nanos = match (exponent >= 0, power) {
            (true, Some(power)) => scaled.saturating_mul(power),
            (true, None) if scaled == 0 => 0,
            (true, None) => largest,
            (false, Some(power)) => ceiling(scaled, power),
            (false, None) => i128::from(scaled > 0),
        };
        let nanos = nanos.min(largest);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

fn suffix_of(suffix: &str) -> Result<(u32, i32, Format), NotAQuantity> {
    if let Some((_, two)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((*two, 0, Format::Binary));
    }
    if let Some((_, ten)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((0, *ten, Format::Decimal));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(NotAQuantity)?;
    let exponent: i32 = exponent.parse().map_err(|_| NotAQuantity)?;
    if exponent.abs() > 60 {
        return Err(NotAQuantity);
    }
    Ok((0, exponent, Format::Exponent))
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that needs no fraction.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        // Less than one kibibyte, or a fraction, has no binary form.
        if self.format == Format::Binary && whole && self.nanos.abs() >= 1024 * NANO {
            let units = self.nanos / NANO;
            let best = BINARY.iter().rev().find(|(_, two)| units % (1_i128 << two) == 0);
            return match best {
                Some((name, two)) => write!(out, "{}{name}", units >> two),
                None => write!(out, "{units}"),
            };
        }
        let best = DECIMAL.iter().rev().find_map(|(name, ten)| {
            let size = 10_i128.pow((ten + 9).unsigned_abs());
            (self.nanos % size == 0).then_some((self.nanos / size, *name, *ten))
        });
        let (count, name, ten) = best.unwrap_or((self.nanos, "n", -9));
        match self.format {
            Format::Exponent if ten != 0 => write!(out, "{count}e{ten}"),
            Format::Exponent | Format::Binary | Format::Decimal => write!(out, "{count}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_canonically() {
        let cases = [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("100000", "100k"),
            ("0", "0"),
            ("12e6", "12e6"),
            ("1000e3", "1e6"),
            ("-1", "-1"),
            ("0.1Ki", "102400m"),
            ("1500Ki", "1500Ki"),
            ("3M", "3M"),
            ("0.0000000001", "1n"),
        ];
        for (text, canonical) in cases {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!(quantity.to_string(), canonical, "{text}");
        }
        for wrong in ["", "x", "1x", "1.2.3", ".", "1e", "1 Gi", "--1", "1e99"] {
            assert_eq!(wrong.parse::<Quantity>().err(), Some(NotAQuantity), "{wrong}");
        }
    }

    #[test]
    fn converts_and_compares() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(quantity("1.5").milli(), 1500);
        assert_eq!(quantity("1Gi").value(), 1 << 30);
        assert_eq!(quantity("1m").value(), 1, "rounds up");
        assert!(quantity("1Gi") > quantity("1G"));
        assert_eq!(quantity("500m"), quantity("0.5"));
    }

    proptest::proptest! {
        #[test]
        fn reads_what_it_prints(number in 0_i64..i64::MAX / 2000, suffix in 0..16_usize) {
            let names: Vec<_> = BINARY.iter().map(|(name, _)| *name)
                .chain(DECIMAL.iter().map(|(name, _)| *name)).collect();
            let quantity: Quantity = format!("{number}{}", names[suffix]).parse().unwrap();
            proptest::prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }
    }
}
