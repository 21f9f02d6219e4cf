//! Functions: those answered here because they need care, and the way to those of the library.
//!
//! Regular expressions are compiled here with a limit to their size. Each argument is paid for before a function looks at it,
//! and whatever a function could make large is estimated first.

use std::sync::Arc;

use crate::authorizer::{self, Asker};
use crate::bind::optional;
use crate::evaluate::{Evaluation, Fault, Outcome, as_optional};
use crate::library;
use kube_cel::cel::objects::{Opaque, OptionalValue, Value};

/// What compiling a regular expression costs; its size is limited to match.
const COMPILING: u64 = 10_000;

/// The type of a value, as `type()` gives it.
#[derive(Debug, PartialEq, Eq)]
struct Named(String);

impl Opaque for Named {
    fn runtime_type_name(&self) -> &'static str {
        "type"
    }
}

pub(crate) fn named_type(name: &str) -> Value {
    Value::Opaque(Arc::new(Named(name.to_owned())))
}

fn type_of(value: &Value) -> Value {
    named_type(match value {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Null => "null_type",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        Value::Function(..) => "function",
        Value::Opaque(opaque) => opaque.runtime_type_name(),
    })
}

impl Evaluation<'_> {
    pub fn function(
        &mut self,
        prefix: Option<&str>,
        function: &str,
        target: Option<Value>,
        arguments: Vec<Value>,
    ) -> Outcome {
        if let Some(Value::Opaque(opaque)) = &target
            && let Some(asker) = opaque.downcast_ref::<Asker>()
        {
            return asker.call(function, &arguments, self.variables.authorizer);
        }
        if let Some(prefix) = prefix {
            return self.prefixed(prefix, function, arguments);
        }
        if let Some(outcome) = target.as_ref().and_then(|it| authorizer::of_answer(it, function)) {
            return outcome;
        }
        let all: Vec<&Value> = target.iter().chain(&arguments).collect();
        if let Some(outcome) = self.own(function, &all) {
            return outcome;
        }
        self.pay(function, &all)?;
        let made = library::call(None, function, target, arguments)?;
        self.weigh(&made)?;
        Ok(made)
    }

    fn prefixed(&mut self, prefix: &str, function: &str, mut arguments: Vec<Value>) -> Outcome {
        if prefix == "optional" {
            return match (function, arguments.pop()) {
                ("none", None) => Ok(optional(None)),
                ("of", Some(value)) => Ok(optional(Some(value))),
                ("ofNonZeroValue", Some(value)) => {
                    Ok(optional(Some(value).filter(|value| !value.is_zero())))
                }
                _ => Err(Fault::overload()),
            };
        }
        if let ("lists", "range", [Value::Int(length)]) = (prefix, function, arguments.as_slice()) {
            self.charge(u64::try_from(*length).unwrap_or(0))?;
        }
        self.pay(function, &arguments.iter().collect::<Vec<_>>())?;
        Ok(library::call(Some(prefix), function, None, arguments)?)
    }

    /// Charges for what a function of the library looks at and makes.
    fn pay(&mut self, function: &str, arguments: &[&Value]) -> Result<(), Fault> {
        let mut product = 1_u64;
        for argument in arguments {
            product = product.saturating_mul(self.weigh(argument)?);
        }
        let made = match (function, arguments) {
            // Each element is compared with each, or each place with the whole pattern.
            ("distinct", [only]) => {
                let weight = self.weigh(only)?;
                weight.saturating_mul(weight)
            }
            (
                "contains" | "intersects" | "equivalent" | "indexOf" | "lastIndexOf" | "replace"
                | "join",
                _,
            ) => product.saturating_mul(16),
            ("split", [Value::String(text), ..]) => text.len() as u64,
            ("format", [Value::String(template), ..]) => {
                let longest = template.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
                if longest.unwrap_or(0) > 2 {
                    return Err(Fault::new("format: the precision is too large"));
                }
                product
            }
            ("quantity" | "isQuantity", [Value::String(text), ..]) if !is_moderate(text) => {
                return Err(Fault::new("quantity: the number is out of range"));
            }
            _ => 16,
        };
        self.charge(made)
    }

    /// The value of a function that is answered here.
    fn own(&mut self, function: &str, all: &[&Value]) -> Option<Outcome> {
        Some(match (function, all) {
            ("dyn", [value]) => Ok((*value).clone()),
            ("type", [value]) => Ok(type_of(value)),
            ("size", [value]) => self.size(value),
            ("startsWith", [Value::String(text), Value::String(part)]) => {
                Ok(Value::Bool(text.starts_with(part.as_str())))
            }
            ("endsWith", [Value::String(text), Value::String(part)]) => {
                Ok(Value::Bool(text.ends_with(part.as_str())))
            }
            ("contains", [Value::String(text), Value::String(part)]) => self
                .charge(text.len() as u64 / 16)
                .map(|()| Value::Bool(text.contains(part.as_str()))),
            ("matches", [Value::String(text), Value::String(pattern)]) => {
                self.pattern(text, pattern).map(|pattern| Value::Bool(pattern.is_match(text)))
            }
            ("find", [Value::String(text), Value::String(pattern)]) => self
                .pattern(text, pattern)
                .map(|pattern| pattern.find(text).map_or("", |found| found.as_str()).into()),
            ("findAll", [Value::String(text), Value::String(pattern)]) => {
                self.find_all(text, pattern, usize::MAX)
            }
            ("findAll", [Value::String(text), Value::String(pattern), Value::Int(most)]) => {
                self.find_all(text, pattern, usize::try_from(*most).unwrap_or(usize::MAX))
            }
            ("hasValue" | "value" | "or" | "orValue", [first, rest @ ..]) => {
                of_optional(function, as_optional(first)?, rest)
            }
            (
                "startsWith" | "endsWith" | "contains" | "matches" | "find" | "findAll" | "value",
                _,
            ) => Err(Fault::overload()),
            _ => return None,
        })
    }

    fn size(&mut self, value: &Value) -> Outcome {
        let size = match value {
            Value::String(text) => {
                self.charge(text.len() as u64 / 16)?;
                text.chars().count()
            }
            Value::Bytes(bytes) => bytes.len(),
            Value::List(items) => items.len(),
            Value::Map(map) => map.map.len(),
            _ => return Err(Fault::overload()),
        };
        Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
    }

    fn pattern(&mut self, text: &str, pattern: &str) -> Result<Arc<regex::Regex>, Fault> {
        let searching = (text.len() as u64 / 16 + 1).saturating_mul(pattern.len() as u64 / 16 + 1);
        self.charge(searching)?;
        if let Some(known) = self.patterns.get(pattern) {
            return Ok(Arc::clone(known));
        }
        self.charge(COMPILING)?;
        let compiled = crate::pattern(pattern)
            .map_err(|_| Fault::new("the regular expression is invalid or too large"))?;
        self.patterns.insert(pattern.to_owned(), Arc::clone(&compiled));
        Ok(compiled)
    }

    fn find_all(&mut self, text: &str, pattern: &str, most: usize) -> Outcome {
        let pattern = self.pattern(text, pattern)?;
        self.charge(text.len() as u64)?;
        let found = pattern.find_iter(text).take(most).map(|found| found.as_str().into());
        Ok(Value::List(Arc::new(found.collect())))
    }
}

fn of_optional(function: &str, this: &OptionalValue, rest: &[&Value]) -> Outcome {
    match (function, this.value(), rest) {
        ("hasValue", value, []) => Ok(Value::Bool(value.is_some())),
        ("value", Some(value), []) => Ok(value.clone()),
        ("value", None, []) => Err(Fault::new("optional.none() dereference")),
        ("or", Some(value), [_]) => Ok(optional(Some(value.clone()))),
        ("orValue", Some(value), [_]) => Ok(value.clone()),
        ("or" | "orValue", None, [other]) => Ok((*other).clone()),
        _ => Err(Fault::overload()),
    }
}

/// Whether a number is one that arithmetic can take.
fn is_moderate(text: &str) -> bool {
    let exponent = text.split(['e', 'E']).nth(1).unwrap_or_default();
    text.len() <= 64 && exponent.len() <= 3
}
