//! The caller's terminal: raw mode while a container has it, and its size.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether input comes from a person.
pub fn has_input() -> bool {
    io::stdin().is_terminal()
}

/// Whether input comes from a person and output goes to one.
pub fn is_interactive() -> bool {
    has_input() && io::stdout().is_terminal()
}

/// Raw mode: every key goes to the container, `Ctrl-C` included. Ends when dropped.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Switches to raw mode; none if input is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        if !has_input() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "cannot restore the terminal; `reset` does");
        }
    }
}

/// Columns and rows.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
