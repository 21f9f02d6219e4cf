//! Questions in, answers out: the wire format and its limits.
//!
//! What comes from the network is parsed once, here. A packet that is no question is dropped; one that is a wrong question
//! is told so; neither can do more.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

/// What a client that says nothing else can take over UDP.
const PLAIN: u16 = 512;
/// What we say we can take, and the most we send over UDP: it crosses every network in one piece.
pub const PAYLOAD: u16 = 1232;
const HEADER: usize = 12;

/// A question that can be answered.
#[derive(Debug, Clone)]
pub struct Question {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    query: Query,
    payload: Option<u16>,
}

/// What a packet is.
#[derive(Debug)]
pub enum Packet {
    /// Not worth an answer.
    Noise,
    /// To be answered with this at once.
    Wrong(Vec<u8>),
    /// A question.
    Question(Question),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub code: ResponseCode,
    /// Whether the cluster's zone says so.
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Reply {
    /// Only a code.
    pub fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

impl Question {
    pub fn name(&self) -> &Name {
        self.query.name()
    }

    pub fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// The answer in wire format. Over UDP it is cut to what the client can take.
    pub fn answer(&self, reply: &Reply, udp: bool) -> Option<Vec<u8>> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.authoritative = reply.authoritative;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.response_code = reply.code;
        message.add_query(self.query.clone());
        message.add_answers(reply.answers.iter().cloned());
        message.add_authorities(reply.authorities.iter().cloned());
        message.add_additionals(reply.additionals.iter().cloned());
        if self.payload.is_some() {
            message.set_edns(edns());
        }
        let limit = self.payload.unwrap_or(PLAIN).clamp(PLAIN, PAYLOAD);
        let limit = if udp { limit } else { u16::MAX };
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        // What is additional may be left out without a word.
        message.additionals.clear();
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        message.truncate().to_vec().ok()
    }
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    edns
}

/// Reads a packet from a client.
pub fn read(bytes: &[u8]) -> Packet {
    let [high, low, flags, ..] = bytes else { return Packet::Noise };
    if bytes.len() < HEADER || flags & 0x80 != 0 {
        // An answer to an answer could go round for ever.
        return Packet::Noise;
    }
    let id = u16::from_be_bytes([*high, *low]);
    let wrong = |code| {
        let bytes = Message::error_msg(id, OpCode::Query, code).to_vec();
        bytes.map_or(Packet::Noise, Packet::Wrong)
    };
    let Ok(message) = Message::from_vec(bytes) else { return wrong(ResponseCode::FormErr) };
    if message.metadata.op_code != OpCode::Query {
        return wrong(ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else { return wrong(ResponseCode::FormErr) };
    let question = Question {
        id,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        query: query.clone(),
        payload: message.edns.as_ref().map(Edns::max_payload),
    };
    let refuse = |code| match question.answer(&Reply::code(code), true) {
        Some(bytes) => Packet::Wrong(bytes),
        None => Packet::Noise,
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return refuse(ResponseCode::BADVERS);
    }
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return refuse(ResponseCode::Refused);
    }
    if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(ResponseCode::Refused);
    }
    Packet::Question(question)
}

/// A question of ours to a resolver.
pub fn ask(id: u16, name: &Name, kind: RecordType) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    message.set_edns(edns());
    message.to_vec().ok()
}

/// The answer of a resolver to that question; nothing when it answers another.
pub fn answered(bytes: &[u8], id: u16, name: &Name, kind: RecordType) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let [query] = message.queries.as_slice() else { return None };
    let ours = message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && query.name() == name
        && query.query_type() == kind;
    ours.then_some(message)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{RData, rdata::A};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question(bytes: &[u8]) -> Question {
        match read(bytes) {
            Packet::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn records(count: u8) -> Reply {
        let record =
            |i| Record::from_rdata(name("web.shop."), 5, RData::A(A([10, 0, 0, i].into())));
        Reply { answers: (0..count).map(record).collect(), ..Reply::code(ResponseCode::NoError) }
    }

    #[test]
    fn cuts_to_what_the_client_takes() {
        let mut plain = Message::new(7, MessageType::Query, OpCode::Query);
        plain.add_query(Query::query(name("web.shop."), RecordType::A));
        let plain = question(&plain.to_vec().unwrap());
        let edns = question(&ask(7, &name("web.shop."), RecordType::A).unwrap());
        let sent = |question: &Question, count, udp| {
            let bytes = question.answer(&records(count), udp).unwrap();
            let message = Message::from_vec(&bytes).unwrap();
            (bytes.len() <= 1232, message.answers.len(), message.metadata.truncation)
        };
        assert_eq!(sent(&plain, 20, true), (true, 20, false));
        assert_eq!(sent(&plain, 60, true), (true, 0, true));
        assert_eq!(sent(&edns, 60, true), (true, 60, false));
        assert_eq!(sent(&edns, 200, true), (true, 0, true));
        assert_eq!(sent(&edns, 200, false), (false, 200, false));
    }

    #[test]
    fn tells_what_is_wrong() {
        let code = |message: &Message| match read(&message.to_vec().unwrap()) {
            Packet::Wrong(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
            other => panic!("{other:?}"),
        };
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        assert_eq!(code(&message), ResponseCode::FormErr);
        message.add_query(Query::query(name("a."), RecordType::AXFR));
        assert_eq!(code(&message), ResponseCode::Refused);
        let mut edns = edns();
        edns.set_version(1);
        message.set_edns(edns);
        assert_eq!(code(&message), ResponseCode::BADVERS);
        let update = Message::new(7, MessageType::Query, OpCode::Update);
        assert_eq!(code(&update), ResponseCode::NotImp);
        let answer = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert!(matches!(read(&answer), Packet::Noise));
        assert!(matches!(read(&[0; 11]), Packet::Noise));
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Packet::Question(question) = read(&bytes) {
                let _answer = question.answer(&records(3), true);
            }
            let _answer = answered(&bytes, 1, &name("a."), RecordType::A);
        }

        #[test]
        fn no_damaged_question_does_harm(at in 0_usize..40, byte in any::<u8>(), cut in 0_usize..60) {
            let mut bytes = ask(7, &name("web.shop.svc.cluster.local."), RecordType::A).unwrap();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            if let Packet::Question(question) = read(&bytes) {
                let _answer = question.answer(&records(3), true);
            }
        }
    }
}
