//! What a request leaves in the audit log.

use std::net::SocketAddr;
use std::sync::Arc;

use berth_audit::{Asked, Journal, Level, Policy};
use berth_objects::{Object, Status};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::aggregation::{self, Wanted};
use crate::forward::Foreign;
use crate::kinds::Kinds;
use crate::path::{self, Query, Target};
use crate::service::{header, verb_of};
use crate::{Body, Identity, body, input};

/// What is recorded, and where.
#[derive(Clone)]
pub struct Audit {
    /// What.
    pub policy: Arc<Policy>,
    /// Where.
    pub journal: Journal,
}

/// Why a request was let through; travels in the extensions of the response.
#[derive(Clone)]
pub(crate) struct Reason(pub String);

/// What admission wants kept: keys and values; travels in the extensions of the response.
#[derive(Clone)]
pub(crate) struct Notes(pub Vec<(String, String)>);

/// The name of what was created, which the path does not have; travels in the extensions of the response.
#[derive(Clone)]
pub(crate) struct Created(pub String);

/// What one request leaves behind.
pub(crate) struct Trail {
    /// Whether it was recorded.
    ended: bool,
    audit: Audit,
    level: Level,
    id: String,
    received: Timestamp,
    event: Value,
    /// Whether the answer goes on for as long as the client likes.
    long: bool,
}

/// A path as the log describes it.
struct Described {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    long: bool,
}

fn describe(parts: &Parts, kinds: &Kinds) -> Described {
    let mut described = Described {
        verb: parts.method.as_str().to_lowercase(),
        group: String::new(),
        version: String::new(),
        resource: String::new(),
        subresource: String::new(),
        namespace: String::new(),
        name: String::new(),
        long: false,
    };
    if let Some((_, words)) = aggregation::of_path(kinds, parts.uri.path()) {
        let wanted = Wanted::parse(&words, &parts.method, &Query::parse(parts.uri.query()));
        let long = wanted.lasts();
        let Wanted { verb, group, version, resource, subresource, namespace, name } = wanted;
        if resource.is_empty() {
            return Described { verb, ..described };
        }
        return Described { verb, group, version, resource, subresource, namespace, name, long };
    }
    let Ok(Target::Resource(target)) = path::parse(parts.uri.path(), kinds) else {
        return described;
    };
    let resource = target.handle.get();
    let query = Query::parse(parts.uri.query());
    let watch = target.watch || query.flag("watch");
    if let Some(verb) = verb_of(&parts.method, !target.name.is_empty(), watch) {
        verb.clone_into(&mut described.verb);
    }
    resource.group.clone_into(&mut described.group);
    resource.version.clone_into(&mut described.version);
    resource.plural.clone_into(&mut described.resource);
    let part = target.subresource.map_or("", berth_objects::Subresource::name);
    part.clone_into(&mut described.subresource);
    described.long = described.verb == "watch"
        || matches!(part, "exec" | "attach" | "portforward" | "proxy")
        || (part == "log" && query.flag("follow"));
    described.namespace = target.namespace;
    described.name = target.name;
    described
}

impl Trail {
    /// Begins a trail, unless the policy wants nothing of this request. `asker` is who asked, `acting` as whom.
    pub fn begin(
        audit: &Audit,
        kinds: &Kinds,
        parts: &Parts,
        id: &str,
        received: Timestamp,
        peer: Option<SocketAddr>,
        (asker, acting): (&Identity, Option<&Identity>),
    ) -> Option<Self> {
        let described = describe(parts, kinds);
        let asked = Asked {
            user: &asker.user,
            groups: &asker.groups,
            verb: &described.verb,
            group: &described.group,
            resource: &described.resource,
            subresource: &described.subresource,
            namespace: &described.namespace,
            name: &described.name,
            path: parts.uri.path(),
        };
        let level = audit.policy.level(&asked);
        if level == Level::None {
            return None;
        }
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": format!("{level:?}"),
            "auditID": id,
            "stage": if described.long { "ResponseStarted" } else { "ResponseComplete" },
            "requestURI": parts.uri.path_and_query().map_or("", |whole| whole.as_str()),
            "verb": described.verb,
            "user": asker.to_value(),
        });
        if let Some(acting) = acting {
            event["impersonatedUser"] = acting.to_value();
        }
        if let Some(peer) = peer {
            event["sourceIPs"] = json!([peer.ip().to_string()]);
        }
        let agent = header(&parts.headers, "user-agent");
        if !agent.is_empty() {
            event["userAgent"] = agent.into();
        }
        if !described.resource.is_empty() {
            let fields = [
                ("resource", &described.resource),
                ("namespace", &described.namespace),
                ("name", &described.name),
                ("apiGroup", &described.group),
                ("apiVersion", &described.version),
                ("subresource", &described.subresource),
            ];
            for (field, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
                event["objectRef"][field] = text.as_str().into();
            }
        }
        let (audit, id) = (audit.clone(), id.to_owned());
        Some(Self { ended: false, audit, level, id, received, event, long: described.long })
    }

    /// Keeps what was sent, if the policy wants that. The request stays whole.
    pub async fn take_request(&mut self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let writes = matches!(
            *request.method(),
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE
        );
        if self.level < Level::Request || !writes || self.long {
            return Ok(request);
        }
        let (parts, sent) = request.into_parts();
        let bytes = body::collect(sent).await?;
        let kind = input::media_type(&parts.headers);
        let kind = if kind.ends_with("+json") { "application/json" } else { kind };
        let kind = if kind.ends_with("+yaml") { "application/yaml" } else { kind };
        if !bytes.is_empty()
            && let Ok(object) = input::parse(kind, &bytes)
        {
            self.event["requestObject"] = bare(object);
        }
        Ok(Request::from_parts(parts, body::full(bytes)))
    }

    /// Ends the trail: records it with the outcome. The response stays whole.
    pub async fn end(mut self, response: Response<Body>, now: Timestamp) -> Response<Body> {
        let code = response.status().as_u16();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code});
        if let Some(Created(name)) = response.extensions().get::<Created>() {
            self.event["objectRef"]["name"] = name.as_str().into();
        }
        let reason = response.extensions().get::<Reason>().map(|reason| reason.0.clone());
        if code == 403 || reason.is_some() {
            let decision = if reason.is_some() { "allow" } else { "forbid" };
            self.event["annotations"] = json!({
                "authorization.k8s.io/decision": decision,
                "authorization.k8s.io/reason": reason.unwrap_or_default(),
            });
        }
        if let Some(Notes(notes)) = response.extensions().get::<Notes>() {
            for (key, value) in notes {
                self.event["annotations"][key] = value.as_str().into();
            }
        }
        let response = self.take_response(response, code).await;
        self.event["requestReceivedTimestamp"] = precise(self.received);
        self.event["stageTimestamp"] = precise(now);
        debug_assert_eq!(self.event["auditID"], self.id.as_str());
        self.audit.journal.record(&self.event).await;
        self.ended = true;
        response
    }

    async fn take_response(&mut self, response: Response<Body>, code: u16) -> Response<Body> {
        let json = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        // Refusals are short and say why; of what was granted, only the highest level keeps the answer.
        // What another server answers may have no end.
        let foreign = response.extensions().get::<Foreign>().is_some();
        let wanted =
            !self.long && !foreign && json && (code >= 400 || self.level == Level::RequestResponse);
        if !wanted {
            return response;
        }
        let (parts, sent) = response.into_parts();
        let bytes = match sent.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => {
                tracing::warn!(error = &*error, "an answer could not be recorded");
                Bytes::new()
            }
        };
        if let Ok(object) = serde_json::from_slice::<Value>(&bytes) {
            if code >= 400 {
                self.event["responseStatus"]["reason"] = object.text(&["reason"]).into();
                self.event["responseStatus"]["message"] = object.text(&["message"]).into();
            } else {
                self.event["responseObject"] = bare(object);
            }
        }
        Response::from_parts(parts, body::full(bytes))
    }
}

/// A client that goes away takes the work on its request along, which may have acted by then, here or at another server.
impl Drop for Trail {
    fn drop(&mut self) {
        let Some(runtime) = Handle::try_current().ok().filter(|_| !self.ended) else { return };
        let mut event = self.event.take();
        event["stage"] = "Panic".into();
        event["responseStatus"] = json!({"metadata": {}, "code": 499,
            "message": "the client went away before it was answered; what it asked for may have been done"});
        event["requestReceivedTimestamp"] = precise(self.received);
        event["stageTimestamp"] = precise(Timestamp::now());
        let journal = self.audit.journal.clone();
        runtime.spawn(async move { journal.record(&event).await });
    }
}

fn precise(time: Timestamp) -> Value {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()
}

/// Without what nobody wants to read.
fn bare(mut object: Value) -> Value {
    object.unset(&["metadata", "managedFields"]);
    object
}
