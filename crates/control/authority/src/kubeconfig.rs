//! Kubeconfig files: how unmodified kubectl and helm find and enter the cluster.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::{AuthorityError, Issued, file};

/// One way into one cluster.
#[derive(Debug)]
pub struct Kubeconfig<'a> {
    /// The name given to cluster, user and context.
    pub name: &'a str,
    /// The server's URL, `https://127.0.0.1:6443`.
    pub server: &'a str,
    /// The authority's certificate, PEM.
    pub authority: &'a str,
    /// The client certificate.
    pub identity: &'a Issued,
}

impl Kubeconfig<'_> {
    /// The file's text. It is JSON, and thereby YAML.
    #[must_use]
    pub fn text(&self) -> String {
        let encode = |pem: &str| STANDARD.encode(pem);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.name, "cluster": {
                "server": self.server,
                "certificate-authority-data": encode(self.authority),
            }}],
            "users": [{"name": self.name, "user": {
                "client-certificate-data": encode(&self.identity.certificate),
                "client-key-data": encode(&self.identity.key),
            }}],
            "contexts": [{"name": self.name, "context": {
                "cluster": self.name,
                "user": self.name,
            }}],
            "current-context": self.name,
        });
        format!("{config:#}\n")
    }

    /// Writes the file, readable by its owner only, replacing an older one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), AuthorityError> {
        file::write(path, self.text().as_bytes())
    }
}
