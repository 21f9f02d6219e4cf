//! Extended headers of POSIX.1-2001 tar streams.
//!
//! Parsed by hand because a record is delimited by its length, not by a newline: values of
//! `SCHILY.xattr.*` (file capabilities, for one) are binary and contain newlines.

use crate::tarball::{Segment, TarError};

/// What an extended header says about the entry after it.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub sparse: Sparse,
}

/// The `GNU.sparse.*` records, in any of their three versions.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    pub major: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Versions 0.0 and 0.1 list the segments in the header itself.
    pub map: Vec<Segment>,
    pending_offset: Option<u64>,
}

impl Pax {
    /// Parses the body of an `x` entry.
    pub(crate) fn parse(mut body: &[u8]) -> Result<Self, TarError> {
        let mut pax = Self::default();
        // Some writers pad the body with zero bytes.
        while !body.is_empty() && body[0] != 0 {
            let (record, rest) = split_record(body).ok_or(TarError::Pax)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(TarError::Pax)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            pax.record(std::str::from_utf8(key).map_err(|_| TarError::Pax)?, value)?;
            body = rest;
        }
        Ok(pax)
    }

    fn record(&mut self, key: &str, value: &[u8]) -> Result<(), TarError> {
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(number(value)?),
            "uid" => self.uid = Some(number(value)?),
            "gid" => self.gid = Some(number(value)?),
            "mtime" => self.mtime = Some(time(value)?),
            "GNU.sparse.major" => self.sparse.major = Some(number(value)?),
            "GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            "GNU.sparse.realsize" | "GNU.sparse.size" => {
                self.sparse.real_size = Some(number(value)?);
            }
            "GNU.sparse.offset" => self.sparse.pending_offset = Some(number(value)?),
            "GNU.sparse.numbytes" => {
                let offset = self.sparse.pending_offset.take().ok_or(TarError::Pax)?;
                self.sparse.map.push(Segment { offset, length: number(value)? });
            }
            "GNU.sparse.map" => self.sparse.map = parse_map(value)?,
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// `<length> <key>=<value>\n`, where the length counts the whole record in decimal.
fn split_record(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = body.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&body[..space]).ok()?.parse().ok()?;
    if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
        return None;
    }
    Some((&body[space + 1..length - 1], &body[length..]))
}

pub(crate) fn number(text: &[u8]) -> Result<u64, TarError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(TarError::Pax)
}

fn time(text: &[u8]) -> Result<(i64, u32), TarError> {
    let text = std::str::from_utf8(text).map_err(|_| TarError::Pax)?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().map_err(|_| TarError::Pax)?;
    let mut nanoseconds: u32 = 0;
    for position in 0..9 {
        let digit = match fraction.as_bytes().get(position) {
            None => 0,
            Some(digit @ b'0'..=b'9') => u32::from(digit - b'0'),
            Some(_) => return Err(TarError::Pax),
        };
        nanoseconds = nanoseconds * 10 + digit;
    }
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Ok((whole.checked_sub(1).ok_or(TarError::Pax)?, 1_000_000_000 - nanoseconds));
    }
    Ok((whole, nanoseconds))
}

fn parse_map(value: &[u8]) -> Result<Vec<Segment>, TarError> {
    let numbers = value.split(|byte| *byte == b',').map(number).collect::<Result<Vec<_>, _>>()?;
    if numbers.len() % 2 != 0 {
        return Err(TarError::Pax);
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}

/// One record as it is written.
pub(crate) fn encode_record(key: &str, value: &[u8], to: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + decimal_width(length) {
        length = rest + decimal_width(length);
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

fn decimal_width(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_with_newlines_inside() {
        for size in [0, 1, 80, 85, 86, 87, 88, 89, 90, 980, 985, 990, 1000, 9999] {
            let mut body = Vec::new();
            encode_record("SCHILY.xattr.user.a", &vec![b'\n'; size], &mut body);
            encode_record("path", b"x", &mut body);
            let pax = Pax::parse(&body).unwrap();
            assert_eq!(pax.xattrs[0].1.len(), size);
            assert_eq!(pax.path.as_deref(), Some(&b"x"[..]));
        }
    }

    #[test]
    fn reads_times_before_the_epoch() {
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"12.5").unwrap(), (12, 500_000_000));
        assert!(time(b"1.x").is_err());
    }

    #[test]
    fn refuses_lying_lengths() {
        for body in
            [&b"99 path=x\n"[..], b"3 path=x\n", b"path=x\n", b"0 \n", b"9 path=x ", b"4 a\n"]
        {
            assert!(Pax::parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
