//! Expressions of webhooks and policies: what they see, and what their outcomes mean.

use std::collections::BTreeMap;

use berth_access::{Attributes, Identity};
use berth_cel::{Authorizer, Budget, Decision, Program, Question, Variables};
use berth_objects::{FieldError, Handle, Object, Status};
use serde_json::Value;

use super::matching::seen_as;
use super::{Asked, review};
use crate::call::Call;

/// The names that expressions may use.
const NAMES: [&str; 7] =
    ["object", "oldObject", "request", "params", "namespaceObject", "variables", "authorizer"];
/// What comes of a name that holds nothing yet.
const SCRATCH: &str = "variables.next";

/// An expression, compiled; or why it cannot be.
#[derive(Debug)]
pub(super) struct Expression {
    text: String,
    program: Result<Program, String>,
}

impl Expression {
    pub fn new(text: &str) -> Self {
        let program = Program::compile(text, &NAMES).map_err(|error| error.to_string());
        Self { text: text.trim().to_owned(), program }
    }

    /// The expression in a field, if there is one.
    pub fn at(value: &Value, field: &str) -> Option<Self> {
        Some(value.text(&[field])).filter(|text| !text.trim().is_empty()).map(Self::new)
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Expressions with names: conditions, variables, annotations.
pub(super) fn named(
    value: &Value,
    field: &str,
    name: &str,
    expression: &str,
) -> Vec<(String, Expression)> {
    let all = value.list(&[field]).iter();
    let one = |it: &Value| (it.text(&[name]).to_owned(), Expression::new(it.text(&[expression])));
    all.map(one).collect()
}

/// What is wrong with expressions in an object that configures admission.
pub(crate) fn check(object: &Value) -> Vec<FieldError> {
    const PLACES: [(&str, &[&str]); 5] = [
        ("validations", &["expression", "messageExpression"]),
        ("variables", &["expression"]),
        ("matchConditions", &["expression"]),
        ("auditAnnotations", &["valueExpression"]),
        ("mutations", &["applyConfiguration.expression", "jsonPatch.expression"]),
    ];
    let mut errors = Vec::new();
    let mut look = |path: String, text: &str| {
        if text.trim().is_empty() {
            return;
        }
        if let Err(error) = Program::compile(text, &NAMES) {
            let why = format!("compilation failed: {error}");
            errors.push(FieldError::invalid(&path, &text.into(), why));
        }
    };
    for (list, fields) in PLACES {
        for (index, item) in object.list(&["spec", list]).iter().enumerate() {
            for field in fields {
                let steps: Vec<&str> = field.split('.').collect();
                look(format!("spec.{list}[{index}].{field}"), item.text(&steps));
            }
        }
    }
    for (outer, hook) in object.list(&["webhooks"]).iter().enumerate() {
        for (inner, condition) in hook.list(&["matchConditions"]).iter().enumerate() {
            let path = format!("webhooks[{outer}].matchConditions[{inner}].expression");
            look(path, condition.text(&["expression"]));
        }
    }
    errors
}

/// Answers `authorizer` for whoever made the request.
struct Who<'call>(&'call Call);

impl Authorizer for Who<'_> {
    fn request(&self) -> Question {
        let call = self.0;
        Question {
            group: call.resource().group.to_string(),
            resource: call.resource().plural.to_string(),
            subresource: call.subresource.map_or("", berth_objects::Subresource::name).to_owned(),
            namespace: call.namespace.clone(),
            name: call.name.clone(),
            ..Question::default()
        }
    }

    fn decide(&self, question: &Question) -> Decision {
        let account = question.service_account.as_ref().map(|(namespace, name)| {
            let everybody = "system:serviceaccounts";
            let group = format!("{everybody}:{namespace}");
            let groups = [everybody, group.as_str(), berth_access::AUTHENTICATED];
            Identity::new(berth_access::service_account(namespace, name), &groups)
        });
        let wanted = Attributes {
            verb: &question.verb,
            group: &question.group,
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            path: question.path.as_deref().unwrap_or_default(),
        };
        let identity = account.as_ref().unwrap_or(&self.0.identity);
        let verdict = self.0.shared.access.policy().judge(identity, &wanted);
        let (allowed, reason) = (verdict.is_allowed(), verdict.reason().to_owned());
        Decision { allowed, reason, error: None }
    }
}

/// A request as those see it who asked for it in one version.
pub(super) struct Seen {
    pub handle: Handle,
    pub object: Value,
    pub old: Value,
}

impl Seen {
    pub async fn of(asked: &Asked<'_>, handle: Handle) -> Result<Self, Status> {
        let (shared, own) = (&asked.call.shared, asked.call.resource());
        let object = seen_as(shared, own, handle.get(), &asked.object).await?;
        let old = seen_as(shared, own, handle.get(), asked.old).await?;
        Ok(Self { handle, object, old })
    }
}

/// Whether all conditions hold.
pub(super) enum Held {
    Yes,
    No,
    /// None says no, but one of them cannot be evaluated.
    Broken(String),
}

/// Evaluates the expressions of one policy or webhook about one request.
pub(super) struct Scene<'a> {
    variables: Variables<'a>,
    defined: &'a [(String, Expression)],
    /// Variables that were evaluated, with what went wrong.
    known: BTreeMap<String, Option<String>>,
    budget: &'a mut Budget,
}

/// What lives as long as a scene.
pub(super) struct Stage<'call>(Who<'call>);

impl<'call> Stage<'call> {
    pub fn new(call: &'call Call) -> Self {
        Self(Who(call))
    }
}

impl<'a> Scene<'a> {
    pub fn new(
        stage: &'a Stage<'_>,
        asked: &Asked<'_>,
        seen: &Seen,
        defined: &'a [(String, Expression)],
        budget: &'a mut Budget,
    ) -> Self {
        let mut request = review::question(
            asked,
            asked.call.resource(),
            (&Value::Null, &Value::Null),
            "",
        )["request"]
            .take();
        for field in ["uid", "object", "oldObject"] {
            request.unset(&[field]);
        }
        let variables = Variables::new()
            .with("object", &seen.object)
            .with("oldObject", &seen.old)
            .with("request", &request)
            .with("variables", &serde_json::json!({}))
            .authorized(&stage.0);
        Self { variables, defined, known: BTreeMap::new(), budget }
    }

    /// With what only policies see.
    pub fn with(mut self, params: &Value, namespace: &Value) -> Self {
        self.variables = self.variables.with("params", params).with("namespaceObject", namespace);
        self
    }

    /// The object has changed; what was computed from it has to be computed again.
    pub fn see(&mut self, object: &Value) {
        let variables = std::mem::take(&mut self.variables);
        self.variables = variables.with("object", object).with("variables", &serde_json::json!({}));
        self.known.clear();
    }

    /// The program, with the variables it needs in place.
    fn ready<'e>(&mut self, expression: &'e Expression) -> Result<&'e Program, String> {
        let program = expression.program.as_ref().map_err(Clone::clone)?;
        for path in program.selections("variables") {
            match path.first() {
                Some(name) => self.define(name)?,
                None => {
                    let all: Vec<&str> =
                        self.defined.iter().map(|(name, _)| name.as_str()).collect();
                    all.into_iter().try_for_each(|name| self.define(name))?;
                }
            }
        }
        Ok(program)
    }

    /// Evaluates a variable when it is first used.
    fn define(&mut self, name: &str) -> Result<(), String> {
        if let Some(known) = self.known.get(name) {
            return known.clone().map_or(Ok(()), Err);
        }
        let defined = self.defined;
        let Some((_, expression)) = defined.iter().find(|(own, _)| own == name) else {
            return Ok(());
        };
        // A variable that uses itself finds nothing.
        self.known.insert(name.to_owned(), Some(format!("variable '{name}' uses itself")));
        let outcome = self.ready(expression).and_then(|program| {
            let mut part = self.budget.split();
            let outcome = program.bind(&mut self.variables, SCRATCH, &mut part);
            self.budget.settle(&part);
            outcome.map_err(|error| error.to_string())
        });
        if outcome.is_ok() {
            self.variables.nest("variables", name, SCRATCH);
        }
        self.known.insert(name.to_owned(), outcome.as_ref().err().cloned());
        outcome
    }

    fn evaluate<T>(
        &mut self,
        expression: &Expression,
        run: impl FnOnce(&Program, &Variables<'_>, &mut Budget) -> Result<T, berth_cel::EvaluateError>,
    ) -> Result<T, String> {
        let outcome = self.ready(expression).and_then(|program| {
            let mut part = self.budget.split();
            let outcome = run(program, &self.variables, &mut part);
            self.budget.settle(&part);
            outcome.map_err(|error| error.to_string())
        });
        outcome
            .map_err(|error| format!("expression '{}' resulted in error: {error}", expression.text))
    }

    pub fn truth(&mut self, expression: &Expression) -> Result<bool, String> {
        self.evaluate(expression, Program::truth)
    }

    pub fn text(&mut self, expression: &Expression) -> Result<String, String> {
        self.evaluate(expression, Program::text)
    }

    pub fn json(&mut self, expression: &Expression) -> Result<Value, String> {
        self.evaluate(expression, Program::json)
    }

    /// Whether all conditions hold. One that says no counts more than one that says nothing.
    pub fn holds(&mut self, conditions: &[(String, Expression)]) -> Held {
        let mut broken = None;
        for (_, condition) in conditions {
            match self.truth(condition) {
                Ok(true) => {}
                Ok(false) => return Held::No,
                Err(error) => broken = broken.or(Some(error)),
            }
        }
        broken.map_or(Held::Yes, Held::Broken)
    }
}
