//! Joins what we know, what we remember and what we can ask.
//!
//! Surprising: a question is answered in two calls. The first never waits and answers nearly everything, so that the
//! sockets' loops need no task for it; only what is left over costs one.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};

use crate::Shared;
use crate::plan::{Plan, Reply, plan};
use crate::upstream::Upstream;

/// Answers questions.
pub(crate) struct Resolver {
    index: Shared,
    upstream: Arc<Upstream>,
}

/// What came of a question at once.
pub(crate) enum Answer {
    Now(Reply),
    /// Somebody else has to be asked.
    Later(Later),
}

/// A question to somebody else.
pub(crate) struct Later {
    asked: (Name, RecordType),
    aliases: Vec<Record>,
}

impl Resolver {
    pub(crate) fn new(index: Shared, upstream: Arc<Upstream>) -> Self {
        Self { index, upstream }
    }

    /// Answers without waiting, if possible.
    pub(crate) fn answer(&self, name: &Name, kind: RecordType, from: IpAddr) -> Answer {
        let plan = plan(&self.index.read(), name, kind, from);
        match plan {
            Plan::Say(reply) => Answer::Now(reply),
            Plan::Forward { name, aliases } => {
                let later = Later { asked: (name, kind), aliases };
                match self.upstream.known(&later.asked) {
                    Some(reply) => Answer::Now(behind(later.aliases, reply)),
                    None => Answer::Later(later),
                }
            }
        }
    }

    /// Answers what could not be answered at once. Takes a few seconds at most.
    pub(crate) async fn ask(&self, later: Later) -> Reply {
        behind(later.aliases, self.upstream.reply(later.asked).await)
    }
}

/// A reply behind the aliases that led to it. A failure carries none: clients would take them for the whole answer.
fn behind(mut aliases: Vec<Record>, mut reply: Reply) -> Reply {
    if reply.code != ResponseCode::ServFail {
        aliases.append(&mut reply.answers);
        reply.answers = aliases;
    }
    reply
}
