//! Raw system calls that no library wraps, each with its safety argument.
