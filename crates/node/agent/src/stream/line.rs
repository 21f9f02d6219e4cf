//! What passes between a client and a process, whatever carries it.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What a client asked to be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub input: bool,
    pub output: bool,
    pub errors: bool,
    pub terminal: bool,
}

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Input(Bytes),
    InputEnds,
    /// The terminal's new size, rows and columns.
    Resize(u16, u16),
}

/// Where bytes for a client belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Output,
    Errors,
    /// How it ended, as a `Status` in JSON; the last that is sent.
    Status,
}

/// Messages that may wait on either side.
const QUEUE: usize = 16;

/// A client.
pub struct Line {
    /// What it sends; ends when it has left.
    pub incoming: mpsc::Receiver<Incoming>,
    /// What it gets. Once this is dropped the rest is sent and the connection closed.
    pub outgoing: mpsc::Sender<(Channel, Bytes)>,
    /// Ends when the connection is closed.
    pub carrier: JoinHandle<()>,
}

/// The carrier's ends of a line.
pub struct Carrier {
    pub incoming: mpsc::Sender<Incoming>,
    pub outgoing: mpsc::Receiver<(Channel, Bytes)>,
}

impl Line {
    /// Starts a carrier.
    pub fn start<F>(carry: impl FnOnce(Carrier) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, incoming) = mpsc::channel(QUEUE);
        let (outgoing, receiver) = mpsc::channel(QUEUE);
        let carrier = tokio::spawn(carry(Carrier { incoming: sender, outgoing: receiver }));
        Self { incoming, outgoing, carrier }
    }

    /// Sends the last word and waits until it is out.
    pub async fn finish(self, status: &Value) {
        // The client may have left meanwhile.
        let _gone = self.outgoing.send((Channel::Status, Bytes::from(status.to_string()))).await;
        drop((self.incoming, self.outgoing));
        if let Err(error) = self.carrier.await {
            tracing::warn!(%error, "a stream's carrier failed");
        }
    }
}

/// The status of a process that ended.
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    command_failure(
        &format!("command terminated with non-zero exit code: exit status {code}"),
        code,
    )
}

/// The status of a command that failed with an exit code.
pub fn command_failure(message: &str, code: i32) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

/// The status of what could not be done.
pub fn failure(message: &str) -> Value {
    json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500 })
}

/// A terminal's size as clients send it.
pub fn size(message: &Value) -> Incoming {
    let number = |name: &str| u16::try_from(message[name].as_u64().unwrap_or(0)).unwrap_or(0);
    Incoming::Resize(number("Height"), number("Width"))
}
