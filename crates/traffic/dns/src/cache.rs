//! What the host's resolvers have said, for as long as they said it holds.
//!
//! Surprising: there is no timer. What has run out is removed when room is needed, so that an idle server sleeps.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::Instant;

use crate::plan::Reply;

/// The longest we keep an answer, whatever it says.
const LONGEST: u32 = 300;
/// The longest we keep a "no".
const LONGEST_NO: u32 = 30;
/// How long a failure stands, so that a dead resolver costs one wait and not one for every question.
const FAILURE: u32 = 2;
/// The size of all records together that we keep, in bytes as they count on the wire.
const ROOM: usize = 8 << 20;
/// What an entry costs besides its records.
const OVERHEAD: usize = 256;

/// Of which name, which records.
pub(crate) type Asked = (Name, RecordType);

#[derive(Debug)]
struct Kept {
    reply: Reply,
    since: Instant,
    until: Instant,
    size: usize,
}

#[derive(Debug)]
pub(crate) struct Cache {
    kept: HashMap<Asked, Kept>,
    size: usize,
    room: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { kept: HashMap::new(), size: 0, room: ROOM }
    }
}

impl Cache {
    /// What is known, with the time it still holds.
    pub(crate) fn reply(&self, asked: &Asked, now: Instant) -> Option<Reply> {
        let kept = self.kept.get(asked).filter(|kept| now < kept.until)?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut reply = kept.reply.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(reply)
    }

    /// Keeps a reply for as long as it says, or not at all.
    pub(crate) fn keep(&mut self, asked: Asked, reply: &Reply, now: Instant) {
        let seconds = lifetime(reply);
        let size = OVERHEAD + weigh(reply);
        if seconds == 0 || size > self.room / 8 {
            return;
        }
        if self.size + size > self.room {
            self.make_room(now);
        }
        let until = now + Duration::from_secs(seconds.into());
        let kept = Kept { reply: reply.clone(), since: now, until, size };
        self.size += size;
        if let Some(old) = self.kept.insert(asked, kept) {
            self.size -= old.size;
        }
    }

    /// Forgets what has run out, and of the rest what runs out first, until a quarter is free.
    fn make_room(&mut self, now: Instant) {
        self.kept.retain(|_, kept| now < kept.until);
        self.size = self.kept.values().map(|kept| kept.size).sum();
        let mut ends: Vec<(Instant, usize)> =
            self.kept.values().map(|kept| (kept.until, kept.size)).collect();
        ends.sort_unstable();
        let mut free = self.room - self.size.min(self.room);
        let last = ends.into_iter().take_while(|(_, size)| {
            let more = free < self.room / 4;
            free += size;
            more
        });
        if let Some((until, _)) = last.last() {
            self.kept.retain(|_, kept| until < kept.until);
            self.size = self.kept.values().map(|kept| kept.size).sum();
        }
    }
}

/// For how many seconds a reply holds (RFC 2308 for a "no").
fn lifetime(reply: &Reply) -> u32 {
    let shortest = reply.answers.iter().map(|record| record.ttl).min();
    let negative = reply.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(start) => Some(record.ttl.min(start.minimum)),
        _ => None,
    });
    match reply.code {
        ResponseCode::ServFail => FAILURE,
        ResponseCode::NoError | ResponseCode::NXDomain => match negative.min() {
            // A "no" without this record says nothing about how long it holds.
            None if reply.answers.is_empty() => 0,
            None => shortest.unwrap_or(0).min(LONGEST),
            Some(no) => no.min(shortest.unwrap_or(u32::MAX)).min(LONGEST_NO),
        },
        _ => 0,
    }
}

fn weigh(reply: &Reply) -> usize {
    let all = reply.answers.iter().chain(&reply.authorities);
    // Texts are the only data that can be large.
    all.map(|record| {
        let data = match &record.data {
            RData::TXT(text) => text.txt_data.iter().map(|part| part.len() + 16).sum(),
            RData::Unknown { rdata, .. } => rdata.anything.len(),
            _ => 0,
        };
        data + record.name.len() + size_of::<Record>()
    })
    .sum()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn address(ttl: u32) -> Reply {
        let data = RData::A(A::new(192, 0, 2, 1));
        let mut reply = Reply::of(ResponseCode::NoError);
        reply.answers.push(Record::from_rdata(name("a.test."), ttl, data));
        reply
    }

    fn asked(text: &str) -> Asked {
        (name(text), RecordType::A)
    }

    #[test]
    fn an_answer_counts_down_and_ends() {
        let mut cache = Cache::default();
        let now = Instant::now();
        cache.keep(asked("a.test."), &address(10), now);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(cache.reply(&asked("A.Test."), later(4)).unwrap().answers[0].ttl, 6);
        assert!(cache.reply(&asked("a.test."), later(10)).is_none());
    }

    #[test]
    fn a_no_holds_as_long_as_its_zone_says() {
        let mut reply = Reply::of(ResponseCode::NXDomain);
        assert_eq!(lifetime(&reply), 0);
        let start = SOA::new(name("a."), name("b."), 1, 1, 1, 1, 7);
        reply.authorities.push(Record::from_rdata(name("test."), 60, RData::SOA(start)));
        assert_eq!(lifetime(&reply), 7);
        assert_eq!(lifetime(&address(0)), 0);
        assert_eq!(lifetime(&address(9999)), LONGEST);
    }

    #[test]
    fn what_ends_first_makes_room() {
        let mut cache = Cache { room: 40_000, ..Cache::default() };
        let now = Instant::now();
        for number in 0..1000 {
            cache.keep(asked(&format!("n{number}.test.")), &address(20 + number % 200), now);
            assert!(cache.size <= cache.room);
            assert_eq!(cache.size, cache.kept.values().map(|kept| kept.size).sum::<usize>());
        }
        assert!(cache.kept.len() > 20);
    }
}
