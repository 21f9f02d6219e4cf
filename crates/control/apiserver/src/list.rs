//! Lists: consistent pages, selected by labels and fields.

use berth_objects::{Object, Status};
use berth_store::{Range, Revision, StoreError};
use http::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::Call;
use crate::service::json as respond;
use crate::{Body, convert, registry, status};

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    /// The revision of the first page; absent once that was compacted and the client goes on inconsistently.
    rv: Option<u64>,
    /// The last key seen.
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        berth_objects::base64_encode(json!(self).to_string().as_bytes())
    }

    fn decode(text: &str) -> Option<Self> {
        serde_json::from_slice(&berth_objects::base64_decode(text)?).ok()
    }
}

/// What a list found.
pub(crate) struct Found {
    pub items: Vec<Value>,
    pub revision: Revision,
    pub next: Option<String>,
    pub remaining: Option<u64>,
}

pub(crate) async fn list(call: &Call) -> Result<Response<Body>, Status> {
    let found = find(call, call.query.number("limit")?.unwrap_or(0)).await?;
    let mut metadata = json!({"resourceVersion": found.revision.to_string()});
    if let Some(next) = found.next {
        metadata["continue"] = next.into();
    }
    if let Some(remaining) = found.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let list = call.form.list(call.resource(), found.items, metadata, call.shared.now());
    Ok(respond(200, &list))
}

/// The revision the client insists on.
fn revision(call: &Call, token: Option<&Continue>) -> Result<Option<Revision>, Status> {
    let wanted = call.query.number("resourceVersion")?;
    let rule = call.query.text("resourceVersionMatch");
    if let Some(token) = token {
        if !rule.is_empty() {
            let message = "resourceVersionMatch is forbidden when continue is provided";
            return Err(Status::bad_request(message));
        }
        if wanted.is_some_and(|wanted| wanted > 0) {
            let message = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(message));
        }
        return Ok(token.rv.map(Revision));
    }
    // With a limit, a revision without a rule has always meant that very one.
    let limited = call.query.number("limit")?.unwrap_or(0) > 0;
    match (rule, wanted) {
        ("", Some(exact)) if exact > 0 && limited => Ok(Some(Revision(exact))),
        ("Exact", Some(exact)) if exact > 0 => Ok(Some(Revision(exact))),
        ("Exact", _) => {
            Err(Status::bad_request("resourceVersionMatch \"Exact\" needs a resourceVersion"))
        }
        ("" | "NotOlderThan", Some(wanted)) if wanted > call.shared.store.current().0 => {
            let (requested, current) = (Revision(wanted), call.shared.store.current());
            Err(status::store(StoreError::Future { requested, current }))
        }
        ("", _) | ("NotOlderThan", Some(_)) => Ok(None),
        ("NotOlderThan", None) if call.query.contains("sendInitialEvents") => Ok(None),
        ("NotOlderThan", None) => {
            let message = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            Err(Status::bad_request(message))
        }
        (other, _) => {
            let message = format!("resourceVersionMatch: Unsupported value: \"{other}\"");
            Err(Status::bad_request(message))
        }
    }
}

/// Finds at most `limit` objects, zero meaning all.
pub(crate) async fn find(call: &Call, limit: u64) -> Result<Found, Status> {
    let (labels, fields) = (call.labels()?, call.fields()?);
    let prefix = registry::prefix(call.resource(), &call.namespace);
    let token = match call.query.text("continue") {
        "" => None,
        text => {
            let invalid = || Status::bad_request("continue key is not valid");
            let token = Continue::decode(text).ok_or_else(invalid)?;
            Some(if token.after.starts_with(&prefix) { token } else { return Err(invalid()) })
        }
    };
    let mut range = Range {
        prefix: prefix.into(),
        start_after: token.as_ref().map(|token| token.after.clone().into()),
        limit: 0,
        at: revision(call, token.as_ref())?,
    };
    let everything = labels.is_empty() && fields.is_empty();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut found = Found { items: Vec::new(), revision: Revision(0), next: None, remaining: None };
    loop {
        range.limit = if limit == 0 { 0 } else { limit - found.items.len() };
        let page = match call.shared.store.range(range.clone()).await {
            Ok(page) => page,
            Err(StoreError::Compacted { .. }) => return Err(expired(token)),
            Err(error) => return Err(status::store(error)),
        };
        range.at = Some(page.revision);
        found.revision = page.revision;
        let last = page.records.last().map(|record| record.key.clone());
        let objects = page.records.iter().map(|record| registry::decode(call.resource(), record));
        let mut objects = objects.collect::<Result<Vec<_>, Status>>()?;
        convert::shown(&call.shared, call.resource(), &mut objects).await?;
        for object in objects {
            if everything || (labels.matches(object.labels()) && fields.matches(&object)) {
                found.items.push(object);
            }
        }
        let Some(last) = last.filter(|_| page.remaining > 0) else { return Ok(found) };
        if found.items.len() >= limit {
            let after = String::from_utf8_lossy(&last).into_owned();
            found.next = Some(Continue { rv: Some(page.revision.0), after }.encode());
            found.remaining = everything.then_some(page.remaining);
            return Ok(found);
        }
        range.start_after = Some(last);
    }
}

/// The first page's revision is gone; the client may go on with what is there now.
fn expired(token: Option<Continue>) -> Status {
    let message = "The provided continue parameter is too old to display a consistent list result. \
        You can start a new list without the continue parameter, or use the continue token in this \
        response to retrieve the remainder of the results.";
    let mut status = Status::expired(message);
    status.next = token.map(|token| Continue { rv: None, after: token.after }.encode());
    status
}
