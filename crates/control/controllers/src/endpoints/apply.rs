//! Carries the steps of slices out.

use std::sync::Arc;

use berth_client::Key;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use tracing::debug;

use super::plan::{Content, Step};
use crate::context::{Context, or_absent};

/// Whose slices they are.
pub struct Owner<'a> {
    /// Its namespace and name.
    pub key: &'a Key,
    /// What its slices say of it; nothing when it is gone.
    pub reference: Option<OwnerReference>,
}

/// Carries one step out.
///
/// # Errors
/// When the server refuses.
pub async fn apply(
    context: &Context,
    owner: &Owner<'_>,
    slices: &[Arc<EndpointSlice>],
    step: Step,
) -> Result<(), kube::Error> {
    let Key { namespace, name } = owner.key;
    debug!(%name, %namespace, %step, "endpoints");
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), namespace);
    match step {
        Step::Create(content) => {
            let generate_name = Some(format!("{name}-"));
            let meta = ObjectMeta { generate_name, ..ObjectMeta::default() };
            let slice = slice(owner, content, meta);
            context.mirrors.slices.note(api.create(&PostParams::default(), &slice).await?);
        }
        Step::Change { slice: name, content } => {
            let known = slices.iter().find(|slice| slice.name_any() == name);
            let meta = known.map(|slice| slice.metadata.clone()).unwrap_or_default();
            let slice = slice(owner, content, meta);
            let outcome = api.replace(&name, &PostParams::default(), &slice).await;
            if let Some(slice) = or_absent(outcome)? {
                context.mirrors.slices.note(slice);
            }
        }
        Step::Delete { slice } => {
            or_absent(api.delete(&slice, &DeleteParams::default()).await)?;
        }
    }
    Ok(())
}

fn slice(owner: &Owner<'_>, content: Content, meta: ObjectMeta) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: Some(owner.key.namespace.clone()),
            labels: Some(content.labels),
            annotations: content.annotations.or(meta.annotations),
            owner_references: owner.reference.clone().map(|reference| vec![reference]),
            managed_fields: None,
            ..meta
        },
        address_type: content.family.to_owned(),
        endpoints: content.endpoints,
        ports: Some(content.ports),
    }
}
