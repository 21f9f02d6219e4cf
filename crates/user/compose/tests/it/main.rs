//! The loader and the objects as others use them: text in, text out.
#![allow(clippy::unwrap_used, reason = "tests")]

mod corpus;
mod loading;
mod mistakes;
mod planning;
mod support;
