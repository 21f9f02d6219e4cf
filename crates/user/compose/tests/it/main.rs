//! The loader and the objects as others use them: text in, text out.

mod corpus;
mod loading;
mod mistakes;
mod planning;
mod support;
mod zz;
