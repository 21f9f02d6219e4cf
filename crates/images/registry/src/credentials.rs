//! Who we are to a registry, from docker's configuration file.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::RegistryError;

/// A name and its password. Debug shows the name only.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Who.
    pub username: String,
    /// Password or access token.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credential")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Credentials by registry.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    by_registry: HashMap<String, Credential>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Credentials {
    /// From a file like `~/.docker/config.json`; none if there is no such file.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be understood.
    pub fn load(path: &Path) -> Result<Self, RegistryError> {
        let shown = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &shown),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(RegistryError::Credentials { path: shown, what: error.to_string() }),
        }
    }

    /// From the text of such a file, or of a `kubernetes.io/dockerconfigjson` Secret; `path` is for messages.
    ///
    /// # Errors
    ///
    /// When it cannot be understood.
    pub fn parse(text: &str, path: &str) -> Result<Self, RegistryError> {
        let bad = |what: String| RegistryError::Credentials { path: path.to_owned(), what };
        let file: File = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        let mut credentials = Self::default();
        for (registry, entry) in file.auths {
            let (username, password) = if entry.auth.is_empty() {
                (entry.username, entry.password)
            } else {
                let decoded = STANDARD.decode(entry.auth.trim()).ok();
                let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
                let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
                let (username, password) = pair.ok_or_else(|| {
                    bad(format!("the entry of `{registry}` is not user:password"))
                })?;
                (username.to_owned(), password.to_owned())
            };
            // An empty entry means that a credential helper has it.
            if !username.is_empty() {
                credentials.insert(&registry, Credential { username, password });
            }
        }
        Ok(credentials)
    }

    /// From the text of a `kubernetes.io/dockercfg` Secret, an older form of the same; `path` is for messages.
    ///
    /// # Errors
    ///
    /// When it cannot be understood.
    pub fn parse_old(text: &str, path: &str) -> Result<Self, RegistryError> {
        Self::parse(&format!("{{\"auths\": {text}}}"), path)
    }

    /// Adds those of registries that are not known yet.
    pub fn add(&mut self, others: Self) {
        for (registry, credential) in others.by_registry {
            self.by_registry.entry(registry).or_insert(credential);
        }
    }

    /// Adds or replaces the credential of a registry.
    pub fn insert(&mut self, registry: &str, credential: Credential) {
        self.by_registry.insert(host(registry), credential);
    }

    /// The credential of a registry, `docker.io` for the default one.
    pub fn of(&self, registry: &str) -> Option<&Credential> {
        self.by_registry.get(&host(registry))
    }
}

/// Docker writes `https://index.docker.io/v1/` where a reference says `docker.io`.
fn host(registry: &str) -> String {
    let rest = registry.trim_start_matches("https://").trim_start_matches("http://");
    let host = rest.split('/').next().unwrap_or(rest);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_login_writes() {
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnc="}, "r:5000": {"username": "a", "password": "b"}, "helper": {}}}"#;
        let credentials = Credentials::parse(text, "config.json").unwrap();
        let docker = credentials.of("docker.io").unwrap();
        assert_eq!((docker.username.as_str(), docker.password.as_str()), ("u", "p:w"));
        assert_eq!(credentials.of("r:5000").unwrap().username, "a");
        assert!(credentials.of("helper").is_none());
        assert_eq!(format!("{docker:?}"), "Credential { username: \"u\", .. }");
        let mut all = credentials.clone();
        let old = r#"{"r:5000": {"auth": "Yzpk"}, "s": {"auth": "Yzpk"}}"#;
        all.add(Credentials::parse_old(old, "f").unwrap());
        assert_eq!(all.of("r:5000").unwrap().username, "a", "what is known stays");
        assert_eq!(all.of("s").unwrap().password, "d");
        assert!(Credentials::parse(r#"{"auths": {"x": {"auth": "!"}}}"#, "f").is_err());
    }
}
