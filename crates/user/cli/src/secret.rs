//! `berth secret`: how Secrets are kept.

use std::path::Path;

use clap::Subcommand;
use http::Request;
use serde_json::Value;

use crate::failure::{Asking, Doing, Failure};
use crate::screen;
use crate::session::Session;

/// What to do about Secrets.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Make a new key and seal all Secrets with it, while the server goes on
    Rotate {
        /// Tell no other server of the same etcd the new key; for when a key was stolen: bring them the key file then
        #[arg(long)]
        alone: bool,
    },
}

/// Does what is said about Secrets.
pub async fn secret(command: SecretCommand, data: &Path) -> Result<u8, Failure> {
    let SecretCommand::Rotate { alone } = command;
    let client = Session::join(data).await?.client;
    let path = if alone { "/berth/v1/secrets/rotate-alone" } else { "/berth/v1/secrets/rotate" };
    let request = Request::post(path).body(Vec::new()).doing("cannot ask the server")?;
    let answer: Value = client.request(request).await.asking("cannot change the key")?;
    screen::line(format!(
        "{} Secrets are sealed with the new key {}",
        answer["sealed"],
        answer["key"].as_str().unwrap_or_default()
    ));
    Ok(0)
}
