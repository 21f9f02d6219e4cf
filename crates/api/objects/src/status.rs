//! The API's answer to what went wrong, and the errors of single fields.

use std::borrow::Cow;

use serde_json::{Value, json};

/// What a Status is about and why, in the words of the API.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The HTTP code.
    pub code: u16,
    /// The word clients act on, `NotFound`.
    pub reason: Cow<'static, str>,
    /// The sentence people read.
    pub message: String,
    /// Group, kind or resource, and name; empty when it is about no object.
    pub subject: Box<Subject>,
    /// Causes: reason, message, field.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds.
    pub retry_after: Option<u32>,
    /// For a list that can only go on inconsistently: where.
    pub next: Option<String>,
}

/// The object a Status is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The API group.
    pub group: String,
    /// The kind or the resource.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The unique id.
    pub uid: String,
}

impl Subject {
    /// Something of a resource of a group.
    pub fn new(group: &str, kind: &str, name: &str) -> Self {
        Self { group: group.into(), kind: kind.into(), name: name.into(), uid: String::new() }
    }

    /// `deployments.apps "web"`.
    fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => format!("{} \"{}\"", self.kind, self.name),
            group => format!("{}.{group} \"{}\"", self.kind, self.name),
        }
    }
}

/// One cause among several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The word, `FieldValueRequired`.
    pub reason: String,
    /// The sentence.
    pub message: String,
    /// The path, `spec.ports[0].port`.
    pub field: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A status about no object.
    pub fn new(
        code: u16,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        let (subject, causes) = (Box::default(), Vec::new());
        let (reason, message) = (reason.into(), message.into());
        Self { code, reason, message, subject, causes, retry_after: None, next: None }
    }

    fn about(code: u16, reason: &'static str, subject: Subject, message: String) -> Self {
        Self { subject: Box::new(subject), ..Self::new(code, reason, message) }
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(subject: Subject) -> Self {
        let message = format!("{} not found", subject.qualified());
        Self::about(404, "NotFound", subject, message)
    }

    /// 409 for a name taken.
    #[must_use]
    pub fn already_exists(subject: Subject) -> Self {
        let message = format!("{} already exists", subject.qualified());
        Self::about(409, "AlreadyExists", subject, message)
    }

    /// 409 for a change that came too late.
    #[must_use]
    pub fn conflict(subject: Subject, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {}: {why}", subject.qualified());
        Self::about(409, "Conflict", subject, message)
    }

    /// 403 for what somebody may not do.
    #[must_use]
    pub fn forbidden(subject: Subject, why: &str) -> Self {
        let name = match (subject.kind.is_empty(), subject.name.is_empty()) {
            (true, _) => String::new(),
            (false, true) if subject.group.is_empty() => format!("{} ", subject.kind),
            (false, true) => format!("{}.{} ", subject.kind, subject.group),
            (false, false) => format!("{} ", subject.qualified()),
        };
        let message = format!("{name}is forbidden: {why}");
        Self::about(403, "Forbidden", subject, message)
    }

    /// 422 with the errors of fields; the subject's kind is the kind, not the resource.
    #[must_use]
    pub fn invalid(subject: Subject, errors: &[FieldError]) -> Self {
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} is invalid: {text}", subject.qualified());
        let causes = errors.iter().map(FieldError::cause).collect();
        Self { causes, ..Self::about(422, "Invalid", subject, message) }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 410 for a revision that is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The object as sent to clients.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut details = serde_json::Map::new();
        let subject = [
            ("name", &self.subject.name),
            ("group", &self.subject.group),
            ("kind", &self.subject.kind),
            ("uid", &self.subject.uid),
        ];
        for (name, text) in subject.into_iter().filter(|(_, text)| !text.is_empty()) {
            details.insert(name.into(), Value::String(text.clone()));
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let mut value = json!({"reason": cause.reason, "message": cause.message});
                if !cause.field.is_empty() {
                    value["field"] = Value::String(cause.field.clone());
                }
                value
            });
            details.insert("causes".into(), causes.collect());
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(next) = &self.next {
            status["metadata"]["continue"] = Value::String(next.clone());
        }
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status["code"] = self.code.into();
        status
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    kind: Wrong,
    path: String,
    value: Option<Value>,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    NotFound,
    TooLong,
    TooMany,
}

impl FieldError {
    fn new(kind: Wrong, path: &str, value: Option<&Value>, detail: String) -> Self {
        Self { kind, path: path.into(), value: value.cloned(), detail }
    }

    /// It must be there.
    #[must_use]
    pub fn required(path: &str, detail: &str) -> Self {
        Self::new(Wrong::Required, path, None, detail.into())
    }

    /// It is malformed.
    #[must_use]
    pub fn invalid(path: &str, value: &Value, detail: impl Into<String>) -> Self {
        Self::new(Wrong::Invalid, path, Some(value), detail.into())
    }

    /// It is none of the words known.
    #[must_use]
    pub fn not_supported(path: &str, value: &Value, known: &[&str]) -> Self {
        let known: Vec<_> = known.iter().map(|word| format!("\"{word}\"")).collect();
        let detail = format!("supported values: {}", known.join(", "));
        Self::new(Wrong::NotSupported, path, Some(value), detail)
    }

    /// It is there twice.
    #[must_use]
    pub fn duplicate(path: &str, value: &Value) -> Self {
        Self::new(Wrong::Duplicate, path, Some(value), String::new())
    }

    /// It may not be there, or not change.
    #[must_use]
    pub fn forbidden(path: &str, detail: impl Into<String>) -> Self {
        Self::new(Wrong::Forbidden, path, None, detail.into())
    }

    /// It names something that is not there.
    #[must_use]
    pub fn not_found(path: &str, value: &Value) -> Self {
        Self::new(Wrong::NotFound, path, Some(value), String::new())
    }

    /// It has too many bytes.
    #[must_use]
    pub fn too_long(path: &str, most: usize) -> Self {
        Self::new(Wrong::TooLong, path, None, format!("may not be more than {most} bytes"))
    }

    /// It has too many elements.
    #[must_use]
    pub fn too_many(path: &str, count: usize, most: usize) -> Self {
        let detail = format!("must have at most {most} items");
        Self::new(Wrong::TooMany, path, Some(&count.into()), detail)
    }

    /// The path of the field.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    fn words(&self) -> (&'static str, &'static str) {
        match self.kind {
            Wrong::Required => ("FieldValueRequired", "Required value"),
            Wrong::Invalid => ("FieldValueInvalid", "Invalid value"),
            Wrong::NotSupported => ("FieldValueNotSupported", "Unsupported value"),
            Wrong::Duplicate => ("FieldValueDuplicate", "Duplicate value"),
            Wrong::Forbidden => ("FieldValueForbidden", "Forbidden"),
            Wrong::NotFound => ("FieldValueNotFound", "Not found"),
            Wrong::TooLong => ("FieldValueTooLong", "Too long"),
            Wrong::TooMany => ("FieldValueTooMany", "Too many"),
        }
    }

    fn body(&self) -> String {
        let mut text = self.words().1.to_owned();
        if let Some(value) = &self.value {
            text = format!("{text}: {value}");
        }
        if !self.detail.is_empty() {
            text = format!("{text}: {}", self.detail);
        }
        text
    }

    /// As one of the causes of a Status.
    #[must_use]
    pub fn cause(&self) -> Cause {
        Cause { reason: self.words().0.into(), message: self.body(), field: self.path.clone() }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_like_the_api() {
        let status = Status::not_found(Subject::new("apps", "deployments", "web"));
        assert_eq!(status.message, "deployments.apps \"web\" not found");
        let errors = [
            FieldError::required("spec.selector", ""),
            FieldError::not_supported("spec.type", &json!("x"), &["A", "B"]),
        ];
        let status = Status::invalid(Subject::new("apps", "Deployment", "web"), &errors);
        assert_eq!(
            status.message,
            "Deployment.apps \"web\" is invalid: [spec.selector: Required value, \
             spec.type: Unsupported value: \"x\": supported values: \"A\", \"B\"]"
        );
        let value = status.to_value();
        assert_eq!(value["details"]["causes"][0]["field"], "spec.selector");
        assert_eq!(value["code"], 422);
    }
}
