//! Expressions of the Kubernetes API: compiled once, evaluated within bounds.
//!
//! The parser and the value type are those of `cel`, the functions those of `kube-cel`. The evaluator is our own, because
//! theirs can be neither interrupted nor counted: whoever may write a policy or a custom resource definition could stop the
//! server with one expression. See decision 0025.
//!
//! ```
//! use berth_cel::{Budget, Program, Variables};
//! use serde_json::json;
//!
//! let program = Program::compile("self.replicas <= self.limit", &["self"]).unwrap();
//! let variables = Variables::new().with("self", &json!({"replicas": 3, "limit": 5}));
//! assert!(program.truth(&variables, &mut Budget::for_call()).unwrap());
//! ```

mod authorizer;
mod bind;
mod budget;
mod check;
mod evaluate;
mod library;
mod macros;
mod native;
mod operators;
mod pattern;
mod program;

pub use authorizer::{Authorizer, Decision, Question};
pub use bind::{Form, Shape, Variables, escape, unescape};
pub use budget::Budget;
pub use pattern::pattern;
pub use program::{CompileError, EvaluateError, LONGEST, Program};
