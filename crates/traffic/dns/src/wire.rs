//! Bytes to a question, and a reply to bytes.
//!
//! Surprising: an answer that does not fit keeps the records that do, next to the truncation flag. Some C libraries do
//! not ask again over TCP, and a few addresses out of many are all they need.

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::plan::Reply;

/// The size of a datagram when the client says nothing.
const PLAIN: u16 = 512;
/// The most we put into one datagram, whatever the client says.
const LARGEST: u16 = 4096;
/// What we tell others that they may send us in one datagram.
pub(crate) const OURS: u16 = 1232;

/// A question with what its answer's envelope needs.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    metadata: Metadata,
    pub query: Query,
    /// The size the client can take, when it spoke EDNS.
    payload: Option<u16>,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// To be answered.
    Question(Question),
    /// To be answered with this, whatever it asks.
    Refused(Vec<u8>),
    /// Not a question at all; an answer to it could start a game of ping-pong.
    Noise,
}

/// Takes a datagram or message apart.
pub(crate) fn parse(bytes: &[u8]) -> Incoming {
    let Some(header) = bytes.first_chunk::<12>() else { return Incoming::Noise };
    if header[2] & 0x80 != 0 {
        return Incoming::Noise;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([header[0], header[1]]);
        let op_code = OpCode::from_u8(header[2] >> 3 & 0x0f);
        return refuse(Message::error_msg(id, op_code, ResponseCode::FormErr));
    };
    let refused = |code| {
        let mut answer = Message::new(message.id, MessageType::Response, message.op_code);
        answer.metadata = Metadata::response_from_request(&message.metadata);
        answer.metadata.response_code = code;
        if message.queries.len() == 1 {
            answer.queries.clone_from(&message.queries);
        }
        answer.edns = message.edns.as_ref().map(|_| edns());
        refuse(answer)
    };
    if message.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refused(ResponseCode::BADVERS);
    }
    let [query] = message.queries.as_slice() else { return refused(ResponseCode::FormErr) };
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return refused(ResponseCode::Refused);
    }
    Incoming::Question(Question {
        metadata: Metadata::response_from_request(&message.metadata),
        query: query.clone(),
        payload: message.edns.as_ref().map(Edns::max_payload),
    })
}

impl Question {
    /// How many bytes fit into the answer's datagram.
    pub(crate) fn datagram(&self) -> u16 {
        self.payload.unwrap_or(PLAIN).clamp(PLAIN, LARGEST)
    }

    /// The answer in at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When a record cannot be written at all.
    pub(crate) fn answer(&self, reply: Reply, limit: u16) -> Result<Vec<u8>, ProtoError> {
        let mut message = Message::new(self.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata = self.metadata;
        message.metadata.authoritative = reply.authoritative;
        message.metadata.recursion_available = true;
        message.metadata.response_code = reply.code;
        message.queries.push(self.query.clone());
        message.answers = reply.answers;
        message.authorities = reply.authorities;
        message.additionals = reply.additionals;
        message.edns = self.payload.map(|_| edns());
        let limit = usize::from(limit);
        loop {
            let bytes = message.to_vec()?;
            // Additional records are a favour; their lack is no truncation (RFC 2181, section 9).
            if bytes.len() > limit && !message.additionals.is_empty() {
                message.additionals.clear();
            } else if bytes.len() > limit && !message.answers.is_empty() {
                message.metadata.truncation = true;
                message.authorities.clear();
                let all = message.answers.len();
                message.answers.truncate((all * limit / bytes.len()).min(all - 1));
            } else if bytes.len() > limit && !message.authorities.is_empty() {
                message.metadata.truncation = true;
                message.authorities.clear();
            } else {
                return Ok(bytes);
            }
        }
    }
}

fn refuse(answer: Message) -> Incoming {
    answer.to_vec().map_or(Incoming::Noise, Incoming::Refused)
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(OURS);
    edns
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RData, Record, rdata::A};
    use proptest::prelude::*;

    use super::*;

    fn asked(payload: Option<u16>) -> Question {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("Db.Shop.").unwrap(), RecordType::A));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        match parse(&message.to_vec().unwrap()) {
            Incoming::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn reply(records: u8) -> Reply {
        let name = Name::from_ascii("Db.Shop.").unwrap();
        let data = (0..records).map(|last| RData::A(A::new(10, 0, 0, last)));
        let mut reply = Reply::of(ResponseCode::NoError);
        reply.answers = data.map(|data| Record::from_rdata(name.clone(), 5, data)).collect();
        reply
    }

    #[test]
    fn keeps_what_fits_and_says_that_it_is_not_all() {
        for (payload, limit) in
            [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(9000), 4096)]
        {
            let question = asked(payload);
            assert_eq!(question.datagram(), limit);
            let bytes = question.answer(reply(120), limit).unwrap();
            assert!(bytes.len() <= usize::from(limit));
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.truncation, limit < 4096, "{limit}");
            assert!(message.answers.len() > 20);
            assert_eq!(message.edns.is_some(), payload.is_some());
        }
    }

    #[test]
    fn repeats_the_question_as_it_was_written() {
        let message = Message::from_vec(&asked(None).answer(reply(1), 512).unwrap()).unwrap();
        assert_eq!(message.queries[0].name().to_ascii(), "Db.Shop.");
    }

    #[test]
    fn refuses_each_odd_question_in_its_own_way() {
        let code = |change: &dyn Fn(&mut Message)| {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii("db.").unwrap(), RecordType::A));
            change(&mut message);
            match parse(&message.to_vec().unwrap()) {
                Incoming::Refused(bytes) => Message::from_vec(&bytes).unwrap().response_code,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code(&|message| message.queries.clear()), ResponseCode::FormErr);
        assert_eq!(
            code(&|message| message.metadata.op_code = OpCode::Status),
            ResponseCode::NotImp
        );
        let transfer = |message: &mut Message| {
            message.queries[0].set_query_type(RecordType::AXFR);
        };
        assert_eq!(code(&transfer), ResponseCode::Refused);
        let version = |message: &mut Message| {
            message.edns = Some(Edns::new());
            message.edns.as_mut().unwrap().set_version(1);
        };
        // The code shares its number with BADSIG, and that is the name it is read as.
        assert_eq!(u16::from(code(&version)), 16);
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused_or_ignored_but_never_fatal(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            match parse(&bytes) {
                Incoming::Noise => prop_assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
                Incoming::Refused(answer) => prop_assert_eq!(&answer[..2], &bytes[..2]),
                Incoming::Question(question) => {
                    prop_assert!(question.answer(reply(40), 512).is_ok());
                }
            }
        }

        #[test]
        fn a_damaged_question_is_never_fatal(at in 0_usize..40, byte: u8, cut in 0_usize..60) {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii("db.shop.svc.").unwrap(), RecordType::A));
            message.set_edns(edns());
            let mut bytes = message.to_vec().unwrap();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            if let Incoming::Question(question) = parse(&bytes) {
                prop_assert!(question.answer(reply(40), 512).is_ok());
            }
        }
    }
}
