//! Runs a bundle with libcontainer, another runtime written in Rust, for the tests that compare runtimes: `--root DIR run --bundle DIR NAME`.
//!
//! A program of its own, since the library wants a process with one thread.

use std::error::Error;
use std::process::ExitCode;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::process::{Pid, WaitOptions, waitpid};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["--root", root, "run", "--bundle", bundle, name] = words[..] else {
        return failed(&"use: libcontainer --root DIR run --bundle DIR NAME");
    };
    match run(root, bundle, name) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the test shows what is said")]
fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(126)
}

/// The exit code of the container's process, as a shell has it.
fn run(root: &str, bundle: &str, name: &str) -> Result<u8, Box<dyn Error>> {
    std::fs::create_dir_all(root)?;
    let mut container = ContainerBuilder::new(name.to_owned(), SyscallType::default())
        .with_root_path(root)?
        .as_init(bundle)
        .with_systemd(false)
        .build()?;
    container.start()?;
    let pid = container.pid().and_then(|pid| Pid::from_raw(pid.as_raw()));
    let pid = pid.ok_or("the container has no process")?;
    let status = loop {
        if let Some((_, status)) = waitpid(Some(pid), WaitOptions::empty())? {
            break status;
        }
    };
    container.delete(true)?;
    let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?));
    Ok(u8::try_from(code.ok_or("the process neither ended nor was killed")?)?)
}
