//! A compiled expression.

use kube_cel::cel::IdedExpr;
use kube_cel::cel::objects::Value as CelValue;
use kube_cel::cel::parser::{ParseErrors, Parser};
use serde_json::Value;

use crate::bind::{Variables, to_json};
use crate::budget::Budget;
use crate::check;
use crate::evaluate::{Evaluation, Fault};

/// The longest expression that is compiled, in bytes.
pub const LONGEST: usize = 16 * 1024;
/// The deepest nesting of a compiled expression.
pub(crate) const DEEPEST: usize = 128;
/// The parser recurses; the deepest text of the greatest length needs no more than this.
const PARSER_STACK: usize = 64 << 20;

/// An expression that was parsed and whose names are known. Cheap to evaluate, from any thread.
#[derive(Debug)]
pub struct Program {
    source: String,
    root: IdedExpr,
}

/// Why an expression is no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The text is too long.
    #[error("the expression is longer than {LONGEST} bytes")]
    TooLong,
    /// Parts are nested too deeply.
    #[error("the expression is nested more than {DEEPEST} levels deep")]
    TooDeep,
    /// The text does not follow the grammar, or uses a name nobody knows.
    #[error("ERROR: <input>:{line}:{column}: {message}")]
    Invalid {
        /// Counted from one.
        line: usize,
        /// Counted from one.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The parser could not be run.
    #[error("cannot parse: {0}")]
    Parser(String),
}

/// Why a program has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// It does more than it may.
    #[error(
        "the expression takes more work than it may; simplify it, or bound lists and texts in the schema"
    )]
    TooMuch,
    /// An operation failed: a missing key, an operand of the wrong type.
    #[error("{0}")]
    Failed(String),
    /// The value is of another type than asked for.
    #[error("the expression gives {got}, not {wanted}")]
    Type {
        /// What it gives.
        got: String,
        /// What was asked for.
        wanted: &'static str,
    },
}

impl Program {
    /// Compiles an expression over the named variables. A variable may be left unbound; then only using it fails.
    ///
    /// # Errors
    /// When the text is no expression, is too large, or names what is neither a variable nor a function.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Self, CompileError> {
        if source.len() > LONGEST {
            return Err(CompileError::TooLong);
        }
        check::nesting(source)?;
        let parse = || -> Result<IdedExpr, CompileError> {
            let parsed = Parser::new().enable_optional_syntax(true).parse(source);
            let root = parsed.map_err(|errors| first(&errors, source))?;
            check::depth(&root)?;
            check::names(&root, variables, source)?;
            Ok(root)
        };
        // The parser recurses with the text, and may panic on what it does not expect.
        let outcome = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(PARSER_STACK);
            let thread = thread.spawn_scoped(scope, parse).map_err(|error| error.to_string())?;
            thread.join().map_err(|_| "the parser failed".to_owned())
        });
        let root = outcome.map_err(CompileError::Parser)??;
        Ok(Self { source: source.to_owned(), root })
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a variable is used anywhere.
    #[must_use]
    pub fn uses(&self, variable: &str) -> bool {
        check::uses(&self.root, variable)
    }

    /// The paths that are selected from a variable: `self.a.b` is `["a", "b"]`. A path ends where something else than a
    /// plain selection begins.
    #[must_use]
    pub fn selections(&self, variable: &str) -> Vec<Vec<String>> {
        check::selections(&self.root, variable)
    }

    fn run(
        &self,
        variables: &Variables<'_>,
        budget: &mut Budget,
    ) -> Result<CelValue, EvaluateError> {
        Evaluation::new(variables, budget).run(&self.root).map_err(|fault| match fault {
            Fault::Exhausted => EvaluateError::TooMuch,
            Fault::Failed(error) => EvaluateError::Failed(error.text()),
        })
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// When it cannot be evaluated within the budget, or is not a boolean.
    pub fn truth(
        &self,
        variables: &Variables<'_>,
        budget: &mut Budget,
    ) -> Result<bool, EvaluateError> {
        match self.run(variables, budget)? {
            CelValue::Bool(truth) => Ok(truth),
            other => Err(EvaluateError::Type { got: other.type_of().to_string(), wanted: "bool" }),
        }
    }

    /// Evaluates a text.
    ///
    /// # Errors
    /// When it cannot be evaluated within the budget, or is not a string.
    pub fn text(
        &self,
        variables: &Variables<'_>,
        budget: &mut Budget,
    ) -> Result<String, EvaluateError> {
        match self.run(variables, budget)? {
            CelValue::String(text) => Ok(text.as_str().to_owned()),
            other => {
                Err(EvaluateError::Type { got: other.type_of().to_string(), wanted: "string" })
            }
        }
    }

    /// Evaluates to JSON. Moments and durations become text, an empty optional becomes null, constructed objects become
    /// plain ones.
    ///
    /// # Errors
    /// When it cannot be evaluated within the budget, or has no form in JSON.
    pub fn json(
        &self,
        variables: &Variables<'_>,
        budget: &mut Budget,
    ) -> Result<Value, EvaluateError> {
        let value = self.run(variables, budget)?;
        to_json(&value).map_err(EvaluateError::Failed)
    }

    /// Evaluates and binds the outcome to a name for further programs, with all its types.
    ///
    /// # Errors
    /// When it cannot be evaluated within the budget.
    pub fn bind(
        &self,
        variables: &mut Variables<'_>,
        name: &str,
        budget: &mut Budget,
    ) -> Result<(), EvaluateError> {
        let value = self.run(variables, budget)?;
        variables.set(name, value);
        Ok(())
    }
}

fn first(errors: &ParseErrors, source: &str) -> CompileError {
    let Some(error) = errors.errors.first() else {
        return CompileError::Parser("unknown syntax".to_owned());
    };
    let place = |number: isize| usize::try_from(number).unwrap_or(0).max(1);
    let lines = source.lines().count().max(1);
    CompileError::Invalid {
        line: place(error.pos.0).min(lines),
        column: place(error.pos.1),
        message: error.msg.clone(),
    }
}
