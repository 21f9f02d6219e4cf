//! `berth serve` and `berth reset`: the server itself, and its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use ipnet::Ipv4Net;

use crate::arguments::RegistryFlags;
use crate::failure::Failure;
use crate::host::{EtcdSettings, Host, ServeSettings};
use crate::screen;
use crate::session::privileged;

/// Flags of `berth serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Where the API listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Name of this node; otherwise that of the machine
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Addresses of pods
    #[arg(long, default_value = "10.42.0.0/16", value_name = "NETWORK")]
    pub pod_cidr: Ipv4Net,
    /// Addresses of Services
    #[arg(long, default_value = "10.43.0.0/16", value_name = "NETWORK")]
    pub service_cidr: Ipv4Net,
    /// What names of interfaces, cgroups and packet rules begin with: 1 to 8 lower-case letters
    #[arg(long, default_value = "berth", value_name = "NAME", value_parser = instance)]
    pub instance: String,
    #[command(flatten)]
    pub store: StoreFlags,
    /// File with the keys that seal Secrets; made if it is not there. Otherwise it is in the data directory
    #[arg(long, value_name = "FILE")]
    pub secrets_key: Option<PathBuf>,
    /// What the audit log records: a Policy of `audit.k8s.io/v1`. Otherwise who did what, without the cluster's own routine
    #[arg(long, value_name = "FILE")]
    pub audit_policy: Option<PathBuf>,
    /// Whose tokens name people: an AuthenticationConfiguration of `apiserver.config.k8s.io/v1` with OpenID Connect issuers
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// What the node keeps for itself, when pods and images go, where static pods are: a KubeletConfiguration of `kubelet.config.k8s.io/v1beta1`
    #[arg(long, value_name = "FILE")]
    pub node_config: Option<PathBuf>,
    /// Where device plugins register and have their sockets; otherwise in the data directory. Most plugins are made for
    /// `/var/lib/kubelet/device-plugins`
    #[arg(long, value_name = "DIR")]
    pub device_plugins: Option<PathBuf>,
    /// Where the audit log is; otherwise in the data directory
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Where the cluster's state is kept.
#[derive(Debug, Args)]
pub struct StoreFlags {
    /// Where the cluster's state is kept: `etcd=URL[,URL...]`. Otherwise in a file of the data directory
    #[arg(long, value_name = "STORE", value_parser = StoreChoice::parse)]
    pub store: Option<StoreChoice>,
    /// Certificates that etcd's members must be signed by, PEM
    #[arg(long, value_name = "FILE", requires = "store")]
    pub etcd_ca: Option<PathBuf>,
    /// Our certificate for etcd, PEM
    #[arg(long, value_name = "FILE", requires_all = ["store", "etcd_key"])]
    pub etcd_certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires_all = ["store", "etcd_certificate"])]
    pub etcd_key: Option<PathBuf>,
}

impl StoreFlags {
    /// The etcd that is meant, if any.
    pub fn settings(self) -> Option<EtcdSettings> {
        self.store.map(|choice| EtcdSettings {
            endpoints: choice.0,
            authority: self.etcd_ca,
            identity: self.etcd_certificate.zip(self.etcd_key),
        })
    }
}

/// Flags of `berth reset`.
#[derive(Debug, Args)]
pub struct ResetArguments {
    /// Do it without asking back
    #[arg(long)]
    pub force: bool,
}

/// The members of an etcd, from `etcd=URL[,URL...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreChoice(Vec<String>);

impl StoreChoice {
    fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write `etcd=http://ADDRESS:2379`, several separated by commas";
        let urls = text.strip_prefix("etcd=").ok_or(FORM)?;
        let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
        let good = |url: &String| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
        };
        if urls.iter().all(good) { Ok(Self(urls)) } else { Err(FORM.to_owned()) }
    }
}

fn instance(text: &str) -> Result<String, String> {
    let good = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase());
    if good { Ok(text.to_owned()) } else { Err("write 1 to 8 lower-case letters".to_owned()) }
}

/// Runs the server until a signal ends it.
pub async fn serve(arguments: ServeArguments, data: &Path, host: &dyn Host) -> Result<u8, Failure> {
    privileged()?;
    let (pods, services) = (arguments.pod_cidr.trunc(), arguments.service_cidr.trunc());
    if pods.contains(&services.network()) || services.contains(&pods.network()) {
        return Err(Failure::usage(format!(
            "the networks of pods ({pods}) and of Services ({services}) overlap"
        )));
    }
    let settings = ServeSettings {
        data: data.to_owned(),
        listen: arguments.listen,
        node_name: arguments.node_name,
        pod_cidr: pods,
        service_cidr: services,
        instance: arguments.instance,
        store: arguments.store.settings(),
        secrets_key: arguments.secrets_key,
        audit_policy: arguments.audit_policy,
        authentication_config: arguments.authentication_config,
        node_config: arguments.node_config,
        device_plugins: arguments.device_plugins,
        audit_log: arguments.audit_log,
        insecure_registries: arguments.registry.insecure_registry,
    };
    host.serve(settings)
        .await
        .map_err(|error| Failure::new("the berth server ended").because(error))?;
    Ok(0)
}

/// Stops everything and removes its traces.
pub async fn reset(arguments: ResetArguments, data: &Path, host: &dyn Host) -> Result<u8, Failure> {
    privileged()?;
    if !arguments.force {
        return Err(Failure::usage(format!(
            "this ends all containers and removes all objects of the server in `{}`",
            data.display()
        ))
        .hint("say `berth reset --force` to do it; images and volumes stay"));
    }
    host.teardown(data)
        .await
        .map_err(|error| Failure::new("cannot remove everything").because(error))?;
    screen::line(
        "the server is stopped and its containers are gone; images and volumes are still here",
    );
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_their_members() {
        let parsed = StoreChoice::parse("etcd=http://a:2379,https://b:2379");
        assert_eq!(parsed, Ok(StoreChoice(vec!["http://a:2379".into(), "https://b:2379".into()])));
        for wrong in
            ["", "etcd", "etcd=", "etcd=a:2379", "redb=/x", "etcd=http://", "etcd=http://a/b"]
        {
            assert!(StoreChoice::parse(wrong).is_err(), "{wrong}");
        }
    }
}
