//! Header blocks: names and values, compressed with one zlib stream per direction for a connection's whole life.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::SpdyError;

const DICTIONARY: &[u8] = include_bytes!("../data/dictionary");

/// The most that a block may hold once it is inflated, in bytes.
const LIMIT: usize = 64 << 10;

/// Names and values, in order. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the blocks of one direction.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub fn read(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        const BROKEN: SpdyError = SpdyError::Protocol("a header block cannot be inflated");
        let mut plain = Vec::with_capacity(1024);
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= LIMIT {
                    return Err(SpdyError::Protocol("a header block is too long"));
                }
                plain.reserve(plain.len());
            }
            let (read, written) = (self.0.total_in(), plain.len());
            let outcome = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - read).map_err(|_| BROKEN)?;
            block = block.get(used..).ok_or(BROKEN)?;
            match outcome {
                Ok(Status::StreamEnd) => return Err(BROKEN),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| BROKEN)?;
                    continue;
                }
                Err(_) => return Err(BROKEN),
            }
            let full = plain.len() == plain.capacity();
            if block.is_empty() && !full {
                return Ok(plain);
            }
            if used == 0 && plain.len() == written && !full {
                return Err(BROKEN);
            }
        }
    }
}

/// Writes the blocks of one direction.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub fn new() -> Result<Self, SpdyError> {
        let mut stream = Compress::new(Compression::default(), true);
        stream
            .set_dictionary(DICTIONARY)
            .map_err(|_| SpdyError::Protocol("the dictionary was refused"))?;
        Ok(Self(stream))
    }

    pub fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        const BROKEN: SpdyError = SpdyError::Protocol("a header block cannot be deflated");
        let plain = render(headers);
        let mut rest = plain.as_slice();
        let mut block = Vec::with_capacity(plain.len() / 2 + 64);
        loop {
            if block.len() == block.capacity() {
                block.reserve(block.len().max(64));
            }
            let before = self.0.total_in();
            self.0.compress_vec(rest, &mut block, FlushCompress::Sync).map_err(|_| BROKEN)?;
            let used = usize::try_from(self.0.total_in() - before).map_err(|_| BROKEN)?;
            rest = &rest[used..];
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

fn render(headers: &Headers) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut plain = number(headers.0.len()).to_vec();
    for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&number(text.len()));
        plain.extend_from_slice(text.as_bytes());
    }
    plain
}

fn parse(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    const SHORT: SpdyError = SpdyError::Protocol("a header block ends too early");
    fn number(plain: &mut &[u8]) -> Option<usize> {
        let (number, rest) = plain.split_first_chunk::<4>()?;
        *plain = rest;
        usize::try_from(u32::from_be_bytes(*number)).ok()
    }
    fn text(plain: &mut &[u8]) -> Option<String> {
        let length = number(plain)?;
        let (text, rest) = plain.split_at_checked(length)?;
        *plain = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }
    let count = number(&mut plain).ok_or(SHORT)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = text(&mut plain).ok_or(SHORT)?;
        headers.push((name.to_lowercase(), text(&mut plain).ok_or(SHORT)?));
    }
    Ok(Headers(headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn blocks_of_one_connection_build_on_each_other() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        let long = "x".repeat(20_000);
        for sent in [
            headers(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]),
            headers(&[]),
            headers(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
            headers(&[("long", &long)]),
        ] {
            let block = deflater.write(&sent).unwrap();
            assert_eq!(inflater.read(&block).unwrap(), sent);
        }
    }

    #[test]
    fn a_block_that_inflates_without_end_is_refused() {
        let mut deflater = Deflater::new().unwrap();
        let huge = "a".repeat(1 << 20);
        let block = deflater.write(&headers(&[("a", &huge)])).unwrap();
        assert!(block.len() < 8 << 10);
        assert!(matches!(Inflater::new().read(&block), Err(SpdyError::Protocol(_))));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        assert!(parse(&[]).is_err());
        assert!(parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a']).is_err());
        assert!(parse(&[0xff, 0xff, 0xff, 0xff]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(block: Vec<u8>) {
            let _answer = Inflater::new().read(&block);
            let _answer = parse(&block);
        }
    }
}
