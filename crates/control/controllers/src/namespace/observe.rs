//! What a namespace holds that matters here.

use std::sync::Arc;

use berth_client::Key;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use crate::catalogue::{Catalogue, Kind};
use crate::context::Context;
use crate::object::is_going;

/// The ServiceAccount of pods that name none.
pub const ACCOUNT: &str = "default";
/// The ConfigMap with the certificate by which pods know the API server.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// The key within that ConfigMap.
pub const ROOT_CA_KEY: &str = "ca.crt";

/// An object of a namespace that ends.
#[derive(Debug, Clone)]
pub struct Content {
    /// Its kind.
    pub(crate) kind: Arc<Kind>,
    /// Its name.
    pub name: String,
    /// Which one of that name.
    pub uid: String,
    /// Whether it has been told to go.
    pub going: bool,
}

/// A namespace, and what is in it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// Whether it has the ServiceAccount.
    pub account: bool,
    /// What its ConfigMap says, if it has one.
    pub root_ca: Option<String>,
    /// What is left in it; looked at only when it ends.
    pub contents: Vec<Content>,
}

pub(crate) fn observe(
    context: &Context,
    catalogue: &Catalogue,
    namespace: Arc<Namespace>,
) -> Observed {
    let name = namespace.name_any();
    let root_ca = context.mirrors.config_maps.get(&Key::new(&name, ROOT_CA));
    let mut contents = Vec::new();
    if is_going(namespace.as_ref()) {
        for (kind, meta) in catalogue.in_namespace(&name) {
            contents.push(Content {
                kind,
                name: meta.name_any(),
                uid: meta.uid().unwrap_or_default(),
                going: is_going(meta.as_ref()),
            });
        }
    }
    Observed {
        account: context.mirrors.accounts.get(&Key::new(&name, ACCOUNT)).is_some(),
        root_ca: root_ca.map(|map| {
            map.data.as_ref().and_then(|data| data.get(ROOT_CA_KEY)).cloned().unwrap_or_default()
        }),
        contents,
        namespace,
    }
}
