//! What stands before the gRPC server at the plugins' socket, and gives requests the name of a host.
//!
//! A client of grpc-go that dials the bare path of a socket sends this path as `:authority`, as it is or percent-encoded. `h2` takes
//! neither for a name and resets the stream before anybody is asked. So the header blocks of clients are read here and written
//! again with another name; all else passes as it came, in both directions.

use std::io;

use futures::stream::{self, Stream};
use loona_hpack::Decoder;
use loona_hpack::decoder::DecoderError;
use loona_hpack::encoder::encode_integer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tracing::warn;

use crate::status::chain;

/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest payload of a frame, and largest block of headers: what a server takes that has said nothing else (section 4.2).
const LONGEST: usize = 1 << 14;
/// Most that a client may refer back to, likewise (section 6.5.2).
const TABLE: usize = 4096;
/// Frames that a block of headers may come in.
const MOST_FRAMES: usize = 16;
/// Bytes on the way to the server, and as many on the way back.
const BUFFER: usize = 1 << 16;
/// The name of the host that the server sees.
const AUTHORITY: &[u8] = b"localhost";

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// Why a connection is ended.
#[derive(Debug, thiserror::Error)]
enum FrontError {
    #[error(transparent)]
    Pass(#[from] io::Error),
    #[error("the client does not speak HTTP/2")]
    Preface,
    #[error("a frame of {0} bytes is longer than {LONGEST}")]
    Frame(usize),
    #[error("a block of headers is longer than {LONGEST} bytes")]
    Block,
    #[error("a block of headers comes in more than {MOST_FRAMES} frames")]
    Frames,
    #[error("a frame of kind {0} cannot be here")]
    Order(u8),
    #[error("the padding of a frame is longer than the frame")]
    Padding,
    #[error("a block of headers cannot be read")]
    Headers(#[from] DecoderError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: Vec<u8>,
}

/// The connections of a listener, each with the front before it. They end with the stream.
pub fn front(listener: UnixListener) -> impl Stream<Item = io::Result<DuplexStream>> {
    stream::unfold((listener, JoinSet::new()), async |(listener, mut passing)| {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = passing.join_next() => {}
            }
        };
        let server = accepted.map(|(client, _)| {
            let (near, far) = tokio::io::duplex(BUFFER);
            passing.spawn(pass(client, far));
            near
        });
        Some((server, (listener, passing)))
    })
}

/// Passes on what both sides say until the server has said all.
async fn pass(client: UnixStream, server: DuplexStream) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        translate(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await?;
        Ok::<(), FrontError>(())
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::pin!(up, down);
    // A client that hangs up early or is not read any more is nothing to tell.
    tokio::select! {
        said = &mut up => match said {
            Ok(()) => {
                let _hung_up = down.await;
            }
            Err(FrontError::Pass(_)) => {}
            Err(error) => warn!(error = %chain(&error), "the connection of a device plugin is ended"),
        },
        _answered = &mut down => {}
    }
}

/// Passes on what a client says.
async fn translate(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
) -> Result<(), FrontError> {
    let mut client = BufReader::new(client);
    let mut preface = [0; PREFACE.len()];
    client.read_exact(&mut preface).await?;
    if preface != PREFACE {
        return Err(FrontError::Preface);
    }
    server.write_all(&preface).await?;
    let mut headers = Headers::new();
    while let Some(frame) = read(&mut client).await? {
        if let Some(frame) = headers.take(frame)? {
            server.write_all(&frame.bytes()).await?;
        }
    }
    Ok(())
}

/// The next frame, unless the client has said all.
async fn read(client: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrontError> {
    let mut head = [0; 9];
    if client.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    client.read_exact(&mut head[1..]).await?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if length > LONGEST {
        return Err(FrontError::Frame(length));
    }
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).await?;
    Ok(Some(Frame { kind, flags, stream, payload }))
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        // Of the length, which is at most `LONGEST`, three bytes are sent.
        let length = self.payload.len().to_be_bytes();
        let mut bytes = length[length.len() - 3..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream);
        bytes.extend(&self.payload);
        bytes
    }

    /// What of a block of headers is in a frame that begins one.
    fn fragment(&self) -> Result<&[u8], FrontError> {
        let mut rest = self.payload.as_slice();
        let mut padding = 0;
        if self.flags & PADDED != 0 {
            let (first, after) = rest.split_first().ok_or(FrontError::Padding)?;
            (padding, rest) = (usize::from(*first), after);
        }
        if self.flags & PRIORITY != 0 {
            rest = rest.get(5..).ok_or(FrontError::Padding)?;
        }
        let end = rest.len().checked_sub(padding).ok_or(FrontError::Padding)?;
        Ok(&rest[..end])
    }
}

/// The header blocks of one connection.
struct Headers {
    decoder: Decoder<'static>,
    begun: Option<Begun>,
}

/// A block that is not complete.
struct Begun {
    stream: [u8; 4],
    end_stream: u8,
    frames: usize,
    block: Vec<u8>,
}

impl Headers {
    fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Self { decoder, begun: None }
    }

    /// What is to be passed on for a frame.
    fn take(&mut self, frame: Frame) -> Result<Option<Frame>, FrontError> {
        let mut begun = match (frame.kind, self.begun.take()) {
            (HEADERS, None) => Begun {
                stream: frame.stream,
                end_stream: frame.flags & END_STREAM,
                frames: 1,
                block: frame.fragment()?.to_vec(),
            },
            (CONTINUATION, Some(mut begun)) if begun.stream == frame.stream => {
                begun.block.extend(&frame.payload);
                begun.frames += 1;
                begun
            }
            (PUSH_PROMISE | CONTINUATION, _) | (_, Some(_)) => {
                return Err(FrontError::Order(frame.kind));
            }
            (_, None) => return Ok(Some(frame)),
        };
        if begun.block.len() > LONGEST {
            return Err(FrontError::Block);
        }
        if frame.flags & END_HEADERS == 0 {
            if begun.frames == MOST_FRAMES {
                return Err(FrontError::Frames);
            }
            self.begun = Some(begun);
            return Ok(None);
        }
        begun.block = self.write_again(&begun.block)?;
        Ok(Some(Frame {
            kind: HEADERS,
            flags: begun.end_stream | END_HEADERS,
            stream: begun.stream,
            payload: begun.block,
        }))
    }

    /// The same headers with another name of the host.
    fn write_again(&mut self, block: &[u8]) -> Result<Vec<u8>, FrontError> {
        let mut written = Vec::with_capacity(block.len());
        self.decoder.decode_with_cb(block, |name, value| {
            // One byte can stand for as much as the table holds: no more is kept than one header above the limit.
            if written.len() <= LONGEST {
                let value = if *name == *b":authority" { AUTHORITY } else { &*value };
                write_literal(&mut written, &name, value);
            }
        })?;
        if written.len() > LONGEST { Err(FrontError::Block) } else { Ok(written) }
    }
}

/// Writes a header that refers to no table and may never enter one (RFC 7541, section 6.2.3).
fn write_literal(to: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    to.push(0x10);
    for text in [name, value] {
        to.extend(encode_integer(text.len(), 7));
        to.extend(text);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use prost::Message;
    use tokio_util::sync::CancellationToken;

    use super::super::Devices;
    use super::super::messages::{RegisterRequest, VERSION};
    use super::*;

    const BARE: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";
    /// Headers of `Register` as grpc-go compresses them: by indices and Huffman's code, and each new one enters its table.
    const GO_BARE: &str = "8386459563b8632a4615f6966321360d263d4c6d2cc6424b6741a063b8ec628346c75b632d054b1217b98855aba2d98d5218eb6c65a0a95d07275f5f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bb8dae040027465864d833505b11f";
    /// The same with the authority `%2Fvar%2Flib%2Fkubelet%2Fdevice-plugins%2Fkubelet.sock`.
    const GO_ENCODED: &str = "8386459563b8632a4615f6966321360d263d4c6d2cc6424b6741a754587b8ec545868346a8b0f5b632d054aa2c3217b98855aba2d98d5215161eb6c65a0a95d072755f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bb8dae040027465864d833505b11f";
    /// The same once more on one connection: nothing but indices, of which five are of that table.
    const GO_AGAIN: &str = "8386c2c1c0bfbe";

    fn unhex(text: &str) -> Vec<u8> {
        let digit = |it: u8| u8::try_from(char::from(it).to_digit(16).unwrap()).unwrap();
        text.as_bytes().chunks(2).map(|two| digit(two[0]) << 4 | digit(two[1])).collect()
    }

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Frame {
        Frame { kind, flags, stream: [0, 0, 0, stream], payload: payload.to_vec() }
    }

    fn fields(frame: &Frame) -> Vec<(String, String)> {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let read = Decoder::new().decode(&frame.payload).unwrap();
        read.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn wanted() -> Vec<(String, String)> {
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/v1beta1.Registration/Register"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-go/1.65.0"),
            ("te", "trailers"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn only_the_name_of_the_host_is_another() {
        for first in [GO_BARE, GO_ENCODED] {
            let mut headers = Headers::new();
            for (block, stream) in [(first, 1), (GO_AGAIN, 3)] {
                let sent = frame(HEADERS, END_HEADERS | END_STREAM, stream, &unhex(block));
                let passed = headers.take(sent).unwrap().unwrap();
                assert_eq!(fields(&passed), wanted());
                // Nothing in it is of a table.
                assert_eq!((passed.payload[0], passed.flags), (0x10, END_HEADERS | END_STREAM));
                assert_eq!(passed.stream, [0, 0, 0, stream]);
            }
        }
    }

    #[test]
    fn a_block_in_pieces_comes_out_whole() {
        let block = unhex(GO_BARE);
        let mut headers = Headers::new();
        let mut first = vec![2, 0, 0, 0, 0, 16];
        first.extend(&block[..7]);
        first.extend([0, 0]);
        let first = frame(HEADERS, PADDED | PRIORITY, 1, &first);
        assert_eq!(headers.take(first).unwrap(), None);
        assert_eq!(headers.take(frame(CONTINUATION, 0, 1, &block[7..9])).unwrap(), None);
        let last = frame(CONTINUATION, END_HEADERS, 1, &block[9..]);
        let passed = headers.take(last).unwrap().unwrap();
        assert_eq!((fields(&passed), passed.flags), (wanted(), END_HEADERS));
    }

    #[test]
    fn what_is_no_block_of_headers_passes_as_it_is() {
        let mut headers = Headers::new();
        for kind in [0, 2, 3, 4, 6, 7, 8, 200] {
            let sent = frame(kind, 0xff, 1, b"anything");
            assert_eq!(headers.take(sent.clone()).unwrap(), Some(sent));
        }
        // Trailers have no name of a host, and get none.
        let mut trailers = Vec::new();
        write_literal(&mut trailers, b"grpc-status", b"0");
        let sent = frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers);
        assert_eq!(headers.take(sent.clone()).unwrap(), Some(sent));
    }

    #[test]
    fn bad_frames_are_refused() {
        let refused = |frames: &[Frame]| {
            let mut headers = Headers::new();
            let mut taken = frames.iter().map(|frame| headers.take(frame.clone()));
            taken.find_map(Result::err).expect("it is refused").to_string()
        };
        let begun = frame(HEADERS, 0, 1, &[0x82]);
        let order = |frames: &[Frame]| assert!(refused(frames).contains("cannot be here"));
        order(&[frame(CONTINUATION, END_HEADERS, 1, &[])]);
        order(&[begun.clone(), frame(0, 0, 1, &[])]);
        order(&[begun.clone(), frame(CONTINUATION, END_HEADERS, 3, &[])]);
        order(&[begun.clone(), begun.clone()]);
        order(&[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]);

        for (flags, payload) in [(PADDED, &[][..]), (PADDED, &[2, 0]), (PRIORITY, &[0; 4])] {
            assert!(refused(&[frame(HEADERS, flags, 1, payload)]).contains("padding"), "{flags}");
        }
        // An index of nothing, a length without an end, text that is cut off, a table larger than what was said.
        for block in [&[0xff, 0x20][..], &[0xff; 9], &[0x41, 5, b'a'], &[0x3f, 0xe2, 0x1f, 0x82]] {
            let told = refused(&[frame(HEADERS, END_HEADERS, 1, block)]);
            assert!(told.contains("cannot be read"), "{block:?}: {told}");
        }

        let more = |bytes: usize| frame(CONTINUATION, 0, 1, &vec![0x82; bytes]);
        assert!(refused(&[begun.clone(), more(LONGEST)]).contains("longer than 16384 bytes"));
        let mut endless = vec![begun];
        endless.resize(MOST_FRAMES, more(0));
        assert!(refused(&endless).contains("more than 16 frames"));
        // One header that enters the table, and then stands there for a byte each time.
        let mut bomb = vec![0x40, 1, b'a', 0x7f, 0x81, 0x1e];
        bomb.resize(bomb.len() + 3968, b'b');
        bomb.resize(bomb.len() + 1000, 0xbe);
        let told = refused(&[frame(HEADERS, END_HEADERS, 1, &bomb)]);
        assert!(told.contains("longer than 16384 bytes"), "{told}");
    }

    #[tokio::test]
    async fn frames_have_a_largest_size() {
        let mut long = PREFACE.to_vec();
        long.extend([0, 0x40, 1, 0, 0, 0, 0, 0, 1]);
        let error = translate(&mut long.as_slice(), &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, FrontError::Frame(16385)), "{error}");
        let other = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
        let error = translate(&mut other.as_slice(), &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, FrontError::Preface), "{error}");
    }

    /// Registers with bytes as grpc-go sends them, and says how the call ended by the server's last headers.
    async fn register(
        client: &mut UnixStream,
        stream: u8,
        block: &[u8],
        answers: &mut Decoder<'_>,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: "widget.sock".to_owned(),
            resource_name: "example.com/widget".to_owned(),
            options: None,
        };
        let mut data = vec![0, 0, 0, 0, u8::try_from(request.encoded_len()).unwrap()];
        data.extend(request.encode_to_vec());
        let mut sent = frame(HEADERS, END_HEADERS, stream, block).bytes();
        sent.extend(frame(0, END_STREAM, stream, &data).bytes());
        client.write_all(&sent).await.unwrap();
        loop {
            let frame = read(client).await.unwrap().expect("the server answers");
            assert!(!matches!(frame.kind, 3 | 7), "the server refuses: {frame:?}");
            if frame.kind == HEADERS {
                let fields = answers.decode(&frame.payload).unwrap();
                if frame.flags & END_STREAM != 0 {
                    return fields;
                }
            }
        }
    }

    async fn connect(socket: &Path) -> UnixStream {
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    #[tokio::test]
    async fn plugins_register_that_send_the_path_of_the_socket_as_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let devices = Arc::new(Devices::open(folder.path()));
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let served = folder.path().to_owned();
        let server = tokio::spawn(async move { devices.serve(&served, ended).await });
        let plugin = UnixListener::bind(folder.path().join("widget.sock")).unwrap();
        let mut literal = Vec::new();
        for (name, value) in wanted() {
            let value = if name == ":authority" { BARE.to_owned() } else { value };
            write_literal(&mut literal, name.as_bytes(), value.as_bytes());
        }
        let tried = async {
            for first in [unhex(GO_BARE), unhex(GO_ENCODED), literal] {
                let mut client = connect(&folder.path().join("kubelet.sock")).await;
                client.write_all(PREFACE).await.unwrap();
                client.write_all(&frame(4, 0, 0, &[]).bytes()).await.unwrap();
                let mut answers = Decoder::new();
                let again = if first[0] == 0x83 { unhex(GO_AGAIN) } else { first.clone() };
                for (stream, block) in [(1, first), (3, again)] {
                    let fields = register(&mut client, stream, &block, &mut answers).await;
                    let good = (b"grpc-status".to_vec(), b"0".to_vec());
                    assert!(fields.contains(&good), "{fields:?}");
                    // The agent comes to the plugin in its turn.
                    plugin.accept().await.unwrap();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), tried).await.unwrap();
        stop.cancel();
        server.await.unwrap();
    }
}
