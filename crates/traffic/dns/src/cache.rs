//! What resolvers have said, for as long as they allow, and never for long.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::Instant;

/// What is asked: names compare without regard to case.
pub type Asked = (Name, RecordType);

const LONGEST: Duration = Duration::from_secs(30);
const LONGEST_DENIAL: Duration = Duration::from_secs(5);
const ROOM: usize = 4096;

/// What a resolver has said.
#[derive(Debug, Clone)]
pub struct Heard {
    pub code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    at: Instant,
    until: Instant,
}

impl Heard {
    /// From a message. What fails is not to be kept.
    pub fn new(message: Message, now: Instant) -> Self {
        let code = message.metadata.response_code;
        let seconds = |ttl: u32| Duration::from_secs(u64::from(ttl));
        let keep = match code {
            ResponseCode::NoError if !message.answers.is_empty() => {
                let shortest = message.answers.iter().map(|record| record.ttl).min();
                seconds(shortest.unwrap_or(0)).min(LONGEST)
            }
            // A denial without its authority says nothing about how long it holds.
            ResponseCode::NoError | ResponseCode::NXDomain => {
                let soa = message.authorities.iter().find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                    _ => None,
                });
                seconds(soa.unwrap_or(0)).min(LONGEST_DENIAL)
            }
            _ => Duration::ZERO,
        };
        Self {
            code,
            answers: message.answers,
            authorities: message.authorities,
            at: now,
            until: now + keep,
        }
    }

    /// The records, with what is left of their time.
    pub fn records(&self, now: Instant) -> (Vec<Record>, Vec<Record>) {
        let age = now.saturating_duration_since(self.at).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let aged = |records: &Vec<Record>| {
            let mut records = records.clone();
            for record in &mut records {
                record.decrement_ttl(age);
            }
            records
        };
        (aged(&self.answers), aged(&self.authorities))
    }
}

/// The cache.
#[derive(Default)]
pub struct Cache {
    heard: HashMap<Asked, Arc<Heard>>,
    order: VecDeque<Asked>,
}

impl Cache {
    /// What has been said, if it still holds.
    pub fn get(&self, asked: &Asked, now: Instant) -> Option<Arc<Heard>> {
        self.heard.get(asked).filter(|heard| heard.until > now).cloned()
    }

    /// Keeps what was said. When there is no room the oldest goes.
    pub fn put(&mut self, asked: Asked, heard: Arc<Heard>) {
        if heard.until <= heard.at {
            return;
        }
        if self.heard.insert(asked.clone(), heard).is_none() {
            self.order.push_back(asked);
        }
        if self.order.len() > ROOM
            && let Some(oldest) = self.order.pop_front()
        {
            self.heard.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn asked(text: &str) -> Asked {
        (Name::from_ascii(text).unwrap(), RecordType::A)
    }

    fn answer(ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        let data = RData::A(A([1, 2, 3, 4].into()));
        message.add_answer(Record::from_rdata(asked("a.").0, ttl, data));
        message
    }

    #[tokio::test(start_paused = true)]
    async fn holds_as_long_as_it_may_and_tells_what_is_left() {
        let mut cache = Cache::default();
        let begin = Instant::now();
        cache.put(asked("A."), Arc::new(Heard::new(answer(10), begin)));
        cache.put(asked("b."), Arc::new(Heard::new(answer(0), begin)));
        cache.put(asked("c."), Arc::new(Heard::new(answer(86_400), begin)));
        tokio::time::advance(Duration::from_secs(4)).await;
        let now = Instant::now();
        assert_eq!(cache.get(&asked("a."), now).unwrap().records(now).0[0].ttl, 6);
        assert!(cache.get(&asked("b."), now).is_none());
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(cache.get(&asked("a."), Instant::now()).is_none());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(cache.get(&asked("c."), Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_denials_only_with_their_authority() {
        let denial = |soa: bool| {
            let mut message = Message::response(1, OpCode::Query);
            message.metadata.response_code = ResponseCode::NXDomain;
            if soa {
                let root = Name::root();
                let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 60);
                message.add_authority(Record::from_rdata(root, 60, RData::SOA(soa)));
            }
            Arc::new(Heard::new(message, Instant::now()))
        };
        let mut cache = Cache::default();
        cache.put(asked("a."), denial(true));
        cache.put(asked("b."), denial(false));
        assert!(cache.get(&asked("a."), Instant::now()).is_some());
        assert!(cache.get(&asked("b."), Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn has_bounded_room() {
        let mut cache = Cache::default();
        for i in 0..ROOM + 10 {
            cache.put(asked(&format!("n{i}.")), Arc::new(Heard::new(answer(10), Instant::now())));
        }
        assert_eq!((cache.heard.len(), cache.order.len()), (ROOM, ROOM));
        assert!(cache.get(&asked("n0."), Instant::now()).is_none());
    }
}
