//! The one binary: it wires the crates together and holds no logic of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, while the process is small and has one thread.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == berth_shim::zygote::SUBCOMMAND)
    {
        return exit_code(berth_shim::zygote::main());
    }
    ExitCode::SUCCESS
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
