//! The `--name=value` flags of one instruction: every one is used or refused.

use std::collections::BTreeMap;

use parse_dockerfile::Flag;

use crate::error::Problem;
use crate::expand::{Variables, expand};

/// Flags not yet asked for.
pub(crate) struct Flags {
    values: BTreeMap<String, Vec<Option<String>>>,
}

impl Flags {
    /// Expands the values.
    pub(crate) fn new(
        flags: &[Flag<'_>],
        variables: &Variables,
        escape: char,
    ) -> Result<Self, Problem> {
        let mut values: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
        for flag in flags {
            let value = flag.value.as_ref().map(|value| expand(&value.value, variables, escape));
            values.entry(flag.name.value.to_string()).or_default().push(value.transpose()?);
        }
        Ok(Self { values })
    }

    /// A flag with a value, given at most once.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.values.remove(name).as_deref() {
            None => Ok(None),
            Some([Some(value)]) => Ok(Some(value.clone())),
            Some([None]) => Err(Problem::Syntax(format!("--{name} needs a value"))),
            Some(_) => Err(Problem::Syntax(format!("--{name} is given twice"))),
        }
    }

    /// A flag with values, given any number of times.
    pub(crate) fn take_all(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let values = self.values.remove(name).unwrap_or_default().into_iter();
        let needs = || Problem::Syntax(format!("--{name} needs a value"));
        values.map(|value| value.ok_or_else(needs)).collect()
    }

    /// A flag that is just there, or `=true`.
    pub(crate) fn take_switch(&mut self, name: &str) -> Result<bool, Problem> {
        match self.values.remove(name).as_deref() {
            None => Ok(false),
            Some([None]) => Ok(true),
            Some([Some(value)]) if matches!(value.as_str(), "true" | "false") => {
                Ok(value == "true")
            }
            Some(_) => {
                Err(Problem::Syntax(format!("--{name} is given twice or with an odd value")))
            }
        }
    }

    /// Refuses what nobody asked for.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(Problem::Unsupported(format!("--{name}"))),
        }
    }
}
