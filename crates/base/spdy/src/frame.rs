//! Frames on the wire: a head of eight bytes, then a body.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::SpdyError;
use crate::headers::{Headers, Inflater};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The flag that ends one direction of a stream.
const FIN: u8 = 1;

/// The longest control frame that is taken, in bytes.
const CONTROL_LIMIT: usize = 32 << 10;
/// The most of a data frame that is held at a time, in bytes.
const CHUNK: usize = 32 << 10;

/// What arrives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Open {
        stream: u32,
        headers: Headers,
        last: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    /// Nothing that a server acts on.
    Other,
}

/// Reads the frames of a connection.
pub(crate) struct Reader<R> {
    source: R,
    inflater: Inflater,
    /// What is left of a data frame: its stream, the bytes, and whether it is the stream's last.
    rest: Option<(u32, usize, bool)>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(source: R) -> Self {
        Self { source, inflater: Inflater::new(), rest: None }
    }

    /// The next frame, a long data frame in pieces; none at the end of the connection.
    pub async fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some((stream, length, last)) = self.rest.take() {
            return self.data(stream, length, last).await.map(Some);
        }
        let mut head = [0_u8; 8];
        if self.source.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.source.read_exact(&mut head[1..]).await?;
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if word >> 31 == 0 {
            return self.data(word, length, flags & FIN != 0).await.map(Some);
        }
        if (head[0] & 0x7f, head[1]) != (0, 3) {
            return Err(SpdyError::Protocol("this is not version 3"));
        }
        if length > CONTROL_LIMIT {
            return Err(SpdyError::Protocol("a control frame is too long"));
        }
        let mut body = vec![0; length];
        self.source.read_exact(&mut body).await?;
        self.control(u16::from_be_bytes([head[2], head[3]]), flags, &body).map(Some)
    }

    async fn data(&mut self, stream: u32, length: usize, last: bool) -> Result<Frame, SpdyError> {
        let part = length.min(CHUNK);
        let mut bytes = BytesMut::zeroed(part);
        self.source.read_exact(&mut bytes).await?;
        if part < length {
            self.rest = Some((stream, length - part, last));
        }
        Ok(Frame::Data { stream, bytes: bytes.freeze(), last: last && part == length })
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Frame, SpdyError> {
        const SHORT: SpdyError = SpdyError::Protocol("a control frame is too short");
        let number = |at: usize| {
            let bytes = body.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            bytes.map(u32::from_be_bytes).ok_or(SHORT)
        };
        let last = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM => Frame::Open {
                stream: number(0)? & 0x7fff_ffff,
                // The stream it belongs to and the priority, ten bytes in all with the number, mean nothing here.
                headers: self.inflater.read(body.get(10..).ok_or(SHORT)?)?,
                last,
            },
            // These carry blocks too, and a block that is left out would spoil those after it.
            SYN_REPLY | HEADERS => {
                let _headers = self.inflater.read(body.get(4..).ok_or(SHORT)?)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { stream: number(0)? & 0x7fff_ffff },
            PING => Frame::Ping { id: number(0)? },
            GOAWAY => Frame::GoAway,
            SETTINGS | WINDOW_UPDATE => Frame::Other,
            _ => return Err(SpdyError::Protocol("a control frame is of no known kind")),
        })
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + body.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX) & 0x00ff_ffff);
    frame[4] = flags;
    frame.put_slice(body);
    frame.freeze()
}

/// The answer that accepts a stream.
pub(crate) fn reply(stream: u32, block: &[u8]) -> Bytes {
    control(SYN_REPLY, 0, &[&stream.to_be_bytes(), block].concat())
}

/// Ends a stream at once. Statuses: 1 protocol error, 3 refused, 5 cancelled.
pub(crate) fn reset(stream: u32, status: u32) -> Bytes {
    control(RST_STREAM, 0, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
}

pub(crate) fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes())
}

/// Says that no further streams are taken. Statuses: 0 all is well, 1 protocol error.
pub(crate) fn go_away(last: u32, status: u32) -> Bytes {
    control(GOAWAY, 0, &[last.to_be_bytes(), status.to_be_bytes()].concat())
}

/// The head of a data frame; the bytes follow it.
pub(crate) fn data_head(stream: u32, length: usize, last: bool) -> [u8; 8] {
    let [a, b, c, d] = (stream & 0x7fff_ffff).to_be_bytes();
    let [_, x, y, z] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, if last { FIN } else { 0 }, x, y, z]
}

#[cfg(test)]
pub(crate) fn open(stream: u32, block: &[u8], last: bool) -> Bytes {
    let body = [&stream.to_be_bytes()[..], &[0; 6], block].concat();
    control(SYN_STREAM, u8::from(last), &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Deflater;

    async fn frames(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(frame) = reader.next().await? {
            all.push(frame);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn frames_are_told_apart() {
        let headers = Headers(vec![("streamtype".into(), "stdin".into())]);
        let block = Deflater::new().unwrap().write(&headers).unwrap();
        let mut bytes = open(1, &block, false).to_vec();
        bytes.extend_from_slice(&data_head(1, 3, true));
        bytes.extend_from_slice(b"abc");
        bytes.extend_from_slice(&ping(7));
        bytes.extend_from_slice(&reset(1, 5));
        bytes.extend_from_slice(&go_away(1, 0));
        let expected = [
            Frame::Open { stream: 1, headers, last: false },
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"abc"), last: true },
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 1 },
            Frame::GoAway,
        ];
        assert_eq!(frames(&bytes).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_long_data_frame_comes_in_pieces_and_ends_once() {
        let mut bytes = data_head(3, 3 * CHUNK + 5, true).to_vec();
        bytes.resize(8 + 3 * CHUNK + 5, b'x');
        let pieces = frames(&bytes).await.unwrap();
        let lengths: Vec<_> = pieces
            .iter()
            .map(|frame| match frame {
                Frame::Data { stream: 3, bytes, last } => (bytes.len(), *last),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(CHUNK, false), (CHUNK, false), (CHUNK, false), (5, true)]);
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        assert!(frames(b"GET / HTTP/1.1\r\n\r\n").await.is_err());
        assert!(frames(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).await.is_err());
        assert!(frames(&[0x80, 3, 0, 6, 0, 0xff, 0xff, 0xff]).await.is_err());
        assert!(frames(&[0x80, 3, 0, 6, 0, 0, 0, 2, 0, 0]).await.is_err());
    }
}
