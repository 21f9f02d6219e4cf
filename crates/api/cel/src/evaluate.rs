//! The walk over an expression.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, MapExpr, SelectExpr, StructExpr,
    operators,
};
use kube_cel::cel::objects::{Key, Map, OptionalValue, Value};
use kube_cel::cel::{ExecutionError, common::ast::LiteralValue};

use crate::authorizer::Asker;
use crate::bind::{Variables, optional, unescape};
use crate::budget::{Budget, Exhausted, weight};
use crate::library;
use crate::operators::key_of;

/// Why an evaluation ended without a value.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// No work is left. Nothing absorbs this.
    Exhausted,
    /// An operation failed. A logical operator may absorb this.
    Failed(Failure),
}

/// What failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Arc<str>);

impl Failure {
    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

impl Fault {
    pub fn new(text: impl Into<String>) -> Self {
        Self::Failed(Failure(text.into().into()))
    }

    pub fn overload() -> Self {
        Self::new("no such overload")
    }
}

impl From<Exhausted> for Fault {
    fn from(Exhausted: Exhausted) -> Self {
        Self::Exhausted
    }
}

impl From<ExecutionError> for Fault {
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::NoSuchKey(key) => Self::new(format!("no such key: {key}")),
            ExecutionError::DivisionByZero(_) => Self::new("division by zero"),
            ExecutionError::RemainderByZero(_) => Self::new("modulus by zero"),
            ExecutionError::Overflow(..) => Self::new("integer overflow"),
            ExecutionError::FunctionError { function, message } => {
                Self::new(format!("{function}: {}", brief(&message)))
            }
            ExecutionError::UndeclaredReference(name) => {
                Self::new(format!("undeclared reference to '{name}'"))
            }
            // Their texts show whole values.
            _ => Self::overload(),
        }
    }
}

fn brief(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

pub(crate) type Outcome = Result<Value, Fault>;

/// A name bound within the expression.
pub(crate) struct Scope<'a> {
    pub name: &'a str,
    pub value: Outcome,
    pub outer: Option<&'a Scope<'a>>,
}

pub(crate) struct Evaluation<'a> {
    pub variables: &'a Variables<'a>,
    budget: &'a mut Budget,
    /// Regular expressions that were compiled in this evaluation; the budget bounds their number.
    pub patterns: HashMap<String, Arc<regex::Regex>>,
}

impl<'a> Evaluation<'a> {
    pub fn new(variables: &'a Variables<'a>, budget: &'a mut Budget) -> Self {
        Self { variables, budget, patterns: HashMap::new() }
    }

    pub fn run(&mut self, root: &IdedExpr) -> Outcome {
        self.eval(root, None)
    }

    pub fn charge(&mut self, steps: u64) -> Result<(), Fault> {
        Ok(self.budget.charge(steps)?)
    }

    /// Charges for looking at all of a value, and returns what it weighs.
    pub fn weigh(&mut self, value: &Value) -> Result<u64, Fault> {
        let weight = weight(value, self.budget.left());
        self.budget.charge(weight)?;
        Ok(weight)
    }

    pub fn eval(&mut self, expression: &IdedExpr, scope: Option<&Scope<'_>>) -> Outcome {
        self.charge(1)?;
        match &expression.expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Ident(name) => self.ident(name, scope),
            Expr::Select(select) => self.select(select, scope),
            Expr::Call(call) => self.call(call, scope),
            Expr::List(list) => self.list(list, scope),
            Expr::Map(map) => self.map(map, scope),
            Expr::Struct(it) => self.construct(it, scope),
            Expr::Comprehension(it) => self.comprehension(it, scope),
            Expr::Unspecified => Err(Fault::new("an empty expression")),
        }
    }

    fn literal(&mut self, literal: &LiteralValue) -> Outcome {
        if let LiteralValue::String(text) = literal {
            self.charge(text.inner().len() as u64 / 16)?;
        }
        Ok(Value::try_from(literal.to_val().as_ref())?)
    }

    fn ident(&self, name: &str, scope: Option<&Scope<'_>>) -> Outcome {
        let name = name.trim_start_matches('.');
        let mut at = scope;
        while let Some(scope) = at {
            if scope.name == name {
                return scope.value.clone();
            }
            at = scope.outer;
        }
        if let Some(value) = self.variables.get(name) {
            return Ok(value.clone());
        }
        if library::is_type(name) {
            return Ok(crate::native::named_type(name));
        }
        Err(Fault::new(format!("undeclared reference to '{name}'")))
    }

    /// Whether a name is bound, or the prefix of a function.
    fn is_bound(&self, name: &str, scope: Option<&Scope<'_>>) -> bool {
        let mut at = scope;
        while let Some(scope) = at {
            if scope.name == name {
                return true;
            }
            at = scope.outer;
        }
        self.variables.get(name).is_some()
    }

    fn select(&mut self, select: &SelectExpr, scope: Option<&Scope<'_>>) -> Outcome {
        let operand = self.eval(&select.operand, scope)?;
        if select.test {
            return Ok(Value::Bool(field(&operand, &select.field)?.is_some()));
        }
        if let Some(inner) = as_optional(&operand) {
            return optional_field(inner, &select.field);
        }
        field(&operand, &select.field)?
            .ok_or_else(|| Fault::new(format!("no such key: {}", select.field)))
    }

    fn list(&mut self, list: &ListExpr, scope: Option<&Scope<'_>>) -> Outcome {
        let mut items = Vec::with_capacity(list.elements.len());
        for (place, element) in list.elements.iter().enumerate() {
            let value = self.eval(element, scope)?;
            if list.optional_indices.contains(&place) {
                let value = as_optional(&value).ok_or_else(Fault::overload)?;
                items.extend(value.value().cloned());
            } else {
                items.push(value);
            }
        }
        Ok(Value::List(Arc::new(items)))
    }

    fn map(&mut self, map: &MapExpr, scope: Option<&Scope<'_>>) -> Outcome {
        let mut fields = HashMap::with_capacity(map.entries.len());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return Err(Fault::overload()) };
            let key = key_of(&self.eval(&entry.key, scope)?)?;
            let value = self.eval(&entry.value, scope)?;
            self.put(&mut fields, key, value, entry.optional)?;
        }
        Ok(Value::Map(Map { map: Arc::new(fields) }))
    }

    /// A constructed object is a map of its fields; the type's name only documents it.
    fn construct(&mut self, it: &StructExpr, scope: Option<&Scope<'_>>) -> Outcome {
        let mut fields = HashMap::with_capacity(it.entries.len());
        for entry in &it.entries {
            let EntryExpr::StructField(entry) = &entry.expr else { return Err(Fault::overload()) };
            let value = self.eval(&entry.value, scope)?;
            let key = Key::String(Arc::new(unescape(&entry.field)));
            self.put(&mut fields, key, value, entry.optional)?;
        }
        Ok(Value::Map(Map { map: Arc::new(fields) }))
    }

    fn put(
        &mut self,
        fields: &mut HashMap<Key, Value>,
        key: Key,
        value: Value,
        is_optional: bool,
    ) -> Result<(), Fault> {
        let value = match is_optional {
            true => as_optional(&value).ok_or_else(Fault::overload)?.value().cloned(),
            false => Some(value),
        };
        if let Some(value) = value {
            fields.insert(key, value);
        }
        Ok(())
    }

    fn comprehension(&mut self, it: &ComprehensionExpr, scope: Option<&Scope<'_>>) -> Outcome {
        let range = self.eval(&it.iter_range, scope)?;
        let items = elements(&range)?;
        if let Some((condition, element)) = appended(it) {
            return self.collect(&items, it, condition, element, scope);
        }
        let init = self.eval(&it.accu_init, scope);
        let mut accu = Scope { name: &it.accu_var, value: init, outer: scope };
        for item in items {
            self.charge(1)?;
            if !matches!(self.eval(&it.loop_cond, Some(&accu))?, Value::Bool(true)) {
                break;
            }
            let inner = Scope { name: &it.iter_var, value: Ok(item), outer: Some(&accu) };
            let next = self.eval(&it.loop_step, Some(&inner));
            if matches!(next, Err(Fault::Exhausted)) {
                return next;
            }
            // A failure is kept: a later element may decide without it.
            accu.value = next;
        }
        self.eval(&it.result, Some(&accu))
    }

    /// `map` and `filter`: each element is appended, rather than a list made anew.
    fn collect(
        &mut self,
        items: &[Value],
        it: &ComprehensionExpr,
        condition: Option<&IdedExpr>,
        element: &IdedExpr,
        scope: Option<&Scope<'_>>,
    ) -> Outcome {
        let mut collected = Vec::new();
        for item in items {
            self.charge(1)?;
            let inner = Scope { name: &it.iter_var, value: Ok(item.clone()), outer: scope };
            let wanted = match condition {
                Some(condition) => truth(&self.eval(condition, Some(&inner))?)?,
                None => true,
            };
            if wanted {
                collected.push(self.eval(element, Some(&inner))?);
            }
        }
        Ok(Value::List(Arc::new(collected)))
    }

    fn call(&mut self, call: &CallExpr, scope: Option<&Scope<'_>>) -> Outcome {
        if let Some(outcome) = self.operator(call, scope) {
            return outcome;
        }
        let prefix = call.target.as_deref().and_then(|target| match &target.expr {
            Expr::Ident(name) if !self.is_bound(name, scope) => Some(name.as_str()),
            _ => None,
        });
        if let Some(outcome) = self.macros(prefix, call, scope) {
            return outcome;
        }
        let target = match (&call.target, prefix) {
            (Some(target), None) => Some(self.eval(target, scope)?),
            _ => None,
        };
        let mut arguments = Vec::with_capacity(call.args.len());
        for argument in &call.args {
            arguments.push(self.eval(argument, scope)?);
        }
        self.function(prefix, &call.func_name, target, arguments)
    }
}

/// The condition and the element, if each step appends one to a list.
fn appended(it: &ComprehensionExpr) -> Option<(Option<&IdedExpr>, &IdedExpr)> {
    let is_accu = |part: &IdedExpr| matches!(&part.expr, Expr::Ident(name) if *name == it.accu_var);
    let element = |part: &'_ IdedExpr| -> bool {
        matches!(&part.expr, Expr::Call(add) if add.func_name == operators::ADD && is_accu(&add.args[0])
            && matches!(&add.args[1].expr, Expr::List(list) if list.elements.len() == 1))
    };
    fn single(part: &IdedExpr) -> Option<&IdedExpr> {
        let Expr::Call(add) = &part.expr else { return None };
        let Expr::List(list) = &add.args.get(1)?.expr else { return None };
        list.elements.first()
    }
    if !matches!(&it.accu_init.expr, Expr::List(list) if list.elements.is_empty())
        || !is_accu(&it.result)
    {
        return None;
    }
    match &it.loop_step.expr {
        _ if element(&it.loop_step) => Some((None, single(&it.loop_step)?)),
        Expr::Call(choice)
            if choice.func_name == operators::CONDITIONAL
                && element(&choice.args[1])
                && is_accu(&choice.args[2]) =>
        {
            Some((Some(&choice.args[0]), single(&choice.args[1])?))
        }
        _ => None,
    }
}

pub(crate) fn truth(value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        _ => Err(Fault::overload()),
    }
}

/// What a loop visits: the elements of a list, or the keys of a map.
pub(crate) fn elements(value: &Value) -> Result<Vec<Value>, Fault> {
    match value {
        Value::List(items) => Ok(items.to_vec()),
        Value::Map(map) => Ok(sorted(map).into_iter().map(|(key, _)| key.into()).collect()),
        _ => Err(Fault::overload()),
    }
}

/// A map's entries in the order of their keys, so that every evaluation goes alike.
pub(crate) fn sorted(map: &Map) -> Vec<(&Key, &Value)> {
    let mut entries: Vec<_> = map.map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

pub(crate) fn as_optional(value: &Value) -> Option<&OptionalValue> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<OptionalValue>(),
        _ => None,
    }
}

/// A field by the name expressions use, if it is there.
pub(crate) fn field(value: &Value, name: &str) -> Result<Option<Value>, Fault> {
    match value {
        Value::Map(map) => {
            let found = map.get(&Key::String(Arc::new(name.to_owned())));
            let found = found.or_else(|| match name.contains("__") {
                true => map.get(&Key::String(Arc::new(unescape(name)))),
                false => None,
            });
            Ok(found.cloned())
        }
        Value::Opaque(opaque) => match opaque.downcast_ref::<OptionalValue>() {
            Some(inner) => inner.value().map_or(Ok(None), |inner| field(inner, name)),
            None => match opaque.downcast_ref::<Asker>() {
                Some(asker) => Ok(asker.field(name)),
                None => Err(Fault::overload()),
            },
        },
        other => {
            Err(Fault::new(format!("type '{}' does not support field selection", other.type_of())))
        }
    }
}

pub(crate) fn optional_field(inner: &OptionalValue, name: &str) -> Outcome {
    match inner.value() {
        Some(value) => Ok(optional(field(value, name)?)),
        None => Ok(optional(None)),
    }
}
