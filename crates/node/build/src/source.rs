//! The Dockerfile's text, and places in it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parse_dockerfile::{Dockerfile, Instruction};

use crate::error::{BuildError, Place, Problem};
use crate::heredoc::{self, Bodies};

const SHOWN: usize = 100;

/// A Dockerfile that was read.
pub(crate) struct Source {
    pub path: PathBuf,
    /// As written.
    pub text: String,
    /// As parsed: the same length, with some bodies blanked.
    parsed: String,
    bodies: Bodies,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Self, BuildError> {
        let text = fs::read_to_string(path)
            .map_err(|source| BuildError::Read { path: path.to_owned(), source })?;
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let backquote = head.map(|line| line.replace(' ', "")).any(|line| line == "#escape=`");
        let (parsed, bodies) = heredoc::blank(&text, if backquote { '`' } else { '\\' });
        Ok(Self { path: path.to_owned(), text, parsed, bodies })
    }

    /// The whole text of a command whose here-documents were kept from the parser; it begins at `start`.
    pub(crate) fn with_bodies(&self, start: usize, end: usize) -> Option<&str> {
        let (line_end, close) = self.bodies.range(start..).next()?;
        // Only blanks may stand between the command the parser saw and the end of its line.
        let same = self.text.get(end..*line_end).is_some_and(|rest| rest.trim().is_empty());
        (same || end > *line_end).then(|| self.text[start..*close].trim_start())
    }

    pub(crate) fn parse(&self) -> Result<Dockerfile<'_>, BuildError> {
        parse_dockerfile::parse(&self.parsed).map_err(|error| {
            let text = self.text.lines().nth(error.line().saturating_sub(1)).unwrap_or("").trim();
            let place =
                Place { path: self.path.clone(), line: error.line(), text: text.to_owned() };
            BuildError::at(place, Problem::Syntax(error.to_string()))
        })
    }

    /// The place of an instruction.
    pub(crate) fn place(&self, instruction: &Instruction<'_>) -> Place {
        let start = keyword(instruction).start;
        let line = 1 + self.text[..start].bytes().filter(|byte| *byte == b'\n').count();
        Place { path: self.path.clone(), line, text: self.line_of(instruction) }
    }

    /// The instruction in one shortened line.
    pub(crate) fn line_of(&self, instruction: &Instruction<'_>) -> String {
        let rest = &self.text[keyword(instruction).start..];
        let mut shown = String::new();
        for line in rest.lines() {
            let trimmed = line.trim_end();
            let more = trimmed.ends_with('\\') || trimmed.ends_with('`');
            let words = trimmed.trim_end_matches(['\\', '`']).split_whitespace();
            for word in words {
                if !shown.is_empty() {
                    shown.push(' ');
                }
                shown.push_str(word);
            }
            if !more || shown.len() > SHOWN {
                break;
            }
        }
        match shown.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }
}

fn keyword(instruction: &Instruction<'_>) -> Range<usize> {
    match instruction {
        Instruction::Add(one) => one.add.span.clone(),
        Instruction::Arg(one) => one.arg.span.clone(),
        Instruction::Cmd(one) => one.cmd.span.clone(),
        Instruction::Copy(one) => one.copy.span.clone(),
        Instruction::Entrypoint(one) => one.entrypoint.span.clone(),
        Instruction::Env(one) => one.env.span.clone(),
        Instruction::Expose(one) => one.expose.span.clone(),
        Instruction::From(one) => one.from.span.clone(),
        Instruction::Healthcheck(one) => one.healthcheck.span.clone(),
        Instruction::Label(one) => one.label.span.clone(),
        Instruction::Maintainer(one) => one.maintainer.span.clone(),
        Instruction::Onbuild(one) => one.onbuild.span.clone(),
        Instruction::Run(one) => one.run.span.clone(),
        Instruction::Shell(one) => one.shell.span.clone(),
        Instruction::Stopsignal(one) => one.stopsignal.span.clone(),
        Instruction::User(one) => one.user.span.clone(),
        Instruction::Volume(one) => one.volume.span.clone(),
        Instruction::Workdir(one) => one.workdir.span.clone(),
        // The parser's type is open; what it may add later has no place yet.
        _ => 0..0,
    }
}

/// A shell command as written: continued lines joined, comment lines between them left out.
pub(crate) fn unfold(text: &str, escape: char) -> String {
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        if number > 0 && line.trim_start().starts_with('#') {
            continue;
        }
        match line.trim_end().strip_suffix(escape) {
            Some(line) => out.push_str(line),
            None => out.push_str(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_lines_and_drops_comments_between_them() {
        let text = "echo hi \\\n  # comment\n  && echo \"two\"";
        assert_eq!(unfold(text, '\\'), "echo hi   && echo \"two\"");
    }
}
