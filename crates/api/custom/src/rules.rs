//! Rules in a schema: expressions over a value, and over what it was before.

use berth_cel::{Budget, CompileError, EvaluateError, Program, Variables};
use berth_objects::{FieldError, Object};
use serde_json::Value;

use crate::fill::join;
use crate::schema::{ABOUT, Schema, Type};
use crate::validate::Before;

/// A rule, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    program: Program,
    message: String,
    message_expression: Option<Program>,
    reason: String,
    field_path: String,
    /// `oldSelf` is an optional, and the rule also judges what is new.
    optional_old: bool,
    /// The rule is about a change.
    transition: bool,
}

pub(crate) const VARIABLES: [&str; 2] = ["self", "oldSelf"];

impl Rule {
    pub fn parse(value: &Value) -> Result<Self, CompileError> {
        let program = Program::compile(value.text(&["rule"]), &VARIABLES)?;
        let message_expression = match value.text(&["messageExpression"]) {
            "" => None,
            text => Some(Program::compile(text, &VARIABLES)?),
        };
        Ok(Self {
            transition: program.uses("oldSelf"),
            program,
            message: value.text(&["message"]).to_owned(),
            message_expression,
            reason: value.text(&["reason"]).to_owned(),
            field_path: value.text(&["fieldPath"]).trim_start_matches('.').to_owned(),
            optional_old: value.flag(&["optionalOldSelf"]),
        })
    }

    /// Whether the rule says something here.
    fn applies(&self, old: Option<&Value>) -> bool {
        !self.transition || self.optional_old || old.is_some()
    }

    fn error(&self, schema: &Schema, path: &str, message: &str) -> FieldError {
        let path =
            if self.field_path.is_empty() { path.to_owned() } else { join(path, &self.field_path) };
        let path = if path.is_empty() { "<nil>" } else { path.as_str() };
        let shown = Value::from(schema.kind.map_or("object", Type::name));
        match self.reason.as_str() {
            "FieldValueForbidden" => FieldError::forbidden(path, message),
            "FieldValueRequired" => FieldError::required(path, message),
            "FieldValueDuplicate" => FieldError::duplicate(path, &shown),
            _ => FieldError::invalid(path, &shown, message),
        }
    }
}

/// All rules of an object, paid from one budget.
pub(crate) struct Judge {
    budget: Budget,
    pub errors: Vec<FieldError>,
    exhausted: bool,
}

impl Judge {
    pub fn new() -> Self {
        Self { budget: Budget::for_request(), errors: Vec::new(), exhausted: false }
    }

    pub fn run(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) {
        if !schema.ruled || self.exhausted || value.is_null() {
            return;
        }
        let unchanged = old == Some(value);
        let rules: Vec<&Rule> = schema
            .rules
            .iter()
            .filter(|rule| rule.applies(old) && (!unchanged || rule.transition))
            .collect();
        if !rules.is_empty() {
            self.rules(&rules, schema, value, old, path);
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if schema.is_object_of_api() && ABOUT.contains(&name.as_str()) {
                        continue;
                    }
                    if let Some(child) = schema.child(name) {
                        let before = old.and_then(|old| old.get(name));
                        self.run(child, value, before, &join(path, name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(element) = schema.items.as_deref().filter(|element| element.ruled) else {
                    return;
                };
                let before = Before::of(schema, old);
                for (place, item) in items.iter().enumerate() {
                    let before = before.find(schema, item);
                    self.run(element, item, before, &format!("{path}[{place}]"));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn rules(
        &mut self,
        rules: &[&Rule],
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &str,
    ) {
        // Values are made once for all rules of a place, and paid for, too.
        let plain = Variables::new().shaped("self", value, schema);
        let mut paid = self.budget.pay_for(value);
        let mut changed = Variables::new();
        let mut maybe = Variables::new();
        if rules.iter().any(|rule| rule.transition) {
            paid = paid
                && old.is_none_or(|old| self.budget.pay_for(old))
                && self.budget.pay_for(value);
            if paid {
                if let Some(old) = old {
                    changed = Variables::new()
                        .shaped("self", value, schema)
                        .shaped("oldSelf", old, schema);
                }
                let old = old.map(|old| (old, schema as &dyn berth_cel::Shape));
                maybe = Variables::new().shaped("self", value, schema).optional("oldSelf", old);
            }
        }
        for rule in rules {
            if !paid {
                self.exhausted = true;
                let message = format!("rule evaluation error: {}", EvaluateError::TooMuch);
                self.errors.push(rule.error(schema, path, &message));
                return;
            }
            let variables = match (rule.transition, rule.optional_old) {
                (false, _) => &plain,
                (true, false) => &changed,
                (true, true) => &maybe,
            };
            let mut part = self.budget.split();
            let outcome = rule.program.truth(variables, &mut part);
            match outcome {
                Ok(true) => {}
                Ok(false) => {
                    let made = rule.message_expression.as_ref().and_then(|program| {
                        let text = program.text(variables, &mut part).ok()?;
                        let fits = !text.trim().is_empty()
                            && !text.contains('\n')
                            && text.len() <= 5 << 10;
                        fits.then_some(text)
                    });
                    let message = match (made, rule.message.as_str()) {
                        (Some(text), _) => text,
                        (None, "") => format!("failed rule: {}", rule.program.source().trim()),
                        (None, text) => text.to_owned(),
                    };
                    self.errors.push(rule.error(schema, path, &message));
                }
                Err(error) => {
                    self.exhausted =
                        matches!(error, EvaluateError::TooMuch) && self.budget.left() == 0;
                    let message = format!("rule evaluation error: {error}");
                    self.errors.push(rule.error(schema, path, &message));
                }
            }
            self.budget.settle(&part);
            if self.exhausted {
                return;
            }
        }
    }
}
