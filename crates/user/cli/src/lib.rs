//! The command line: flags in, requests to the API, text out.
//!
//! It is a client like kubectl: what it does to the cluster goes through the API and nothing else. Only images are
//! different: they are built and pulled straight into the machine's store, which any number of processes may open.
//! What needs the rest of the program (a server, a container for a build step) comes through [`Host`].
//!
//! All text for people is written here, and all of it through `screen`.

mod access;
mod arguments;
mod attach;
mod audit;
mod build;
mod cluster;
mod complete;
mod down;
mod exec;
mod failure;
mod host;
mod image;
mod images;
mod information;
mod input;
mod lifecycle;
mod locate;
mod logs;
mod progress;
mod ps;
mod run;
mod scale;
mod screen;
mod secret;
mod serve;
mod session;
mod stream;
mod system;
mod table;
mod terminal;
mod up;
mod words;

use std::process::ExitCode;
use std::sync::Arc;

use arguments::Command;
pub use arguments::{Cli, parse};
use failure::Failure;
pub use host::{
    EtcdSettings, Host, HostError, RestoreSettings, Restored, ServeSettings, ServerState, Started,
};

/// Does what the command line says, and returns the exit code: 0 fine, 1 the request could not be met, 2 wrong use,
/// 3 berth's own fault; for `run` and `exec` the codes that docker has.
pub async fn run(cli: Cli, host: Arc<dyn Host>) -> ExitCode {
    match dispatch(cli, &host).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

async fn dispatch(cli: Cli, host: &Arc<dyn Host>) -> Result<u8, Failure> {
    let data = cli.data_dir;
    match cli.command {
        Command::Up(arguments) => up::up(arguments, &data, host).await,
        Command::Down(arguments) => down::down(arguments, &data, &**host).await,
        Command::Ps(arguments) => ps::ps(arguments, &data).await,
        Command::Logs(arguments) => logs::logs(arguments, &data).await,
        Command::Exec(arguments) => exec::exec(arguments, &data).await,
        Command::Attach(arguments) => attach::attach(arguments, &data).await,
        Command::Run(arguments) => run::run(*arguments, &data, &**host).await,
        Command::Stop(arguments) => lifecycle::stop(arguments, &data).await,
        Command::Start(arguments) => lifecycle::start(arguments, &data).await,
        Command::Restart(arguments) => lifecycle::restart(arguments, &data).await,
        Command::Rm(arguments) => lifecycle::remove(arguments, &data).await,
        Command::Scale(arguments) => scale::scale(arguments, &data).await,
        Command::Build(arguments) => build::build(arguments, &data, &**host).await,
        Command::Image(command) => image::image(command, &data).await,
        Command::Images(arguments) => image::list(arguments, &data).await,
        Command::Pull(arguments) => image::pull(arguments, &data).await,
        Command::Push(arguments) => image::push(arguments, &data).await,
        Command::Serve(arguments) => serve::serve(arguments, &data, &**host).await,
        Command::Reset(arguments) => serve::reset(arguments, &data, &**host).await,
        Command::Access(command) => access::access(command, &data).await,
        Command::Audit(command) => audit::audit(command, &data),
        Command::System(command) => system::system(command, &data, &**host).await,
        Command::Secret(command) => secret::secret(command, &data).await,
        // The program hands it on before anything here runs, if it is the first word.
        Command::Oci(arguments) => Err(Failure::usage("`oci` has to be the first word")
            .hint(format!("write `berth oci{}`", shown(&arguments.words)))),
        Command::Kubeconfig => Ok(information::kubeconfig(&data)?),
        Command::Status => information::status(&data).await,
        Command::Version => Ok(information::version()),
        Command::Completion(arguments) => Ok(complete::completion(&arguments)),
    }
}

fn shown(words: &[std::ffi::OsString]) -> String {
    words.iter().map(|word| format!(" {}", word.to_string_lossy())).collect()
}
