//! Disruption budgets: how many of the pods they select may go at once.
//!
//! The API server takes from the number written here when it grants an eviction, and notes the pod. A status is therefore
//! written only over the very one it was made from; when an eviction came between, everything is looked at anew.

pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use berth_client::{Key, Mirror, Queue};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::context::{Context, is_absent};
use crate::object::{controller, selects};
use plan::{Observed, Scaled};

/// What only this controller follows.
#[derive(Clone, Default)]
struct Own {
    budgets: Mirror<PodDisruptionBudget>,
    stateful_sets: Mirror<StatefulSet>,
    replication_controllers: Mirror<ReplicationController>,
}

/// Reconciles all budgets until told to stop.
pub async fn run(context: Context) {
    let (queue, own) = (Queue::new(), Own::default());
    listen(&context, &own, &queue);
    let (client, stop) = (|| context.client.clone(), &context.stop);
    let work = async {
        futures::join!(
            context.mirrors.synced(),
            own.budgets.synced(),
            own.stateful_sets.synced(),
            own.replication_controllers.synced(),
        );
        queue.serve(4, stop, |key| reconcile(&context, &own, key)).await;
    };
    futures::join!(
        own.budgets.run(Api::all(client()), stop),
        own.stateful_sets.run(Api::all(client()), stop),
        own.replication_controllers.run(Api::all(client()), stop),
        work,
    );
}

fn listen(context: &Context, own: &Own, queue: &Queue<Key>) {
    let to = queue.clone();
    own.budgets.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let (to, budgets) = (queue.clone(), own.budgets.clone());
    context.mirrors.pods.listen(move |change| {
        for pod in change.objects() {
            for budget in budgets.in_namespace(&pod.namespace().unwrap_or_default()) {
                if covers(&budget, pod) {
                    to.push(Key::of(budget.as_ref()));
                }
            }
        }
    });
    // How many there should be follows from what makes the pods.
    let wake = |namespace: String, budgets: &Mirror<PodDisruptionBudget>, to: &Queue<Key>| {
        for budget in budgets.in_namespace(&namespace) {
            to.push(Key::of(budget.as_ref()));
        }
    };
    let (to, budgets) = (queue.clone(), own.budgets.clone());
    context.mirrors.deployments.listen(move |change| {
        wake(change.object().namespace().unwrap_or_default(), &budgets, &to);
    });
    let (to, budgets) = (queue.clone(), own.budgets.clone());
    own.stateful_sets.listen(move |change| {
        wake(change.object().namespace().unwrap_or_default(), &budgets, &to);
    });
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        // Here, unlike for what makes pods, an empty selector means all.
        let everything = selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
        everything || selects(selector, pod.labels())
    })
}

/// What makes the pod, and how many of its kind there should be. Nothing for a pod nobody makes.
fn scaled(context: &Context, own: &Own, pod: &Pod) -> Option<Scaled> {
    let owner = controller(pod)?;
    let key = Key::new(pod.namespace().unwrap_or_default(), &owner.name);
    let of = |uid: Option<String>, replicas: Option<i32>| Scaled {
        uid: uid.unwrap_or_default(),
        replicas: replicas.unwrap_or(1),
    };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let set = context.mirrors.replica_sets.get(&key)?;
            let above = controller(set.as_ref()).filter(|above| above.kind == "Deployment");
            let above = above.and_then(|above| {
                context.mirrors.deployments.get(&Key::new(&key.namespace, &above.name))
            });
            Some(match above {
                Some(deployment) => {
                    of(deployment.uid(), deployment.spec.as_ref().and_then(|spec| spec.replicas))
                }
                None => of(set.uid(), set.spec.as_ref().and_then(|spec| spec.replicas)),
            })
        }
        "StatefulSet" => {
            let set = own.stateful_sets.get(&key)?;
            Some(of(set.uid(), set.spec.as_ref().and_then(|spec| spec.replicas)))
        }
        "ReplicationController" => {
            let set = own.replication_controllers.get(&key)?;
            Some(of(set.uid(), set.spec.as_ref().and_then(|spec| spec.replicas)))
        }
        _ => None,
    }
}

async fn reconcile(
    context: &Context,
    own: &Own,
    key: Key,
) -> Result<Option<Duration>, kube::Error> {
    let Some(budget) = own.budgets.get(&key) else { return Ok(None) };
    let pods = context.mirrors.pods.in_namespace(&key.namespace);
    let pods: Vec<_> = pods.into_iter().filter(|pod| covers(&budget, pod)).collect();
    let makers = pods.iter().filter_map(|pod| scaled(context, own, pod)).collect();
    let observed = Observed { budget: Arc::clone(&budget), pods, makers, now: Timestamp::now() };
    let (status, next) = plan::status(&observed);
    if budget.status.as_ref() != Some(&status) {
        let api: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), &key.namespace);
        let mut changed = budget.as_ref().clone();
        changed.metadata.managed_fields = None;
        changed.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => own.budgets.note(written),
            // An eviction was faster. The watch brings what it wrote, and that wakes us.
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(next)
}
