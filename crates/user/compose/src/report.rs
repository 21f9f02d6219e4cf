//! What the loader has to say: problems that stop it, findings that do not, each with file, line and column.
//!
//! Steps never return at the first mistake. They write it here and go on, so that one run shows everything.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in a Compose file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The file as it was named or found.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Good to know; the application behaves as written.
    Note,
    /// Something in the file has no effect, or another one than with Docker.
    Warning,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
        })
    }
}

/// Something worth telling that does not stop the project from loading.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// Where it stands.
    pub position: Position,
    /// The attribute, for example `services.web.logging`.
    pub path: String,
    /// What is so, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: `{}` {}", self.position, self.level, self.path, self.message)
    }
}

/// A mistake in the file that keeps the project from loading.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Where it stands.
    pub position: Position,
    /// The attribute, for example `services.web.ports[0]`; empty where the file is no YAML at all.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// The file or directory that the mistake is about, when it is one that does not exist.
    pub missing: Option<PathBuf>,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.position)?;
        if !self.path.is_empty() {
            write!(formatter, "`{}`: ", self.path)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Where every step leaves what it noticed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
    findings: Vec<Finding>,
    unset: HashMap<Position, Vec<String>>,
}

impl Report {
    /// Remembers that the value there is not what was meant, in case it turns out to be wrong.
    pub(crate) fn unset(&mut self, at: &Position, variable: String) {
        self.unset.entry(at.clone()).or_default().push(variable);
    }

    /// How many problems there are, to see whether a step added some.
    pub(crate) fn problems(&self) -> usize {
        self.problems.len()
    }

    pub(crate) fn problem(&mut self, at: &Position, path: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            position: at.clone(),
            path: path.to_owned(),
            message: message.into(),
            missing: None,
        });
    }

    pub(crate) fn missing(
        &mut self,
        at: &Position,
        path: &str,
        file: &Path,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem {
            position: at.clone(),
            path: path.to_owned(),
            message: message.into(),
            missing: Some(file.to_owned()),
        });
    }

    pub(crate) fn warn(&mut self, at: &Position, path: &str, message: impl Into<String>) {
        self.find(Level::Warning, at, path, message.into());
    }

    pub(crate) fn note(&mut self, at: &Position, path: &str, message: impl Into<String>) {
        self.find(Level::Note, at, path, message.into());
    }

    fn find(&mut self, level: Level, at: &Position, path: &str, message: String) {
        self.findings.push(Finding { level, position: at.clone(), path: path.to_owned(), message });
    }

    /// The findings, or the problems if there are any; each once, in the order of the files.
    pub(crate) fn finish(mut self) -> Result<Vec<Finding>, Vec<Problem>> {
        if self.problems.is_empty() {
            let mut seen = HashSet::new();
            self.findings.retain(|finding| seen.insert(finding.clone()));
            self.findings.sort_by(|a, b| a.position.cmp(&b.position));
            return Ok(self.findings);
        }
        // An anchor used ten times holds its mistake once.
        let mut seen = HashSet::new();
        self.problems
            .retain(|problem| seen.insert((problem.position.clone(), problem.message.clone())));
        for problem in &mut self.problems {
            if let Some(variables) = self.unset.get(&problem.position) {
                let names = variables.join("`, `");
                problem.message.push_str(&format!(" (the variable `{names}` is not set)"));
            }
        }
        self.problems.sort_by(|a, b| a.position.cmp(&b.position));
        Err(self.problems)
    }
}
