//! Lists: consistent pages, selected by labels and fields.

use berth_objects::{Object, Status};
use berth_store::{Page, Range, Revision, StoreError};
use http::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::Call;
use crate::output::Form;
use crate::service::{json as respond, raw};
use crate::{Body, convert, registry, splice, status};

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
    pub walked: Walked,
}

/// How far a list came.
pub(crate) struct Walked {
    pub revision: Revision,
    next: Option<String>,
    remaining: Option<u64>,
}

impl Walked {
    fn metadata(self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = self.next {
            metadata["continue"] = next.into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

pub(crate) async fn list(call: &Call) -> Result<Response<Body>, Status> {
    let limit = call.query.number("limit")?.unwrap_or(0);
    let everything = call.labels()?.is_empty() && call.fields()?.is_empty();
    if call.form == Form::Whole && everything && splice::fits(call.resource()) {
        return list_as_stored(call, limit).await;
    }
    let found = find(call, limit).await?;
    let metadata = found.walked.metadata();
    let list = call.form.list(call.resource(), found.items, metadata, call.shared.now());
    Ok(respond(200, &list))
}

/// A list of whole objects, without a look into them.
async fn list_as_stored(call: &Call, limit: u64) -> Result<Response<Body>, Status> {
    let (mut items, mut taken) = (Vec::new(), 0);
    let mut walk = Walk::new(call, limit, false)?;
    let walked = loop {
        let page = walk.page(call).await?;
        taken += page.records.len();
        for record in &page.records {
            if !items.is_empty() {
                items.push(b',');
            }
            splice::append(record, &mut items)?;
        }
        if let Some(walked) = walk.went(&page, page.records.len(), taken) {
            break walked;
        }
    };
    let metadata = walked.metadata();
    let resource = call.resource();
    let head = json!({"kind": format!("{}List", resource.kind),
        "apiVersion": resource.api_version(), "metadata": metadata});
    let head = head.to_string();
    let mut text = Vec::with_capacity(head.len() + items.len() + 16);
    text.extend_from_slice(head.strip_suffix('}').unwrap_or(&head).as_bytes());
    text.extend_from_slice(b",\"items\":[");
    text.append(&mut items);
    text.extend_from_slice(b"]}");
    Ok(raw(200, "application/json", text))
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
    let everything = labels.is_empty() && fields.is_empty();
    let mut items = Vec::new();
    let mut walk = Walk::new(call, limit, !everything)?;
    loop {
        let page = walk.page(call).await?;
        let objects = page.records.iter().map(|record| registry::decode(call.resource(), record));
        let mut objects = objects.collect::<Result<Vec<_>, Status>>()?;
        convert::shown(&call.shared, call.resource(), &mut objects).await?;
        let mut seen = 0;
        for object in objects {
            if walk.is_full(items.len()) {
                break;
            }
            seen += 1;
            if everything || (labels.matches(object.labels()) && fields.matches(&object)) {
                items.push(object);
            }
        }
        if let Some(mut walked) = walk.went(&page, seen, items.len()) {
            // How many more would be selected nobody has counted.
            walked.remaining = walked.remaining.filter(|_| everything);
            return Ok(Found { items, walked });
        }
    }
}

/// On the way through the records of a list.
struct Walk {
    range: Range,
    token: Option<Continue>,
    /// Zero is none.
    limit: usize,
    /// How many records the next page has.
    size: usize,
    /// Whether only some records are taken. Then the pages grow: who looks for one among many would otherwise read as many
    /// pages as there are records.
    selects: bool,
}

/// Pages grow up to this many records, all of which are held at once.
const LARGEST: usize = 1_000;

impl Walk {
    fn new(call: &Call, limit: u64, selects: bool) -> Result<Self, Status> {
        let prefix = registry::prefix(call.resource(), &call.namespace);
        let token = match call.query.text("continue") {
            "" => None,
            text => {
                let invalid = || Status::bad_request("continue key is not valid");
                let token = Continue::decode(text).ok_or_else(invalid)?;
                Some(if token.after.starts_with(&prefix) { token } else { return Err(invalid()) })
            }
        };
        let range = Range {
            prefix: prefix.into(),
            start_after: token.as_ref().map(|token| token.after.clone().into()),
            limit: 0,
            at: revision(call, token.as_ref())?,
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Self { range, token, limit, size: limit, selects })
    }

    /// The next records.
    async fn page(&mut self, call: &Call) -> Result<Page, Status> {
        self.range.limit = self.size;
        let page = match call.shared.store.range(self.range.clone()).await {
            Ok(page) => page,
            Err(StoreError::Compacted { .. }) => return Err(expired(self.token.take())),
            Err(error) => return Err(status::store(error)),
        };
        self.range.at = Some(page.revision);
        if self.selects && self.size > 0 {
            self.size = self.size.max((self.size * 2).min(LARGEST));
        }
        Ok(page)
    }

    /// Whether there is room for no more than was taken.
    fn is_full(&self, taken: usize) -> bool {
        self.limit > 0 && taken >= self.limit
    }

    /// Takes note of how many of a page's records were looked at, and how many were taken so far; if the walk ends here,
    /// says how far the list came.
    fn went(&mut self, page: &Page, seen: usize, taken: usize) -> Option<Walked> {
        let revision = page.revision;
        let remaining = page.remaining + (page.records.len() - seen) as u64;
        let last = seen.checked_sub(1).map(|last| page.records[last].key.clone());
        let Some(last) = last.filter(|_| remaining > 0) else {
            return Some(Walked { revision, next: None, remaining: None });
        };
        if self.is_full(taken) {
            let after = String::from_utf8_lossy(&last).into_owned();
            let next = Some(Continue { rv: Some(revision.0), after }.encode());
            return Some(Walked { revision, next, remaining: Some(remaining) });
        }
        self.range.start_after = Some(last);
        None
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
