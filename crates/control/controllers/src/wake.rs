//! Who has to look again when an object changes.

use berth_client::{Key, Mirror, Mirrored, Queue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Resource, ResourceExt};

use crate::object;

/// Wakes the controlling owner of each child that changes. An orphan is for whoever selects it, both before and after the change.
pub fn owners<C, O>(
    children: &Mirror<C>,
    owners: &Mirror<O>,
    queue: &Queue<Key>,
    selector: impl Fn(&O) -> Option<&LabelSelector> + Send + Sync + 'static,
) where
    C: Mirrored,
    O: Mirrored + Resource<DynamicType = ()>,
{
    let (to, owners) = (queue.clone(), owners.clone());
    children.listen(move |change| {
        for child in change.objects() {
            let namespace = child.namespace().unwrap_or_default();
            if let Some(owner) = object::controller(child.as_ref()) {
                if owner.kind == O::kind(&()) {
                    to.push(Key::new(namespace, &owner.name));
                }
                continue;
            }
            for owner in owners.in_namespace(&namespace) {
                if selector(&owner)
                    .is_some_and(|selector| object::selects(selector, child.labels()))
                {
                    to.push(Key::of(owner.as_ref()));
                }
            }
        }
    });
}
