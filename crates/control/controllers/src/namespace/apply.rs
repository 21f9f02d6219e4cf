//! Carries the steps of a namespace out.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams,
    Preconditions, Request,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::debug;

use super::observe::{ACCOUNT, Content, Observed, ROOT_CA, ROOT_CA_KEY};
use super::plan::Step;
use crate::catalogue::{Meta, kinds, unreachable};
use crate::context::{Context, is_absent, is_present, or_absent};

/// Why a step could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The server refused or could not be reached.
    #[error(transparent)]
    Refused(#[from] kube::Error),
    /// The mirrors have not told of an object yet.
    #[error("the namespace still holds {count} {kind}")]
    NotEmpty {
        /// The kind, in plural.
        kind: String,
        /// How many at least.
        count: usize,
    },
    /// Another server does not say what it has.
    #[error("the server of {0} cannot be asked what it has in the namespace")]
    Unreachable(String),
}

/// Carries all steps out, deletions at once.
///
/// # Errors
/// The first that failed.
pub async fn apply(
    context: &Context,
    observed: &Observed,
    steps: Vec<Step>,
) -> Result<(), ApplyError> {
    let namespace = observed.namespace.name_any();
    let carried = steps.into_iter().map(|step| {
        debug!(%namespace, %step, "namespace");
        one(context, &namespace, step)
    });
    join_all(carried).await.into_iter().collect()
}

async fn one(context: &Context, namespace: &str, step: Step) -> Result<(), ApplyError> {
    match step {
        Step::CreateAccount => {
            create_account(&context.as_account("service-account-controller"), namespace).await?;
        }
        Step::CreateRootCa => {
            create_root_ca(&context.as_account("root-ca-cert-publisher"), namespace).await?;
        }
        Step::ChangeRootCa => {
            let context = context.as_account("root-ca-cert-publisher");
            let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
            let patch = json!({ "data": { ROOT_CA_KEY: context.settings.ca_pem } });
            let params = PatchParams::default();
            let outcome = api.patch(ROOT_CA, &params, &Patch::Merge(&patch)).await;
            if let Some(map) = or_absent(outcome)? {
                context.mirrors.config_maps.note(map);
            }
        }
        Step::Delete(content) => delete(context, namespace, &content).await?,
        Step::Finalize => finalize(context, namespace).await?,
    }
    Ok(())
}

async fn create_account(context: &Context, namespace: &str) -> Result<(), kube::Error> {
    let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(ACCOUNT.to_owned()), ..ObjectMeta::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    match api.create(&PostParams::default(), &account).await {
        Ok(account) => context.mirrors.accounts.note(account),
        Err(error) if is_present(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn create_root_ca(context: &Context, namespace: &str) -> Result<(), kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(ROOT_CA.to_owned()), ..ObjectMeta::default() };
    let data = [(ROOT_CA_KEY.to_owned(), context.settings.ca_pem.clone())];
    let map = ConfigMap { metadata, data: Some(data.into()), ..ConfigMap::default() };
    match api.create(&PostParams::default(), &map).await {
        Ok(map) => context.mirrors.config_maps.note(map),
        Err(error) if is_present(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn delete(context: &Context, namespace: &str, content: &Content) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> = content.kind.api(&context.client, namespace);
    let only = Preconditions { uid: Some(content.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::background() };
    match api.delete(&content.name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets the namespace go, after a last look at the server itself. Events are not mirrored and go here.
async fn finalize(context: &Context, namespace: &str) -> Result<(), ApplyError> {
    // What cannot be asked may have objects here, which nobody would find afterwards.
    if let Some(version) = unreachable(&context.client).await?.into_iter().next() {
        return Err(ApplyError::Unreachable(version));
    }
    for kind in kinds(&context.client).await?.into_values().filter(|kind| kind.namespaced) {
        let api: Api<Meta> = kind.api(&context.client, namespace);
        if kind.resource.plural == "events" {
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
            continue;
        }
        let left = match api.list(&ListParams::default().limit(1)).await {
            Ok(list) => list.items.len(),
            Err(error) if is_absent(&error) => 0,
            Err(error) => return Err(error.into()),
        };
        if left > 0 {
            return Err(ApplyError::NotEmpty { kind: kind.resource.plural, count: left });
        }
    }
    let body = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": namespace },
        "spec": { "finalizers": [] },
    });
    let body = serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?;
    let request = Request::new("/api/v1/namespaces")
        .replace_subresource("finalize", namespace, &PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)?;
    or_absent(context.client.request::<Value>(request).await)?;
    Ok(())
}
