//! Carries the steps of a Service's slices out.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use tracing::debug;

use super::observe::Observed;
use super::plan::{Content, Step};
use crate::context::{Context, or_absent};
use crate::object::controlled_by;

/// Carries one step out.
///
/// # Errors
/// When the server refuses.
pub async fn apply(context: &Context, observed: &Observed, step: Step) -> Result<(), kube::Error> {
    let service = observed.service.as_ref();
    let namespace = service.namespace().unwrap_or_default();
    debug!(service = %service.name_any(), %namespace, %step, "endpoints");
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &namespace);
    match step {
        Step::Create(content) => {
            let slice = slice(
                observed,
                content,
                ObjectMeta {
                    generate_name: Some(format!("{}-", service.name_any())),
                    ..ObjectMeta::default()
                },
            );
            context.mirrors.slices.note(api.create(&PostParams::default(), &slice).await?);
        }
        Step::Change { slice: name, content } => {
            let known = observed.slices.iter().find(|slice| slice.name_any() == name);
            let meta = known.map(|slice| slice.metadata.clone()).unwrap_or_default();
            let slice = slice(observed, content, meta);
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

fn slice(observed: &Observed, content: Content, meta: ObjectMeta) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: observed.service.namespace(),
            labels: Some(content.labels),
            owner_references: Some(vec![controlled_by(observed.service.as_ref())]),
            managed_fields: None,
            ..meta
        },
        address_type: "IPv4".to_owned(),
        endpoints: content.endpoints,
        ports: Some(content.ports),
    }
}
