//! The one binary: it wires the crates together and holds no logic of its own.

mod background;
mod ballast;
mod cluster;
mod custody;
mod host;
mod lock;
mod names;
mod nodes;
mod peers;
mod restore;
mod runner;
mod serve;
mod teardown;

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    // First of all, while the process is small and has one thread.
    match std::env::args_os().nth(1) {
        Some(word) if word == berth_shim::zygote::SUBCOMMAND => {
            if let Err(error) = berth_sys::exec::run_from_read_only() {
                return failed(&error);
            }
            return exit_code(berth_shim::zygote::main());
        }
        Some(word) if word == names::SUBCOMMAND => return names::main(),
        Some(word) if word == berth_oci::SUBCOMMAND => {
            let words = std::env::args_os().skip(2);
            let shelter = &berth_sys::exec::run_from_read_only;
            return ExitCode::from(berth_oci::main(words, &mut std::io::stdout(), shelter));
        }
        _ => {}
    }
    let cli = match berth_cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let mut builder = match cli.is_laborious() {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(berth_cli::run(cli, Arc::new(host::Program)));
    // Blocking work that is still under way, such as a terminal that is being read, must not hold up the exit.
    runtime.shutdown_background();
    code
}

/// Messages before there is a command line to print them.
#[expect(clippy::print_stderr, reason = "there is nobody else yet who could")]
fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(3)
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
