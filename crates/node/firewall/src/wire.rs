//! Netlink messages of nf_tables: framing, attributes, batches.
//!
//! Numbers are those of the kernel's `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

/// A message under construction.
#[derive(Debug, Default, Clone)]
pub struct Attributes(Vec<u8>);

const ALIGNMENT: usize = 4;
const NESTED: u16 = 0x8000;

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    /// An attribute with raw bytes.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes are built below 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        pad(&mut self.0);
        self
    }

    /// A zero-terminated text.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number in network byte order, as nf_tables wants all of its own.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes within an attribute.
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// What a message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Verb {
    NewTable = 0,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
    NewSet = 9,
    NewElement = 12,
    DeleteElement = 14,
}

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NFPROTO_IPV4`.
const FAMILY: u8 = 2;

/// Messages that take effect together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// What each message was for, by sequence number less one, so that a refusal can be put into words.
    purposes: Vec<String>,
}

impl Batch {
    pub fn new() -> Self {
        let mut batch = Self::default();
        batch.frame(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM.to_be_bytes(), &[]);
        batch
    }

    pub fn push(&mut self, verb: Verb, purpose: String, attributes: &Attributes) {
        let mut flags = REQUEST;
        match verb {
            Verb::NewRule => flags |= CREATE | APPEND,
            Verb::NewTable | Verb::NewChain | Verb::NewSet | Verb::NewElement => flags |= CREATE,
            Verb::DeleteTable | Verb::DeleteElement => {}
        }
        self.purposes.push(purpose);
        let kind = SUBSYSTEM << 8 | verb as u16;
        self.frame(kind, flags, FAMILY, [0, 0], attributes.as_bytes());
    }

    pub fn is_empty(&self) -> bool {
        self.purposes.is_empty()
    }

    /// Ends the batch. The last message before the end is asked to acknowledge, so that silence cannot pass for success.
    pub fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        self.frame(BATCH_END, REQUEST | ACKNOWLEDGE, 0, SUBSYSTEM.to_be_bytes(), &[]);
        (self.bytes, self.purposes)
    }

    fn frame(&mut self, kind: u16, flags: u16, family: u8, resource: [u8; 2], body: &[u8]) {
        let length = u32::try_from(16 + 4 + body.len()).expect("messages are built below 4 GiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource);
        self.bytes.extend_from_slice(body);
        pad(&mut self.bytes);
        self.sequence += 1;
    }
}

/// One answer of the kernel: the sequence number it answers and the errno, zero for an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub sequence: u32,
    pub errno: i32,
}

const NLMSG_ERROR: u16 = 2;

/// Reads the answers in a datagram.
pub fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while let Some((header, _)) = bytes.split_at_checked(16) {
        let number = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = number(0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = bytes.get(16..length) else { break };
        if kind == NLMSG_ERROR
            && let Some(errno) = body.get(..4)
        {
            let errno = i32::from_ne_bytes([errno[0], errno[1], errno[2], errno[3]]);
            found.push(Answer { sequence: number(8), errno: -errno });
        }
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let inner = Attributes::new().text(1, "ab");
        let bytes = Attributes::new().nested(2, &inner).number(3, 1);
        let expected: [u8; 20] =
            [12, 0, 2, 0x80, 7, 0, 1, 0, b'a', b'b', 0, 0, 8, 0, 3, 0, 0, 0, 0, 1];
        assert_eq!(bytes.as_bytes(), expected);
    }

    #[test]
    fn a_truncated_answer_is_no_answer() {
        let mut answer = Vec::new();
        answer.extend_from_slice(&36_u32.to_ne_bytes());
        answer.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer.extend_from_slice(&[0, 0]);
        answer.extend_from_slice(&7_u32.to_ne_bytes());
        answer.extend_from_slice(&[0; 4]);
        answer.extend_from_slice(&(-17_i32).to_ne_bytes());
        answer.extend_from_slice(&[0; 16]);
        assert_eq!(answers(&answer), [Answer { sequence: 7, errno: 17 }]);
        for length in 0..answer.len() {
            assert!(answers(&answer[..length]).is_empty());
        }
    }
}
