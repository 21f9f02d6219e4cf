//! From files to one merged tree: read, interpolate, bring to the long forms, extend, include, merge.

pub(crate) mod canonical;
pub(crate) mod environment;
pub(crate) mod interpolate;
pub(crate) mod merge;
pub(crate) mod node;
pub(crate) mod read;
pub(crate) mod yaml;
