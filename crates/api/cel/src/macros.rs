//! Calls that bind names, and so are not evaluated from the inside out.
//!
//! The parser expands the macros with one variable. Those with two, and those of optionals, reach the evaluator as calls.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{CallExpr, Expr};
use kube_cel::cel::objects::{Map, Value};

use crate::bind::optional;
use crate::evaluate::{Evaluation, Fault, Outcome, Scope, as_optional, elements, sorted, truth};
use crate::library;
use crate::operators::key_of;

/// One turn of a loop over keys and values.
type Entry = (Value, Value);

impl Evaluation<'_> {
    /// The value of a call, if it binds names.
    pub fn macros(
        &mut self,
        prefix: Option<&str>,
        call: &CallExpr,
        scope: Option<&Scope<'_>>,
    ) -> Option<Outcome> {
        let skipped = library::bound(prefix, &call.func_name, call.args.len());
        if skipped == 0 {
            return None;
        }
        let mut names = [""; 2];
        for (name, argument) in names.iter_mut().zip(&call.args[..skipped]) {
            match &argument.expr {
                Expr::Ident(bound) => *name = bound,
                _ => return Some(Err(Fault::new("argument must be a simple name"))),
            }
        }
        Some(self.bound(prefix, call, names, &call.args[skipped..], scope))
    }

    fn bound(
        &mut self,
        prefix: Option<&str>,
        call: &CallExpr,
        names: [&str; 2],
        parts: &[IdedExpr],
        scope: Option<&Scope<'_>>,
    ) -> Outcome {
        let [name, second] = names;
        let function = call.func_name.as_str();
        if prefix.is_some() {
            let value = self.eval(&parts[0], scope)?;
            return self.eval(&parts[1], Some(&Scope { name, value: Ok(value), outer: scope }));
        }
        let Some(target) = call.target.as_deref() else { return Err(Fault::overload()) };
        let target = self.eval(target, scope)?;
        match function {
            "optMap" | "optFlatMap" => {
                let inner = as_optional(&target).ok_or_else(Fault::overload)?;
                let Some(value) = inner.value().cloned() else { return Ok(optional(None)) };
                let inner = Scope { name, value: Ok(value), outer: scope };
                let value = self.eval(&parts[0], Some(&inner))?;
                match (function, as_optional(&value)) {
                    ("optMap", _) => Ok(optional(Some(value))),
                    (_, Some(_)) => Ok(value),
                    (_, None) => Err(Fault::overload()),
                }
            }
            "sortBy" => self.sort_by(&target, name, &parts[0], scope),
            "all" | "exists" | "existsOne" | "exists_one" => {
                self.quantify(function, &entries(&target)?, [name, second], &parts[0], scope)
            }
            _ => self.transform(function, &entries(&target)?, [name, second], parts, scope),
        }
    }

    fn quantify(
        &mut self,
        function: &str,
        entries: &[Entry],
        [key_name, value_name]: [&str; 2],
        condition: &IdedExpr,
        scope: Option<&Scope<'_>>,
    ) -> Outcome {
        let (mut count, mut failed) = (0_usize, None);
        for (key, value) in entries {
            self.charge(1)?;
            let outer = Scope { name: key_name, value: Ok(key.clone()), outer: scope };
            let inner = Scope { name: value_name, value: Ok(value.clone()), outer: Some(&outer) };
            match self.eval(condition, Some(&inner)).and_then(|value| truth(&value)) {
                Ok(false) if function == "all" => return Ok(Value::Bool(false)),
                Ok(true) if function == "exists" => return Ok(Value::Bool(true)),
                Ok(truth) => count += usize::from(truth),
                Err(fault)
                    if matches!(fault, Fault::Exhausted)
                        || function.starts_with("exists") && function != "exists" =>
                {
                    return Err(fault);
                }
                Err(fault) => drop(failed.get_or_insert(fault)),
            }
        }
        match (failed, function) {
            (Some(fault), _) => Err(fault),
            (None, "all") => Ok(Value::Bool(true)),
            (None, "exists") => Ok(Value::Bool(false)),
            (None, _) => Ok(Value::Bool(count == 1)),
        }
    }

    fn transform(
        &mut self,
        function: &str,
        entries: &[Entry],
        [key_name, value_name]: [&str; 2],
        parts: &[IdedExpr],
        scope: Option<&Scope<'_>>,
    ) -> Outcome {
        let (filter, result) = match parts {
            [filter, result] => (Some(filter), result),
            [result] => (None, result),
            _ => return Err(Fault::overload()),
        };
        let (mut items, mut fields) = (Vec::new(), HashMap::new());
        for (key, value) in entries {
            self.charge(1)?;
            let outer = Scope { name: key_name, value: Ok(key.clone()), outer: scope };
            let inner = Scope { name: value_name, value: Ok(value.clone()), outer: Some(&outer) };
            if let Some(filter) = filter
                && !truth(&self.eval(filter, Some(&inner))?)?
            {
                continue;
            }
            let result = self.eval(result, Some(&inner))?;
            match (function, &result) {
                ("transformList", _) => items.push(result),
                ("transformMap", _) => drop(fields.insert(key_of(key)?, result)),
                (_, Value::Map(entry)) => {
                    for (key, value) in entry.map.iter() {
                        if fields.insert(key.clone(), value.clone()).is_some() {
                            return Err(Fault::new("insert failed: key already exists"));
                        }
                    }
                }
                _ => return Err(Fault::overload()),
            }
        }
        Ok(match function {
            "transformList" => Value::List(Arc::new(items)),
            _ => Value::Map(Map { map: Arc::new(fields) }),
        })
    }

    fn sort_by(
        &mut self,
        target: &Value,
        name: &str,
        key: &IdedExpr,
        scope: Option<&Scope<'_>>,
    ) -> Outcome {
        let mut keyed = Vec::new();
        for item in elements(target)? {
            let inner = Scope { name, value: Ok(item.clone()), outer: scope };
            keyed.push((self.eval(key, Some(&inner))?, item));
        }
        for pair in keyed.windows(2) {
            if self.order(&pair[0].0, &pair[1].0)?.is_none() {
                return Err(Fault::overload());
            }
        }
        let turns = u64::from(keyed.len().checked_ilog2().unwrap_or(0)) + 1;
        self.charge(turns.saturating_mul(keyed.len() as u64))?;
        keyed.sort_by(|left, right| left.0.partial_cmp(&right.0).unwrap_or(Ordering::Equal));
        Ok(Value::List(Arc::new(keyed.into_iter().map(|(_, item)| item).collect())))
    }
}

/// Indexes and elements of a list, or keys and values of a map.
fn entries(value: &Value) -> Result<Vec<Entry>, Fault> {
    match value {
        Value::List(items) => {
            let numbered = items.iter().enumerate();
            Ok(numbered
                .map(|(place, item)| {
                    (Value::Int(i64::try_from(place).unwrap_or(i64::MAX)), item.clone())
                })
                .collect())
        }
        Value::Map(map) => {
            Ok(sorted(map).into_iter().map(|(key, value)| (key.into(), value.clone())).collect())
        }
        _ => Err(Fault::overload()),
    }
}
