//! `authorizer`: questions about what a user may do, asked step by step.

use std::sync::Arc;

use kube_cel::cel::objects::{Opaque, Value};

use crate::evaluate::{Fault, Outcome};

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// The path, for what is no resource.
    pub path: Option<String>,
    /// The API group.
    pub group: String,
    /// The plural name.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object's name, or empty.
    pub name: String,
    /// `get`, `create`.
    pub verb: String,
    /// Namespace and name of the service account that is asked about, instead of the user of the request.
    pub service_account: Option<(String, String)>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What kept it from being decided.
    pub error: Option<String>,
}

/// Answers `authorizer` in expressions. It must not block.
pub trait Authorizer {
    /// The resource of the request, without a verb: `authorizer.requestResource`.
    fn request(&self) -> Question;
    /// Judges.
    fn decide(&self, question: &Question) -> Decision;
}

/// `authorizer`, with what was said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asker {
    question: Question,
    /// Begin from the resource of the request.
    of_request: bool,
    names_resource: bool,
}

impl Opaque for Asker {
    fn runtime_type_name(&self) -> &'static str {
        "kubernetes.authorization.Authorizer"
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer(Decision);

impl Opaque for Answer {
    fn runtime_type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }
}

impl Asker {
    pub fn field(&self, name: &str) -> Option<Value> {
        let asker = Self { of_request: true, names_resource: true, ..Self::default() };
        (name == "requestResource").then(|| Value::Opaque(Arc::new(asker)))
    }

    pub fn call(
        &self,
        function: &str,
        arguments: &[Value],
        authorizer: Option<&dyn Authorizer>,
    ) -> Outcome {
        let text = |place: usize| match arguments.get(place) {
            Some(Value::String(text)) => Ok(text.as_str().to_owned()),
            _ => Err(Fault::overload()),
        };
        let mut next = self.clone();
        match (function, self.names_resource, self.question.path.is_some()) {
            ("path", false, false) => next.question.path = Some(text(0)?),
            ("serviceAccount", false, false) => {
                next.question.service_account = Some((text(0)?, text(1)?));
            }
            ("group", false, false) => next.question.group = text(0)?,
            ("resource", false, false) => {
                next.question.resource = text(0)?;
                next.names_resource = true;
            }
            ("subresource", true, _) => next.question.subresource = text(0)?,
            ("namespace", true, _) => next.question.namespace = text(0)?,
            ("name", true, _) => next.question.name = text(0)?,
            // Selectors only narrow what is asked; who may see all may see some.
            ("fieldSelector" | "labelSelector", true, _) => drop(text(0)?),
            ("check", resource, path) if resource || path => {
                let authorizer =
                    authorizer.ok_or_else(|| Fault::new("there is no authorizer here"))?;
                let mut question =
                    if self.of_request { authorizer.request() } else { self.question.clone() };
                question.verb = text(0)?;
                return Ok(Value::Opaque(Arc::new(Answer(authorizer.decide(&question)))));
            }
            _ => return Err(Fault::overload()),
        }
        Ok(Value::Opaque(Arc::new(next)))
    }
}

/// The value of a method of an answer.
pub(crate) fn of_answer(value: &Value, function: &str) -> Option<Outcome> {
    let Value::Opaque(opaque) = value else { return None };
    let Answer(decision) = opaque.downcast_ref::<Answer>()?;
    Some(match function {
        "allowed" => Ok(Value::Bool(decision.allowed)),
        "reason" => Ok(decision.reason.as_str().into()),
        "errored" => Ok(Value::Bool(decision.error.is_some())),
        "error" => Ok(decision.error.as_deref().unwrap_or_default().into()),
        _ => Err(Fault::overload()),
    })
}
