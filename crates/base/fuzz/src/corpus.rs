//! What kubectl 1.29, 1.31 and 1.33 sent during the suite of the API server: each request once, whatever its numbers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

const RECORDED: &str = include_str!("../corpus/kubectl.jsonl");

/// A recorded request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The media type of the body.
    pub kind: String,
    /// What answers it asked for.
    pub accept: String,
    /// The body.
    pub body: Vec<u8>,
}

/// All recorded requests.
///
/// # Panics
/// When the file is not as it was recorded.
#[must_use]
pub fn requests() -> Vec<Request> {
    let parse = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let body = match line["bytes"].as_str() {
            Some(bytes) => STANDARD.decode(bytes).expect("bytes are recorded in base64"),
            None => text("text").into_bytes(),
        };
        let (method, path) = (text("method"), text("path"));
        Request { method, path, kind: text("kind"), accept: text("accept"), body }
    };
    RECORDED.lines().map(parse).collect()
}
