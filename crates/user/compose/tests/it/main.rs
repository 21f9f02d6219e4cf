//! The loader and the objects as others use them: text in, text out.
<<<<<<< HEAD
#![allow(clippy::unwrap_used, reason = "tests")]
=======
>>>>>>> cli

mod corpus;
mod loading;
mod mistakes;
mod planning;
mod support;
<<<<<<< HEAD
=======
mod zz;
>>>>>>> cli
