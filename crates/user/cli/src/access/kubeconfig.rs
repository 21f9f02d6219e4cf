//! A person's kubeconfig: a certificate asked for and approved through the API, and the way to the server.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use berth_authority::{Issued, Kubeconfig};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::json;

use crate::failure::{Asking, Doing, Failure};
use crate::host::ServerState;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// How long the server may take to sign.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the server is reached and known.
pub struct Server {
    url: String,
    authority: String,
}

impl Server {
    /// As the administrator's own kubeconfig says, or under another URL.
    pub fn of(data: &Path, url: Option<&str>) -> Result<Self, Failure> {
        let what = "cannot read the administrator's kubeconfig";
        let state = ServerState::read(data).doing(what)?;
        let path = state.map_or_else(|| data.join("kubeconfig"), |state| state.kubeconfig);
        let config = kube::config::Kubeconfig::read_from(path).doing(what)?;
        let cluster = config.clusters.into_iter().find_map(|named| named.cluster);
        let cluster = cluster.ok_or_else(|| Failure::new(what))?;
        let bytes = cluster
            .certificate_authority_data
            .and_then(|text| berth_objects::base64_decode(&text))
            .ok_or_else(|| Failure::new(what))?;
        let authority = String::from_utf8(bytes).doing(what)?;
        let own = cluster.server.unwrap_or_default();
        Ok(Self { url: url.map_or(own, str::to_owned), authority })
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        ["https://127.", "https://localhost", "https://[::1]"]
            .iter()
            .any(|start| self.url.starts_with(start))
    }
}

/// A kubeconfig with a new certificate. The key is made here and never leaves this process but in the result.
pub async fn make(
    client: &Client,
    server: &Server,
    user: &str,
    valid: Duration,
) -> Result<String, Failure> {
    let what = format!("cannot get a certificate for `{user}`");
    let (request, key) = berth_authority::ask(user, "", &[]).doing(&what)?;
    let name = format!("berth-access-{}", uuid::Uuid::new_v4());
    let seconds = i32::try_from(valid.as_secs()).unwrap_or(i32::MAX).max(600);
    let object: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "request": ByteString(request.into_bytes()),
            "signerName": SIGNER,
            "usages": ["digital signature", "client auth"],
            "expirationSeconds": seconds,
        },
    }))
    .doing(&what)?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    api.create(&PostParams::default(), &object).await.asking(&what)?;
    let approval = json!({ "status": { "conditions": [{
        "type": "Approved", "status": "True", "reason": "BerthAccess",
        "message": "granted by an administrator with berth access",
    }] } });
    api.patch_subresource("approval", &name, &PatchParams::default(), &Patch::Merge(&approval))
        .await
        .asking(&what)?;
    let answered = |request: Option<&CertificateSigningRequest>| {
        request.is_some_and(|request| certificate(request).is_some() || failed(request).is_some())
    };
    let waited = tokio::time::timeout(PATIENCE, await_condition(api.clone(), &name, answered));
    let answer = waited
        .await
        .map_err(|_| Failure::new(&what).detail("the server did not sign it in time"))?
        .doing(&what)?
        .ok_or_else(|| Failure::new(&what).detail("the request was removed"))?;
    // It has served its purpose; the server would forget it within the hour.
    api.delete(&name, &DeleteParams::default()).await.asking(&what)?;
    if let Some(why) = failed(&answer) {
        return Err(Failure::new(what).detail(why));
    }
    let certificate = certificate(&answer).ok_or_else(|| Failure::defect(what))?;
    let identity = Issued { certificate, key };
    let config = Kubeconfig {
        name: "berth",
        server: &server.url,
        authority: &server.authority,
        identity: &identity,
    };
    Ok(config.text())
}

fn certificate(request: &CertificateSigningRequest) -> Option<String> {
    let bytes = request.status.as_ref()?.certificate.clone()?;
    String::from_utf8(bytes.0).ok()
}

fn failed(request: &CertificateSigningRequest) -> Option<String> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions.iter().find(|it| matches!(it.type_.as_str(), "Failed" | "Denied"))?;
    Some(failed.message.clone().unwrap_or_else(|| failed.type_.clone()))
}

/// Writes a kubeconfig, readable by its owner alone. An older file is replaced.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let draft = path.with_added_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&draft, path));
    written.doing(format!("cannot write `{}`", path.display()))
}
