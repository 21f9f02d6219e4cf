//! `berth system`: the cluster's state as a whole.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use berth_secrets::lock_keys;
use berth_store::backup::{self, Backup, Header};
use clap::{Args, Subcommand};
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::client::Body;
use kube::{Client, ResourceExt};

use crate::failure::{Doing, Failure};
use crate::host::{Host, RestoreSettings};
use crate::screen;
use crate::serve::StoreFlags;
use crate::session::Session;

/// What to do about the state.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Write all objects of the cluster to a file, while the server goes on. Secrets stay sealed in it
    Backup(BackupArguments),
    /// Fill an empty data directory, or an etcd, from such a file. No server may run there
    Restore(RestoreArguments),
    /// End the pods of a node in order, before its machine goes down. A server that merely stops leaves them running
    Shutdown(ShutdownArguments),
}

/// Flags of `berth system shutdown`.
#[derive(Debug, Args)]
pub struct ShutdownArguments {
    /// The node; not needed where there is only one
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// How long all pods may take together, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub within: u64,
    /// How much of that is for the pods of the system, which end last
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub critical: u64,
}

/// Flags of `berth system backup`.
#[derive(Debug, Args)]
pub struct BackupArguments {
    /// The file to write; it must not exist
    pub file: PathBuf,
    /// File with a passphrase: the keys that seal Secrets go into the backup, behind it. Without them, keep the key file apart
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The key file, where it is not in the data directory
    #[arg(long, value_name = "FILE", requires = "passphrase_file")]
    pub secrets_key: Option<PathBuf>,
}

/// Flags of `berth system restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The file to read
    pub file: PathBuf,
    /// File with the passphrase of the keys in the backup; they become the key file
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The key file, where it is or shall be if not in the data directory
    #[arg(long, value_name = "FILE")]
    pub secrets_key: Option<PathBuf>,
    /// Replace what is there. Files are kept beside, with `.before-restore` in their name; what is in an etcd is gone
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub store: StoreFlags,
}

/// Does what is said about the state.
pub async fn system(command: SystemCommand, data: &Path, host: &dyn Host) -> Result<u8, Failure> {
    match command {
        SystemCommand::Backup(arguments) => back_up(arguments, data).await,
        SystemCommand::Restore(arguments) => restore(arguments, data, host).await,
        SystemCommand::Shutdown(arguments) => shut_down(arguments, data).await,
    }
}

fn passphrase(path: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .doing(format!("cannot read the passphrase in `{}`", path.display()))?;
    let text = text.lines().next().unwrap_or_default();
    if text.is_empty() {
        return Err(Failure::new(format!("`{}` holds no passphrase", path.display())));
    }
    Ok(Some(text.to_owned()))
}

async fn back_up(arguments: BackupArguments, data: &Path) -> Result<u8, Failure> {
    let file = &arguments.file;
    let cannot = || format!("cannot write the backup `{}`", file.display());
    if file.exists() {
        return Err(Failure::new(format!("`{}` exists already", file.display())));
    }
    let mut header = Header {
        created_by: format!("berth {}", env!("CARGO_PKG_VERSION")),
        created_at: jiff::Timestamp::now().to_string(),
        keys: Vec::new(),
    };
    if let Some(passphrase) = passphrase(arguments.passphrase_file.as_ref())? {
        let path = arguments.secrets_key.unwrap_or_else(|| data.join("secrets.key"));
        let keys =
            std::fs::read(&path).doing(format!("cannot read the key file `{}`", path.display()))?;
        header.keys = lock_keys(&passphrase, &keys);
    }
    let snapshot = file.with_added_extension("snapshot");
    let draft = file.with_added_extension("new");
    let outcome = async {
        download(data, &snapshot).await?;
        write(&header, &snapshot, &draft).doing(cannot())
    };
    let outcome = outcome.await.and_then(|backup| {
        std::fs::rename(&draft, file).doing(cannot())?;
        Ok(backup)
    });
    for left in [&snapshot, &draft] {
        // The second is there only if something went wrong, and the first perhaps not.
        let _absent = std::fs::remove_file(left);
    }
    let backup = outcome?;
    screen::line(format!(
        "{} objects and records as of revision {} are in `{}`",
        backup.records.len(),
        backup.revision,
        file.display()
    ));
    if header.keys.is_empty() {
        screen::line(
            "its Secrets are sealed with keys that are not in it: keep a copy of the key file apart from it",
        );
    }
    Ok(0)
}

async fn shut_down(arguments: ShutdownArguments, data: &Path) -> Result<u8, Failure> {
    const ASKING: &str = "cannot end the pods of the node";
    let client = Session::join(data).await?.client;
    let name = match arguments.node {
        Some(name) => name,
        None => only_node(&client).await?,
    };
    let ShutdownArguments { within, critical, .. } = arguments;
    let path = format!("/api/v1/nodes/{name}/proxy/shutdown?within={within}&critical={critical}");
    let request = Request::post(path).body(Vec::new()).doing(ASKING)?;
    let said: serde_json::Value = client.request(request).await.doing(ASKING)?;
    let names = |field: &str| -> Vec<String> {
        let list = said[field].as_array().into_iter().flatten();
        list.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    screen::line(format!("{} pods of {name} have ended", names("ended").len()));
    let left = names("left");
    if left.is_empty() {
        return Ok(0);
    }
    Err(Failure::new(format!("not all pods ended within {within} s: {}", left.join(", "))).hint(
        "give them more time with --within, or see `kubectl describe pod` for what keeps them",
    ))
}

async fn only_node(client: &Client) -> Result<String, Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await.doing("cannot read the nodes")?;
    let names: Vec<String> = nodes.iter().map(ResourceExt::name_any).collect();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(Failure::new(format!("there are several nodes: {}", names.join(", ")))
            .hint("say which goes down with --node NAME")),
    }
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

async fn download(data: &Path, to: &Path) -> Result<(), Failure> {
    const ASKING: &str = "cannot get the state from the server";
    let client = Session::join(data).await?.client;
    let request = Request::post("/berth/v1/system/backup").body(Body::empty()).doing(ASKING)?;
    let response = client.send(request).await.doing(ASKING)?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let bytes = body.collect().await.doing(ASKING)?.to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let said = said["message"].as_str().unwrap_or_default();
        return Err(Failure::new(format!("{ASKING}: {status}: {said}")));
    }
    let cannot = || format!("cannot write `{}`", to.display());
    let mut out = BufWriter::new(private(to).doing(cannot())?);
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.doing(ASKING)?.into_data() {
            out.write_all(&bytes).doing(cannot())?;
        }
    }
    out.flush().doing(cannot())
}

/// Packs a snapshot, and reads back what is on the disk.
fn write(header: &Header, snapshot: &Path, draft: &Path) -> Result<Backup, backup::BackupError> {
    let mut out = BufWriter::new(private(draft)?);
    backup::pack(header, &mut BufReader::new(File::open(snapshot)?), &mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    backup::unpack(&mut BufReader::new(File::open(draft)?))
}

async fn restore(arguments: RestoreArguments, data: &Path, host: &dyn Host) -> Result<u8, Failure> {
    let settings = RestoreSettings {
        data: data.to_owned(),
        backup: arguments.file,
        store: arguments.store.settings(),
        passphrase: passphrase(arguments.passphrase_file.as_ref())?,
        secrets_key: arguments.secrets_key,
        replace: arguments.force,
    };
    let restored = host
        .restore(settings)
        .await
        .map_err(|error| Failure::new("nothing was restored").because(error))?;
    screen::line(format!(
        "{} objects and records of {}, written by {}, are restored",
        restored.records, restored.created_at, restored.created_by
    ));
    if let Some(path) = restored.missing_keys {
        screen::line(format!(
            "its Secrets are sealed: put the key file at `{}` before the server is started",
            path.display()
        ));
    }
    Ok(0)
}
