//! Operators.

use std::cmp::Ordering;
use std::sync::Arc;

use kube_cel::cel::common::ast::{CallExpr, operators};
use kube_cel::cel::objects::{Key, Value};

use crate::bind::optional;
use crate::evaluate::{
    Evaluation, Fault, Outcome, Scope, as_optional, field, optional_field, truth,
};

impl Evaluation<'_> {
    /// The value of a call, if it is of an operator.
    pub fn operator(&mut self, call: &CallExpr, scope: Option<&Scope<'_>>) -> Option<Outcome> {
        let name = call.func_name.as_str();
        Some(match (name, call.args.as_slice()) {
            (operators::CONDITIONAL, [condition, yes, no]) => {
                match self.eval(condition, scope).and_then(|value| truth(&value)) {
                    Ok(true) => self.eval(yes, scope),
                    Ok(false) => self.eval(no, scope),
                    Err(fault) => Err(fault),
                }
            }
            (operators::LOGICAL_AND, [..]) => self.decide(call, false, scope),
            (operators::LOGICAL_OR, [..]) => self.decide(call, true, scope),
            (operators::LOGICAL_NOT, [operand]) => {
                let operand = self.eval(operand, scope).and_then(|value| truth(&value));
                operand.map(|truth| Value::Bool(!truth))
            }
            (operators::NOT_STRICTLY_FALSE, [operand]) => match self.eval(operand, scope) {
                Err(Fault::Exhausted) => Err(Fault::Exhausted),
                Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                _ => Ok(Value::Bool(true)),
            },
            (operators::OPT_SELECT, [operand, name]) => self.optional_select(operand, name, scope),
            (operators::NEGATE, [operand]) => self.eval(operand, scope).and_then(negate),
            (_, [left, right]) if is_binary(name) => {
                let left = match self.eval(left, scope) {
                    Ok(left) => left,
                    Err(fault) => return Some(Err(fault)),
                };
                let right = self.eval(right, scope);
                right.and_then(|right| self.binary(name, left, right))
            }
            _ => return None,
        })
    }

    /// `&&` and `||`: an operand that decides, decides, even if the other fails.
    fn decide(&mut self, call: &CallExpr, decisive: bool, scope: Option<&Scope<'_>>) -> Outcome {
        let mut failed = None;
        for operand in &call.args {
            match self.eval(operand, scope).and_then(|value| truth(&value)) {
                Ok(truth) if truth == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(Fault::Exhausted) => return Err(Fault::Exhausted),
                Err(fault) => drop(failed.get_or_insert(fault)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn optional_select(
        &mut self,
        operand: &kube_cel::cel::IdedExpr,
        name: &kube_cel::cel::IdedExpr,
        scope: Option<&Scope<'_>>,
    ) -> Outcome {
        let operand = self.eval(operand, scope)?;
        let Value::String(name) = self.eval(name, scope)? else { return Err(Fault::overload()) };
        match as_optional(&operand) {
            Some(inner) => optional_field(inner, &name),
            None => Ok(optional(field(&operand, &name)?)),
        }
    }

    fn binary(&mut self, name: &str, left: Value, right: Value) -> Outcome {
        match name {
            operators::EQUALS => Ok(Value::Bool(self.equal(&left, &right)?)),
            operators::NOT_EQUALS => Ok(Value::Bool(!self.equal(&left, &right)?)),
            operators::IN => Ok(Value::Bool(self.is_in(&left, &right)?)),
            operators::INDEX => match as_optional(&left) {
                Some(inner) => Ok(optional(match inner.value() {
                    Some(value) => index(value, &right)?,
                    None => None,
                })),
                None => index(&left, &right)?.ok_or_else(|| missing(&right)),
            },
            operators::OPT_INDEX => {
                let inner = match as_optional(&left) {
                    Some(inner) => inner.value().cloned(),
                    None => Some(left),
                };
                Ok(optional(inner.map_or(Ok(None), |value| index(&value, &right))?))
            }
            operators::ADD => {
                self.weigh(&left)?;
                self.weigh(&right)?;
                Ok((left + right)?)
            }
            operators::SUBSTRACT => Ok((left - right)?),
            operators::MULTIPLY => Ok((left * right)?),
            operators::DIVIDE => Ok((left / right)?),
            operators::MODULO => Ok((left % right)?),
            _ => {
                let order = self.order(&left, &right)?;
                Ok(Value::Bool(order.is_some_and(|order| match name {
                    operators::LESS => order == Ordering::Less,
                    operators::LESS_EQUALS => order != Ordering::Greater,
                    operators::GREATER => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                })))
            }
        }
    }

    pub fn equal(&mut self, left: &Value, right: &Value) -> Result<bool, Fault> {
        // Comparing ends with the smaller one, but which that is shows only by looking.
        self.weigh(left)?;
        self.weigh(right)?;
        Ok(left == right)
    }

    /// How two values are ordered; nothing if one is not a number.
    pub fn order(&mut self, left: &Value, right: &Value) -> Result<Option<Ordering>, Fault> {
        self.weigh(left)?;
        let numeric = |value: &Value| matches!(value, Value::Float(_));
        match (left.partial_cmp(right), left, right) {
            (Some(order), ..) => Ok(Some(order)),
            (None, Value::Bytes(left), Value::Bytes(right)) => Ok(Some(left.cmp(right))),
            (None, left, right) if numeric(left) || numeric(right) => {
                let number = |value: &Value| {
                    matches!(value, Value::Float(_) | Value::Int(_) | Value::UInt(_))
                };
                if number(left) && number(right) { Ok(None) } else { Err(Fault::overload()) }
            }
            _ => Err(Fault::overload()),
        }
    }

    fn is_in(&mut self, left: &Value, right: &Value) -> Result<bool, Fault> {
        match right {
            Value::List(items) => {
                self.weigh(right)?;
                let weight = self.weigh(left)?;
                self.charge(weight.saturating_mul(items.len() as u64))?;
                Ok(items.contains(left))
            }
            Value::Map(map) => {
                self.weigh(left)?;
                Ok(key_of(left).is_ok_and(|key| map.get(&key).is_some()))
            }
            _ => Err(Fault::overload()),
        }
    }
}

fn is_binary(name: &str) -> bool {
    matches!(
        name,
        operators::EQUALS
            | operators::NOT_EQUALS
            | operators::IN
            | operators::INDEX
            | operators::OPT_INDEX
            | operators::ADD
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
    )
}

fn negate(value: Value) -> Outcome {
    match value {
        Value::Int(number) => {
            number.checked_neg().map(Value::Int).ok_or_else(|| Fault::new("integer overflow"))
        }
        Value::Float(number) => Ok(Value::Float(-number)),
        Value::Duration(duration) => Ok(Value::Duration(-duration)),
        _ => Err(Fault::overload()),
    }
}

/// The key of a map a value stands for.
pub(crate) fn key_of(value: &Value) -> Result<Key, Fault> {
    match value {
        Value::Int(number) => Ok(Key::Int(*number)),
        Value::UInt(number) => Ok(Key::Uint(*number)),
        Value::Bool(truth) => Ok(Key::Bool(*truth)),
        Value::String(text) => Ok(Key::String(Arc::clone(text))),
        other => Err(Fault::new(format!("a value of type {} is no key of a map", other.type_of()))),
    }
}

/// The element of a list or the value of a map, if there is one.
fn index(container: &Value, place: &Value) -> Result<Option<Value>, Fault> {
    match (container, place) {
        (Value::List(items), Value::Int(place)) => {
            Ok(usize::try_from(*place).ok().and_then(|place| items.get(place)).cloned())
        }
        (Value::List(items), Value::UInt(place)) => {
            Ok(usize::try_from(*place).ok().and_then(|place| items.get(place)).cloned())
        }
        (Value::Map(map), place) => Ok(map.get(&key_of(place)?).cloned()),
        _ => Err(Fault::overload()),
    }
}

fn missing(place: &Value) -> Fault {
    Fault::new(match place {
        Value::String(key) => format!("no such key: {key}"),
        Value::Int(place) => format!("index out of bounds: {place}"),
        Value::UInt(place) => format!("index out of bounds: {place}"),
        _ => "no such key".to_owned(),
    })
}
