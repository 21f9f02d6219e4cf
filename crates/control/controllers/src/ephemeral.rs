//! Claims that belong to one pod: made from the template in its volume, and gone with it.

use std::time::Duration;

use berth_client::{Change, Key, Level, Queue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tracing::info;

use crate::context::Context;
use crate::object::is_finished;

/// Makes such claims until told to stop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    let to = queue.clone();
    context.mirrors.pods.listen(move |change| {
        if let Change::Put { new, .. } = change
            && wants_any(new)
        {
            to.push(Key::of(new.as_ref()));
        }
    });
    let (to, pods) = (queue.clone(), context.mirrors.pods.clone());
    context.mirrors.claims.listen(move |change| {
        // One that is gone may have to be made anew, also where it was somebody else's before.
        if let Change::Gone { old } = change {
            let namespace = old.namespace().unwrap_or_default();
            let wanting = pods.in_namespace(&namespace).into_iter().filter(|pod| wants_any(pod));
            wanting.for_each(|pod| to.push(Key::of(pod.as_ref())));
        }
    });
    context.mirrors.synced().await;
    queue.serve(4, &context.stop, |key| reconcile(&context, key)).await;
}

fn wants_any(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let going = pod.metadata.deletion_timestamp.is_some() || is_finished(pod);
    !going && volumes.into_iter().any(|volume| volume.ephemeral.is_some())
}

/// The claims a pod has to have.
fn claims(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let templates = volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let said = template.metadata.clone().unwrap_or_default();
        Some(PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(format!("{}-{}", pod.name_any(), volume.name)),
                namespace: pod.namespace(),
                labels: said.labels,
                annotations: said.annotations,
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        })
    });
    templates.collect()
}

/// Whether a claim was made for this very pod.
fn is_of(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    claim.owner_references().iter().any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

async fn reconcile(context: &Context, key: Key) -> Result<Option<Duration>, kube::Error> {
    let Some(pod) = context.mirrors.pods.get(&key).filter(|pod| wants_any(pod)) else {
        return Ok(None);
    };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut failed = None;
    for claim in claims(&pod) {
        let name = claim.name_any();
        let known = context.mirrors.claims.get(&Key::new(&key.namespace, &name));
        if known.as_ref().is_some_and(|known| is_of(known, &pod)) {
            continue;
        }
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => info!(pod = %key, claim = name, "created the claim of a pod"),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let there = api.get_opt(&name).await?;
                if there.is_some_and(|there| !is_of(&there, &pod)) {
                    let why =
                        format!("PersistentVolumeClaim \"{name}\" was not created for this pod");
                    context.recorder.record(pod.as_ref(), Level::Warning, "FailedBinding", why);
                }
            }
            Err(error) => {
                if let kube::Error::Api(status) = &error {
                    let why = format!("cannot create claim {name}: {}", status.message);
                    context.recorder.record(pod.as_ref(), Level::Warning, "FailedBinding", why);
                }
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": [], "volumes": [
                {"name": "data", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"accessModes": ["ReadWriteOnce"],
                             "resources": {"requests": {"storage": "1Gi"}}}}}},
                {"name": "tmp", "emptyDir": {}},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_owns_the_claims_of_its_templates() {
        let pod = pod();
        let all = claims(&pod);
        assert_eq!(all.len(), 1);
        let claim = &all[0];
        assert_eq!(
            (claim.name_any(), claim.namespace().unwrap()),
            ("db-data".into(), "shop".into())
        );
        assert_eq!(claim.labels()["a"], "b");
        assert!(is_of(claim, &pod));
        let mut other = pod.clone();
        other.metadata.uid = Some("u2".to_owned());
        assert!(!is_of(claim, &other));
    }

    #[test]
    fn pods_that_are_going_need_none() {
        let mut pod = pod();
        assert!(wants_any(&pod));
        pod.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
        assert!(!wants_any(&pod));
    }
}
