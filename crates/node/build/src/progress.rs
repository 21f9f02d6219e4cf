//! What a build tells while it runs.

/// Hears of steps. Stages run side by side, so calls for different stages interleave.
pub trait BuildProgress: Send + Sync {
    /// Something happened in a step. Must not block for long.
    fn event(&self, step: &Step<'_>, event: Event<'_>);

    /// Something the author of the Dockerfile should know, with its place.
    fn warning(&self, text: &str);
}

/// One instruction of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// Name of the stage, or its number.
    pub stage: &'a str,
    /// Counted from 1 within the stage.
    pub number: usize,
    /// Steps in the stage.
    pub total: usize,
    /// The instruction in one line.
    pub text: &'a str,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// It begins.
    Started,
    /// It was done before; nothing runs.
    Cached,
    /// The process wrote this.
    Output(&'a [u8]),
    /// It is done.
    Done,
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl BuildProgress for Silent {
    fn event(&self, _: &Step<'_>, _: Event<'_>) {}

    fn warning(&self, _: &str) {}
}
