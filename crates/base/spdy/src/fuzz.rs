//! Sessions of a client that has lost its mind.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::headers::{Deflater, Headers};
use crate::{frame, serve};

/// What a client sends for port-forward and for exec, and the frames that few clients send.
fn seeds() -> Vec<Vec<u8>> {
    let control = |kind: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).unwrap();
        [&[0x80, 3, 0, kind, 0, 0, 0, length], body].concat()
    };
    let mut deflater = Deflater::new().unwrap();
    let mut open = |stream: u32, kind: &str, last: bool| {
        let headers = [("streamtype", kind), ("port", "8080"), ("requestid", "0")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        frame::open(stream, &deflater.write(&Headers(headers)).unwrap(), last).to_vec()
    };
    let data = |stream: u32, bytes: &[u8], last: bool| {
        [&frame::data_head(stream, bytes.len(), last)[..], bytes].concat()
    };
    let forward =
        [open(1, "error", true), open(3, "data", false), data(3, b"GET / HTTP/1.0\r\n\r\n", true)];
    let exec = [open(5, "stdin", false), open(7, "stdout", true), data(5, b"ls\n", false)];
    let rare = [
        control(6, &[0, 0, 0, 1]),
        control(3, &[0, 0, 0, 3, 0, 0, 0, 5]),
        control(4, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 100]),
        control(9, &[0, 0, 0, 1, 0, 0, 1, 0]),
        control(7, &[0, 0, 0, 1, 0, 0, 0, 0]),
    ];
    let all = [&forward[..], &exec, &rare].concat().concat();
    vec![forward.concat(), all, rare.concat()]
}

#[test]
fn frames_of_any_form_are_read_or_end_the_connection() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = berth_fuzz::run("spdy", &seeds(), |input| {
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let (mut session, drive) = serve(server);
            let talk = async {
                // The server may hang up before all is said.
                let said = client.write_all(input).await.is_ok();
                let ended = client.shutdown().await.is_ok();
                let mut answer = Vec::new();
                let heard = client.read_to_end(&mut answer).await.is_ok();
                said && ended && heard
            };
            let answer = async {
                while let Some(mut stream) = session.next().await {
                    while stream.input.recv().await.is_some() {}
                    // Nobody may be there any more.
                    let _gone = stream.output.send(bytes::Bytes::from_static(b"ok")).await;
                    let _gone = stream.output.finish().await;
                }
            };
            let all = async { tokio::join!(talk, drive, answer) };
            let ended = tokio::time::timeout(Duration::from_secs(3), all).await;
            let (said, outcome, ()) = ended.expect("a connection ends when the client has left");
            said && outcome.is_ok()
        })
    });
    assert!(done.good > 0 && done.good < done.inputs, "{done:?}");
}
