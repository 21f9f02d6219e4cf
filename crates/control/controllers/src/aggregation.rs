//! ClusterRoles that are sums of others: their rules follow those of the roles their selectors choose.

use std::time::Duration;

use berth_client::{Mirror, Queue};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::info;

use crate::context::{Context, or_absent};

/// Keeps sums until told to stop.
pub(crate) async fn run(context: Context) {
    let roles: Mirror<ClusterRole> = Mirror::new();
    let queue = Queue::new();
    let to = queue.clone();
    // Any role may be a part of any sum, and there are few sums: one look at all of them.
    roles.listen(move |_| to.push(Look));
    let follow = roles.run(Api::all(context.client.clone()), &context.stop);
    let work = async {
        roles.synced().await;
        queue.serve(1, &context.stop, |_| reconcile(&context, &roles)).await;
    };
    futures::join!(follow, work);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Look;

impl std::fmt::Display for Look {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("aggregated roles")
    }
}

/// Roles whose rules are not the sum they should be, with that sum.
fn plan(roles: &[Value]) -> Vec<(String, Vec<Value>)> {
    let wrong = roles.iter().filter_map(|role| {
        let rules = berth_access::aggregate(role, roles)?;
        let own = role["rules"].as_array().cloned().unwrap_or_default();
        let name = role["metadata"]["name"].as_str()?;
        (rules != own).then(|| (name.to_owned(), rules))
    });
    wrong.collect()
}

async fn reconcile(
    context: &Context,
    roles: &Mirror<ClusterRole>,
) -> Result<Option<Duration>, kube::Error> {
    let all: Result<Vec<Value>, _> =
        roles.all().iter().map(|role| serde_json::to_value(role.as_ref())).collect();
    let api: Api<ClusterRole> = Api::all(context.client.clone());
    for (role, rules) in plan(&all.map_err(kube::Error::SerdeError)?) {
        info!(%role, "summing up a role");
        let patch = json!({ "rules": rules });
        let outcome = api.patch(&role, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(role) = or_absent(outcome)? {
            tracing::debug!(role = %role.name_any(), "summed up");
            roles.note(role);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sums_that_are_wrong_are_written() {
        let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        let part = json!({"metadata": {"name": "part", "labels": {"a": "b"}}, "rules": [rule]});
        let mut sum = json!({"metadata": {"name": "sum"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
        assert_eq!(plan(&[part.clone(), sum.clone()]), [("sum".into(), vec![rule.clone()])]);
        sum["rules"] = json!([rule]);
        assert!(plan(&[part, sum.clone()]).is_empty());
        assert_eq!(plan(&[sum]), [("sum".into(), vec![])]);
    }
}
