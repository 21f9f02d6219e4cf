//! Reads ahead on a thread of its own, so that inflating one part of a layer overlaps with writing the
//! files of the part before.
//!
//! The channel is short on purpose: it bounds memory to a few pieces per layer, and a slow disk
//! pushes back on the socket.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const PIECE: usize = 256 * 1024;
const AHEAD: usize = 4;

/// The reading end. Dropping it makes the producer stop at its next piece.
pub(crate) struct Pieces {
    receiver: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    offset: usize,
}

/// The sending end, to be passed to [`pump`].
pub(crate) struct Sender(SyncSender<io::Result<Vec<u8>>>);

/// A connected pair.
pub(crate) fn pieces() -> (Sender, Pieces) {
    let (sender, receiver) = sync_channel(AHEAD);
    (Sender(sender), Pieces { receiver, current: Vec::new(), offset: 0 })
}

/// Whether the reading end took everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    All,
    /// It is gone, and has its own reason to report.
    Refused,
}

impl Sender {
    /// Tells the reading end why there is no more.
    pub(crate) fn fail(&self, error: io::Error) {
        // A reader that is gone has its own error to report.
        let _unread = self.0.send(Err(error));
    }
}

/// Sends all of `source`, until it ends or nobody reads any more.
pub(crate) fn pump(source: &mut impl Read, sender: &Sender) -> io::Result<Delivered> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let outcome = source.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let last = piece.len() < PIECE;
        if !piece.is_empty() && sender.0.send(Ok(piece)).is_err() {
            return Ok(Delivered::Refused);
        }
        outcome?;
        if last {
            return Ok(Delivered::All);
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.offset == self.current.len() {
            match self.receiver.recv() {
                Ok(piece) => {
                    self.current = piece?;
                    self.offset = 0;
                }
                // The producer finished.
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.current[self.offset..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.offset += count;
        Ok(count)
    }
}
