//! The one binary: it wires the crates together and holds no logic of its own.

fn main() {}
