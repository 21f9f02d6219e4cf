//! Priority and fairness: how many requests are worked on at once, for whom, and who waits.
//!
//! A request belongs to the first FlowSchema that matches it and so to a priority level. Levels have seats; a level without
//! free seats borrows what others lend, or lets the request wait in one of its queues, so that a client that asks too much
//! waits behind itself and not before others. The rules are those of `flowcontrol.apiserver.k8s.io/v1`.

mod defaults;
mod gate;
mod schema;
mod state;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use berth_access::{Attributes, Identity};
use berth_objects::{Object, Status};
use http::header::HeaderValue;
use serde_json::Value;

use crate::admission::Kept;
use crate::server::Shared;
use gate::{Gate, Limits};
use schema::Schema;
use state::Changes;

pub(crate) use defaults::objects;
pub(crate) use gate::Seat;
pub(crate) use state::{begin, checked};

pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// So many requests are worked on at once, by all limited levels together.
const SEATS: usize = 600;
/// The longest a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(15);

/// A priority level.
struct Level {
    name: String,
    uid: String,
    /// Nothing for a level without limits.
    limits: Option<Limits>,
}

fn level(object: &Value) -> Level {
    let number = |path: &[&str], usual: usize| {
        object.integer(path).and_then(|it| usize::try_from(it).ok()).unwrap_or(usual)
    };
    let queuing = ["spec", "limited", "limitResponse", "queuing"];
    let queue = |field: &'static str, usual| {
        let path: Vec<&str> = queuing.iter().copied().chain([field]).collect();
        number(&path, usual)
    };
    let waits = object.text(&["spec", "limited", "limitResponse", "type"]) == "Queue";
    let limits = Limits {
        shares: number(&["spec", "limited", "nominalConcurrencyShares"], 30),
        lendable: number(&["spec", "limited", "lendablePercent"], 0),
        borrows: object
            .integer(&["spec", "limited", "borrowingLimitPercent"])
            .and_then(|it| usize::try_from(it).ok()),
        queues: if waits { queue("queues", 64) } else { 0 },
        hand: queue("handSize", 8),
        length: queue("queueLengthLimit", 50),
    };
    Level {
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
        limits: (object.text(&["spec", "type"]) == "Limited").then_some(limits),
    }
}

/// What decides whose turn it is.
pub(crate) struct Flow {
    schemas: Kept<Schema>,
    levels: Kept<Level>,
    gate: Arc<Gate>,
    changes: Arc<Changes>,
}

/// A request's turn, and what its answer says of it.
pub(crate) struct Turn {
    /// Held while the request is worked on.
    pub seat: Option<Seat>,
    schema: String,
    level: String,
}

impl Turn {
    /// Says in the answer which level the request had.
    pub fn note<B>(&self, response: &mut http::Response<B>) {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema),
            ("x-kubernetes-pf-prioritylevel-uid", &self.level),
        ] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                response.headers_mut().insert(name, value);
            }
        }
    }
}

impl Flow {
    pub fn new() -> Self {
        Self {
            schemas: Kept::new((GROUP, "v1", "flowschemas"), Schema::parse),
            levels: Kept::new((GROUP, "v1", "prioritylevelconfigurations"), level),
            gate: Arc::new(Gate::new(SEATS)),
            changes: Arc::new(Changes::new()),
        }
    }

    /// The priority levels there are.
    async fn level_names(&self, shared: &Shared) -> Result<Vec<String>, Status> {
        Ok(self.levels.all(shared).await?.iter().map(|level| level.name.clone()).collect())
    }

    /// Waits for the turn of a request.
    pub async fn admit(
        &self,
        shared: &Shared,
        identity: &Identity,
        wanted: &Attributes<'_>,
    ) -> Result<Turn, Status> {
        let schemas = self.schemas.all(shared).await?;
        let levels = self.levels.all(shared).await?;
        let matching = schemas.iter().filter(|schema| schema.matches(identity, wanted));
        let schema = matching.min_by_key(|schema| (schema.precedence, &schema.name));
        let level = schema.and_then(|schema| levels.iter().find(|it| it.name == schema.level));
        // Before there is any schema, nobody is limited: the server itself has to begin.
        let (Some(schema), Some(level)) = (schema, level) else {
            return Ok(Turn { seat: None, schema: String::new(), level: String::new() });
        };
        let turn = |seat| Turn { seat, schema: schema.uid.clone(), level: level.uid.clone() };
        if level.limits.is_none() {
            return Ok(turn(None));
        }
        let limited = levels.iter().filter_map(|it| Some((it.name.as_str(), it.limits.as_ref()?)));
        self.gate.configure(limited);
        let mut hasher = DefaultHasher::new();
        (&schema.name, schema.distinguish(identity, wanted)).hash(&mut hasher);
        match self.gate.seat(&level.name, hasher.finish(), PATIENCE).await {
            Some(seat) => Ok(turn(Some(seat))),
            None => {
                let message = "too many requests, please try again later";
                let mut status = Status::new(429, "TooManyRequests", message);
                status.retry_after = Some(1);
                Err(status)
            }
        }
    }
}
