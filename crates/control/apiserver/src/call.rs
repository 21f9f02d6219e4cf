//! One request for a resource: what it names, what it wants, how it wants the answer.

use std::sync::{Arc, Mutex, PoisonError};

use berth_objects::{
    FieldSelector, Handle, LabelSelector, Object, Resource, Status, Subject, Subresource,
};
use http::header::HeaderValue;
use http::{HeaderMap, Request, Response};
use serde_json::Value;

use crate::audit::Notes;
use crate::output::Form;
use crate::path::{Query, ResourceTarget};
use crate::server::Shared;
use crate::service::{header, json, refusal};
use crate::{
    Body, Identity, accounts, delete, evict, list, metrics, patch, pods, proxies, reviews, room,
    scale, watch, write,
};

/// What to do about fields nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

pub(crate) struct Call {
    pub shared: Arc<Shared>,
    /// Who asks.
    pub identity: Identity,
    pub handle: Handle,
    pub namespace: String,
    pub name: String,
    pub subresource: Option<Subresource>,
    /// The subresource of the request where the change is made as one of the whole object.
    pub via: Option<Subresource>,
    pub query: Query,
    pub form: Form,
    /// Who is noted as the manager of fields.
    pub manager: String,
    pub dry_run: bool,
    /// The server's own work on what every cluster has: it does not depend on webhooks and policies, which may need it.
    pub own: bool,
    /// Server-side apply notes its fields itself.
    pub applies: bool,
    pub field_validation: FieldValidation,
    /// What is wrong with the body and may be tolerated.
    pub doubtful: Vec<String>,
    /// What to tell whoever asked, whatever becomes of the request.
    pub warnings: Arc<Mutex<Vec<String>>>,
    /// Keys and values for the audit log, whatever becomes of the request.
    pub notes: Arc<Mutex<Vec<(String, String)>>>,
    /// Keys of addresses and ports that turned out to be somebody else's.
    pub lost: Mutex<Vec<bytes::Bytes>>,
}

impl Call {
    pub fn new(
        shared: Arc<Shared>,
        identity: Identity,
        target: ResourceTarget,
        query: Query,
        headers: &HeaderMap,
    ) -> Result<Self, Status> {
        // The query of a proxy's request is the other server's.
        let proxied = matches!(target.subresource, Some(Subresource::Proxy(_)));
        let query = if proxied { Query::default() } else { query };
        let manager = match query.text("fieldManager") {
            "" => header(headers, "user-agent").split('/').next().unwrap_or_default(),
            manager => manager,
        };
        let manager = if manager.is_empty() { "unknown" } else { manager }.to_owned();
        if manager.len() > 128 {
            return Err(Status::bad_request("fieldManager may not be longer than 128 bytes"));
        }
        let dry_run = match query.all("dryRun") {
            [] => false,
            values if values.iter().all(|value| value == "All") => true,
            values => {
                let message =
                    format!("dryRun: Unsupported value: {values:?}: supported values: \"All\"");
                return Err(Status::bad_request(message));
            }
        };
        let field_validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                let message = format!("fieldValidation: Unsupported value: \"{other}\"");
                return Err(Status::bad_request(message));
            }
        };
        Ok(Self {
            shared,
            identity,
            handle: target.handle,
            namespace: target.namespace,
            name: target.name,
            subresource: target.subresource,
            via: None,
            form: match target.subresource {
                // Their answers are streams with forms of their own.
                Some(
                    Subresource::Log
                    | Subresource::Exec
                    | Subresource::Attach
                    | Subresource::PortForward
                    | Subresource::Proxy(_),
                ) => Form::Whole,
                _ => Form::negotiate(headers, query.text("includeObject"))?,
            },
            query,
            manager,
            dry_run,
            own: false,
            applies: false,
            field_validation,
            doubtful: Vec::new(),
            warnings: Arc::default(),
            lost: Mutex::default(),
            notes: Arc::default(),
        })
    }

    /// A call for another object of the same namespace on behalf of the same client.
    pub fn beside(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            identity: self.identity.clone(),
            handle: self.handle.clone(),
            namespace: self.namespace.clone(),
            name: String::new(),
            subresource: None,
            via: None,
            query: Query::default(),
            form: Form::Whole,
            manager: self.manager.clone(),
            dry_run: self.dry_run,
            own: self.own,
            applies: false,
            field_validation: self.field_validation,
            doubtful: Vec::new(),
            warnings: Arc::clone(&self.warnings),
            lost: Mutex::default(),
            notes: Arc::clone(&self.notes),
        }
    }

    /// What the request is about.
    pub fn resource(&self) -> &Resource<'_> {
        self.handle.get()
    }

    /// Does what the verb says, and answers with what became of it. What was noted and warned of on the way is in the answer
    /// even if it is a refusal: then it matters most.
    pub async fn run(mut self, verb: &'static str, request: Request<Body>) -> Response<Body> {
        let (warnings, notes) = (Arc::clone(&self.warnings), Arc::clone(&self.notes));
        let outcome = self.act(verb, request).await;
        let mut response = outcome.unwrap_or_else(|status| refusal(&status));
        for warning in taken(&warnings) {
            let text: String = warning.chars().filter(|c| !c.is_control()).collect();
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                response.headers_mut().append("warning", value);
            }
        }
        response.extensions_mut().insert(Notes(taken(&notes)));
        response
    }

    async fn act(
        &mut self,
        verb: &'static str,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        use Subresource::{
            Approval, Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log,
            PortForward, Proxy, Resize, Scale, Token,
        };
        if pods::is_collection(self) {
            pods::of_collection(self)?;
        }
        if self.resource().is_kept() {
            room::check(&*self.shared.options.room, &self.identity, verb, self.subresource)?;
        }
        match (self.subresource, verb) {
            (Some(Log | Exec | Attach | PortForward), "get" | "create") => {
                pods::stream(self, request).await
            }
            (Some(Proxy(_)), _) => proxies::serve(self, request).await,
            (Some(Binding), "create") => pods::bind(self, request).await,
            (Some(Eviction), "create") => evict::evict(self, request).await,
            (Some(Scale), "get") => scale::get(self).await,
            (Some(Scale), "update" | "patch") => scale::change(self, request).await,
            (Some(Token), "create") => accounts::token(self, request).await,
            (None, verb) if metrics::answers(self.resource()) => match verb {
                "get" | "list" => metrics::answer(self).await,
                _ => Err(not_allowed()),
            },
            (None, "create") if !self.resource().is_kept() => reviews::answer(self, request).await,
            (None, _) if !self.resource().is_kept() => Err(not_allowed()),
            (
                None
                | Some(Subresource::Status | Finalize | EphemeralContainers | Resize | Approval),
                "get" | "update" | "patch",
            ) => match verb {
                "get" => {
                    let object = self.read().await?;
                    Ok(self.respond(200, object))
                }
                "update" => write::update(self, request).await,
                _ => patch::patch(self, request).await,
            },
            (None, "list") => list::list(self).await,
            (None, "watch") => watch::watch(self).await,
            (None, "create") => write::create(self, request).await,
            (None, "delete") => delete::delete(self, request).await,
            (None, "deletecollection") => delete::delete_collection(self, request).await,
            (Some(_), _) | (None, _) => Err(not_allowed()),
        }
    }

    /// Adds something to be kept in the audit log.
    pub fn note(&self, notes: Vec<(String, String)>) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).extend(notes);
    }

    /// Adds warnings for whoever asked, each once.
    pub fn warn(&self, warnings: Vec<String>) {
        let mut known = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            if !known.contains(&warning) {
                known.push(warning);
            }
        }
    }

    /// One object in the form the client asked for.
    pub fn respond(&self, code: u16, object: Value) -> Response<Body> {
        json(code, &self.form.object(self.resource(), object, self.shared.now()))
    }

    /// What a Status about this request is about.
    pub fn subject(&self) -> Subject {
        Subject::new(self.resource().group, self.resource().plural, &self.name)
    }

    /// The same for complaints about the content, which speak of the kind.
    pub fn kind_subject(&self, object: &Value) -> Subject {
        Subject::new(self.resource().group, self.resource().kind, object.name())
    }

    pub fn labels(&self) -> Result<LabelSelector, Status> {
        LabelSelector::parse(self.query.text("labelSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))
    }

    pub fn fields(&self) -> Result<FieldSelector, Status> {
        let selector = FieldSelector::parse(self.query.text("fieldSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        for path in selector.paths() {
            let known = ["metadata.name", "metadata.namespace"].contains(&path)
                || self.resource().selectable.contains(&path);
            if !known {
                let message = format!("field label not supported: {path}");
                return Err(Status::bad_request(message));
            }
        }
        // Names that have never been those of the fields.
        Ok(match (self.resource().group, self.resource().kind) {
            ("", "Event") => selector.renamed("source", "source.component"),
            ("batch", "Job") => selector.renamed("status.successful", "status.succeeded"),
            _ => selector,
        })
    }
}

/// What was collected so far.
fn taken<T>(collected: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *collected.lock().unwrap_or_else(PoisonError::into_inner))
}

/// 405 for a method that a path does not have.
pub(crate) fn not_allowed() -> Status {
    let message = "the server does not allow this method on the requested resource";
    Status::new(405, "MethodNotAllowed", message)
}
