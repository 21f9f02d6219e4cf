//! One blob as a stream that survives broken connections.
//!
//! The bytes go through a channel of a few pieces to a blocking reader. When the connection breaks, the next request asks
//! for the rest (`Range`), so that the unpacker on the other end notices nothing. As long as attempts make
//! progress, they are not counted.

use std::io::{self, Read};

use berth_content::{Digest, Reference};
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::RANGE;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::client::{Access, Client, unreachable};
use crate::error::RegistryError;
use crate::progress::LayerProgress;

const AHEAD: usize = 16;

/// The blocking end.
pub(crate) struct Pieces {
    receiver: Receiver<Bytes>,
    current: Bytes,
    /// Bytes still expected; a stream that ends before is an error, not an end.
    missing: u64,
}

/// A blob to be fetched.
pub(crate) struct Blob<'a> {
    pub client: &'a Client,
    pub image: &'a Reference,
    pub digest: Digest,
    pub size: u64,
}

/// A connected pair for a blob of this size.
pub(crate) fn pieces(size: u64) -> (Sender<Bytes>, Pieces) {
    let (sender, receiver) = channel(AHEAD);
    (sender, Pieces { receiver, current: Bytes::new(), missing: size })
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece,
                None if self.missing == 0 => return Ok(0),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        self.missing = self.missing.saturating_sub(count as u64);
        Ok(count)
    }
}

impl Blob<'_> {
    /// Sends the whole blob, or fails. Ends quietly when nobody reads any more.
    pub(crate) async fn fetch(
        &self,
        to: Sender<Bytes>,
        progress: &dyn LayerProgress,
    ) -> Result<(), RegistryError> {
        let mut offset = 0;
        let mut failures = 0;
        while offset < self.size {
            let before = offset;
            match self.stretch(&mut offset, &to, progress).await? {
                Stretch::Refused => return Ok(()),
                Stretch::Ended => {}
                Stretch::Broken(source) => {
                    failures = if offset > before { 1 } else { failures + 1 };
                    if failures >= self.client.attempts() {
                        return Err(unreachable(self.image, source));
                    }
                    tracing::debug!(layer = %self.digest, offset, error = %source, "download broke off");
                    self.client.wait(failures, None).await;
                    continue;
                }
            }
            if offset < self.size && offset == before {
                return Err(self.protocol("a blob that is shorter than its manifest says"));
            }
        }
        Ok(())
    }

    fn protocol(&self, what: &str) -> RegistryError {
        RegistryError::Protocol {
            image: self.image.familiar(),
            registry: self.image.registry().to_owned(),
            what: what.to_owned(),
        }
    }

    /// One request's worth.
    async fn stretch(
        &self,
        offset: &mut u64,
        to: &Sender<Bytes>,
        progress: &dyn LayerProgress,
    ) -> Result<Stretch, RegistryError> {
        let url = self.client.url(self.image, &format!("blobs/{}", self.digest));
        let from = *offset;
        let request = |http: &reqwest::Client| match from {
            0 => http.get(&url),
            from => http.get(&url).header(RANGE, format!("bytes={from}-")),
        };
        let answer = self.client.send(self.image, Access::Pull, request).await?;
        // A registry without ranges begins again, and what we have is skipped.
        let mut skip = if answer.status() == StatusCode::PARTIAL_CONTENT { 0 } else { from };
        let mut body = answer.bytes_stream();
        while let Some(piece) = body.next().await {
            let mut piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Ok(Stretch::Broken(error)),
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            let piece = piece.split_off(skipped);
            if piece.is_empty() {
                continue;
            }
            *offset += piece.len() as u64;
            if *offset > self.size {
                return Err(self.protocol("a blob that is longer than its manifest says"));
            }
            if to.send(piece).await.is_err() {
                return Ok(Stretch::Refused);
            }
            progress.advanced(&self.digest, *offset);
        }
        Ok(Stretch::Ended)
    }
}

enum Stretch {
    /// The body ended, at the end of the blob or before.
    Ended,
    Broken(reqwest::Error),
    /// The reader is gone.
    Refused,
}
