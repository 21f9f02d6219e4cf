//! What went wrong, with the next command to try.
//!
//! One type for all commands: nobody here does something else depending on the error, all of them only tell it.

use std::error::Error;
use std::fmt::Display;

use crate::screen;
use berth_report::chain;

type Cause = Box<dyn Error + Send + Sync>;

/// A command that could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    #[source]
    source: Option<Cause>,
    /// Lines that explain the message, shown below it.
    details: Vec<String>,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// The request could not be met.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, details: Vec::new(), hint: None, code: 1 }
    }

    /// The command was used wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(message) }
    }

    /// Berth itself is at fault.
    pub fn defect(message: impl Into<String>) -> Self {
        Self { code: 3, ..Self::new(message) }
    }

    /// Why it happened.
    #[must_use]
    pub fn because(mut self, source: impl Into<Cause>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What to try next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A line that explains.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// The exit code instead of 1.
    #[must_use]
    pub fn exit(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The error, its causes, the explaining lines and the hint.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}", chain(self));
        for line in &self.details {
            text.push_str("\n  ");
            text.push_str(line);
        }
        if let Some(hint) = &self.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
    }

    /// Prints it on standard error.
    pub fn print(&self) {
        screen::note(self.text());
    }
}

/// Says what was being done when an error came.
pub trait Doing<T> {
    /// With `what` as in "cannot pull `nginx`".
    fn doing(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<Cause>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(what.to_string()).because(error))
    }
}

/// The same for answers of the API, whose texts are cleaned.
pub trait Asking<T> {
    /// With `what` as in "cannot list pods".
    fn asking(self, what: impl Display) -> Result<T, Failure>;
}

impl<T> Asking<T> for Result<T, kube::Error> {
    fn asking(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(berth_client::Fault::from).doing(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_chain_once_and_the_hint_last() {
        let disk = std::io::Error::other("disk full");
        let failure =
            Failure::new("cannot write `x`").because(disk).detail("state: bad").hint("buy a disk");
        assert_eq!(
            failure.text(),
            "error: cannot write `x`: disk full\n  state: bad\nhint: buy a disk"
        );
        assert_eq!((failure.code(), Failure::usage("x").code()), (1, 2));
        let twice = Failure::new("cannot: disk full").because(std::io::Error::other("disk full"));
        assert_eq!(twice.text(), "error: cannot: disk full");
    }
}
