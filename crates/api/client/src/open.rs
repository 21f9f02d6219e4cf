//! From a kubeconfig file to a client.
//!
//! The crypto provider is ring, because it is the only one that is compiled in: rustls takes the only one there is.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is not there or not what it should be.
    #[error("cannot use the kubeconfig `{}`", .path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KubeconfigError,
    },
    /// The connection cannot be prepared.
    #[error("cannot prepare a connection to the server of `{}`", .path.display())]
    Client {
        /// The file.
        path: PathBuf,
        /// Why.
        source: kube::Error,
    },
}

/// A client for the current context of a kubeconfig file. Connects with the first request.
///
/// # Errors
/// When the file or what is in it cannot be used.
pub async fn open(kubeconfig: &Path) -> Result<Client, OpenError> {
    let path = || kubeconfig.to_owned();
    let unusable = |source| OpenError::Kubeconfig { path: path(), source };
    let text = Kubeconfig::read_from(kubeconfig).map_err(unusable)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(text, &options).await.map_err(unusable)?;
    Client::try_from(config).map_err(|source| OpenError::Client { path: path(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_the_file_that_is_missing() {
        let Err(error) = open(Path::new("/nowhere/kubeconfig")).await else { panic!("no file") };
        assert_eq!(error.to_string(), "cannot use the kubeconfig `/nowhere/kubeconfig`");
    }
}
