//! From a question to an answer: the zone, its aliases, the rest of a search list, and what lies outside.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::time::Instant;

use crate::Index;
use crate::cache::Heard;
use crate::index::Contents;
use crate::message::Reply;
use crate::upstream::{NoAnswer, Upstream};
use crate::zone::{Said, Zone, alias_record, join, labels};

/// Aliases of aliases are followed so far.
const DEPTH: usize = 8;

/// What is known without asking anybody.
#[derive(Debug)]
pub enum Local {
    /// All.
    Done(Reply),
    /// That a resolver must be asked.
    Ask(Ask),
}

/// What is to be asked, and what becomes of the answer.
#[derive(Debug)]
pub struct Ask {
    pub target: Name,
    pub kind: RecordType,
    /// Aliases that lead from the question to the target.
    aliases: Vec<Record>,
    /// The answer when the target is not there: the target was only a guess.
    otherwise: Option<Reply>,
}

/// Answers questions.
pub struct Resolver {
    zone: Zone,
    index: Arc<Index>,
    upstream: Upstream,
}

impl Resolver {
    pub fn new(zone: Zone, index: Arc<Index>, upstream: Upstream) -> Self {
        Self { zone, index, upstream }
    }

    /// What can be said at once, from the index or from what was heard before.
    pub fn local(&self, name: &Name, kind: RecordType, source: IpAddr) -> Local {
        let index = self.index.read();
        let local = self.look(&index, name, kind, source);
        drop(index);
        match local {
            Local::Ask(ask) => match self.upstream.known(&(ask.target.clone(), ask.kind)) {
                Some(heard) => Local::Done(ask.answer(Ok(heard))),
                None => Local::Ask(ask),
            },
            done @ Local::Done(_) => done,
        }
    }

    /// Asks what could not be said at once.
    pub async fn ask(&self, ask: Ask) -> Reply {
        let heard = self.upstream.ask((ask.target.clone(), ask.kind)).await;
        ask.answer(heard)
    }

    fn look(&self, index: &Contents, name: &Name, kind: RecordType, source: IpAddr) -> Local {
        let below = self.zone.below(&labels(name));
        if below.is_some() && !index.ready {
            return Local::Done(Reply::code(ResponseCode::ServFail));
        }
        match self.zone.say(index, name, kind) {
            Said::NoName => {
                let denial = self.denial(ResponseCode::NXDomain, Vec::new());
                let below = below.unwrap_or_default();
                self.search(index, name, kind, source, &below).unwrap_or(Local::Done(denial))
            }
            said => self.follow(index, said, name, kind, Vec::new()),
        }
    }

    /// Carries on from what the zone has said about a name that it has, or that is not its own.
    fn follow(
        &self,
        index: &Contents,
        said: Said,
        name: &Name,
        kind: RecordType,
        mut aliases: Vec<Record>,
    ) -> Local {
        let (mut said, mut name) = (said, name.clone());
        while let Said::Alias(target) = said {
            aliases.push(alias_record(&name, target.clone()));
            if kind == RecordType::CNAME || aliases.len() > DEPTH {
                return Local::Done(self.records(aliases, Vec::new()));
            }
            said = self.zone.say(index, &target, kind);
            name = target;
        }
        Local::Done(match said {
            Said::Records(records, extra) => self.records([aliases, records].concat(), extra),
            Said::NoData => self.denial(ResponseCode::NoError, aliases),
            Said::NoName | Said::Alias(_) => self.denial(ResponseCode::NXDomain, aliases),
            Said::NotOurs => {
                return Local::Ask(Ask { target: name, kind, aliases, otherwise: None });
            }
        })
    }

    /// Does for a name that is not there what the asking resolver would do next: go on with its search list. That list is
    /// known from the name itself: `svc` and the namespace are the end of its first entry.
    fn search(
        &self,
        index: &Contents,
        name: &Name,
        kind: RecordType,
        source: IpAddr,
        below: &[String],
    ) -> Option<Local> {
        let [base @ .., namespace, svc] = below else { return None };
        let address = matches!(kind, RecordType::A | RecordType::AAAA);
        // A single label cannot be found further down the list.
        if svc != "svc" || base.len() < 2 || !address || !index.has_namespace(namespace) {
            return None;
        }
        if let IpAddr::V4(source) = source
            && index.namespace_at(source).is_some_and(|own| own != namespace)
        {
            // A pod of another namespace means exactly this name.
            return None;
        }
        let base_text: Vec<&str> = base.iter().map(String::as_str).collect();
        let with = |end: &[&str]| self.zone.name(&[base_text.as_slice(), end].concat());
        let absolute = join(base);
        for candidate in [with(&["svc"]), with(&[]), absolute].into_iter().flatten() {
            let said = self.zone.say(index, &candidate, kind);
            let aliases = vec![alias_record(name, candidate.clone())];
            match said {
                Said::NoName => {}
                Said::NotOurs => {
                    let otherwise = Some(self.denial(ResponseCode::NXDomain, Vec::new()));
                    return Some(Local::Ask(Ask { target: candidate, kind, aliases, otherwise }));
                }
                said => return Some(self.follow(index, said, &candidate, kind, aliases)),
            }
        }
        None
    }

    fn records(&self, answers: Vec<Record>, additionals: Vec<Record>) -> Reply {
        Reply { authoritative: true, answers, additionals, ..Reply::code(ResponseCode::NoError) }
    }

    fn denial(&self, code: ResponseCode, answers: Vec<Record>) -> Reply {
        let authorities = vec![self.zone.authority()];
        Reply { authoritative: true, answers, authorities, ..Reply::code(code) }
    }
}

impl Ask {
    fn answer(self, heard: Result<Arc<Heard>, NoAnswer>) -> Reply {
        let found = heard.as_ref().is_ok_and(|heard| heard.code == ResponseCode::NoError);
        if let Some(otherwise) = self.otherwise.filter(|_| !found) {
            return otherwise;
        }
        let Ok(heard) = heard else { return Reply::code(ResponseCode::ServFail) };
        let (answers, authorities) = heard.records(Instant::now());
        let answers = [self.aliases, answers].concat();
        Reply { answers, authorities, ..Reply::code(heard.code) }
    }
}
