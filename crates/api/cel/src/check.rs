//! What is looked at before an expression is accepted: its nesting and its names.

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{EntryExpr, Expr};

use crate::library;
use crate::program::{CompileError, DEEPEST};

/// Refuses text whose brackets nest too deeply, before the parser takes a stack frame for each.
pub(crate) fn nesting(source: &str) -> Result<(), CompileError> {
    let (mut depth, mut quote) = (0_usize, None);
    let mut characters = source.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '(' | '[' | '{' | '?') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        if depth > DEEPEST / 2 {
            return Err(CompileError::TooDeep);
        }
    }
    Ok(())
}

/// The parts of an expression.
pub(crate) fn parts(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(it) => {
            vec![&it.iter_range, &it.accu_init, &it.loop_cond, &it.loop_step, &it.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Select(select) => vec![&*select.operand],
        Expr::Struct(it) => it.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

pub(crate) fn depth(root: &IdedExpr) -> Result<(), CompileError> {
    let mut open = vec![(root, 1)];
    while let Some((expression, depth)) = open.pop() {
        if depth > DEEPEST {
            return Err(CompileError::TooDeep);
        }
        open.extend(parts(expression).into_iter().map(|part| (part, depth + 1)));
    }
    Ok(())
}

/// Refuses names that are neither variables nor functions.
pub(crate) fn names(root: &IdedExpr, variables: &[&str], source: &str) -> Result<(), CompileError> {
    let known = variables.iter().map(|name| (*name).to_owned()).collect();
    Names { source }.check(root, &known)
}

struct Names<'source> {
    source: &'source str,
}

impl Names<'_> {
    fn undeclared(&self, name: &str) -> CompileError {
        let (line, column) = self.find(name);
        let message = format!("undeclared reference to '{name}' (in container '')");
        CompileError::Invalid { line, column, message }
    }

    /// Where a name first stands as a word of its own.
    fn find(&self, name: &str) -> (usize, usize) {
        let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
        for (line, text) in self.source.lines().enumerate() {
            for (start, _) in text.match_indices(name) {
                let before = text[..start].chars().next_back().is_some_and(word);
                let after = text[start + name.len()..].chars().next().is_some_and(word);
                if !before && !after {
                    return (line + 1, start + 1);
                }
            }
        }
        (1, 1)
    }

    fn check(&self, expression: &IdedExpr, known: &Vec<String>) -> Result<(), CompileError> {
        match &expression.expr {
            Expr::Ident(name) => {
                if known.contains(name) || library::is_type(name) {
                    return Ok(());
                }
                Err(self.undeclared(name))
            }
            Expr::Call(call) => {
                let prefix = call.target.as_deref().and_then(|target| match &target.expr {
                    Expr::Ident(name) if !known.contains(name) => Some(name.as_str()),
                    _ => None,
                });
                let mut inner = known.clone();
                let skipped = library::bound(prefix, &call.func_name, call.args.len());
                for argument in &call.args[..skipped] {
                    match &argument.expr {
                        Expr::Ident(name) => inner.push(name.clone()),
                        _ => {
                            let (line, column) = self.find(&call.func_name);
                            let message = "argument must be a simple name".to_owned();
                            return Err(CompileError::Invalid { line, column, message });
                        }
                    }
                }
                let full = prefix.map(|prefix| format!("{prefix}.{}", call.func_name));
                let is_function = match &full {
                    Some(full) => library::is_function(full),
                    None => library::is_function(&call.func_name),
                };
                if !is_function {
                    // A target that is no variable is what is wrong, if the method exists.
                    return Err(match prefix {
                        Some(prefix) if library::is_function(&call.func_name) => {
                            self.undeclared(prefix)
                        }
                        _ => self.undeclared(&call.func_name),
                    });
                }
                if let Some(target) = call.target.as_deref().filter(|_| prefix.is_none()) {
                    self.check(target, known)?;
                }
                call.args[skipped..].iter().try_for_each(|argument| self.check(argument, &inner))
            }
            Expr::Comprehension(it) => {
                self.check(&it.iter_range, known)?;
                let mut inner = known.clone();
                inner.extend([it.iter_var.clone(), it.accu_var.clone()]);
                [&it.accu_init, &it.loop_cond, &it.loop_step, &it.result]
                    .into_iter()
                    .try_for_each(|part| self.check(part, &inner))
            }
            Expr::Unspecified
            | Expr::List(_)
            | Expr::Literal(_)
            | Expr::Map(_)
            | Expr::Select(_)
            | Expr::Struct(_) => {
                parts(expression).into_iter().try_for_each(|part| self.check(part, known))
            }
        }
    }
}

pub(crate) fn uses(root: &IdedExpr, variable: &str) -> bool {
    let mut open = vec![root];
    while let Some(expression) = open.pop() {
        if matches!(&expression.expr, Expr::Ident(name) if name == variable) {
            return true;
        }
        open.extend(parts(expression));
    }
    false
}

pub(crate) fn selections(root: &IdedExpr, variable: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(expression) = open.pop() {
        let mut path = Vec::new();
        let mut at = expression;
        while let Expr::Select(select) = &at.expr {
            path.push(select.field.clone());
            at = &select.operand;
        }
        match &at.expr {
            Expr::Ident(name) if name == variable => {
                path.reverse();
                found.push(path);
            }
            _ => open.extend(parts(at)),
        }
    }
    found
}
