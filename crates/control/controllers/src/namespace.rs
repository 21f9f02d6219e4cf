//! Namespaces: what each has from the start, and how one ends.

pub mod apply;
pub mod observe;
pub mod plan;

use std::time::Duration;

use berth_client::{Change, Key, Queue};
use kube::ResourceExt;

use crate::catalogue::Catalogue;
use crate::context::Context;
use observe::{ACCOUNT, ROOT_CA};

/// Reconciles all namespaces until told to stop.
pub(crate) async fn run(context: Context, catalogue: Catalogue) {
    let queue = Queue::new();
    listen(&context, &catalogue, &queue);
    context.mirrors.synced().await;
    queue.serve(8, &context.stop, |name| reconcile(&context, &catalogue, name)).await;
}

fn listen(context: &Context, catalogue: &Catalogue, queue: &Queue<String>) {
    let to = queue.clone();
    context.mirrors.namespaces.listen(move |change| to.push(change.object().name_any()));
    let to = queue.clone();
    context.mirrors.accounts.listen(move |change| {
        if let Change::Gone { old } = change
            && old.name_any() == ACCOUNT
        {
            to.push(old.namespace().unwrap_or_default());
        }
    });
    let to = queue.clone();
    context.mirrors.config_maps.listen(move |change| {
        if change.object().name_any() == ROOT_CA {
            to.push(change.object().namespace().unwrap_or_default());
        }
    });
    let to = queue.clone();
    let namespaces = context.mirrors.namespaces.clone();
    // In a namespace that ends every news counts; elsewhere none.
    catalogue.listen(move |_, change| {
        let Some(name) = change.object().namespace() else { return };
        let namespace = namespaces.get(&Key::new("", &name));
        if namespace.is_some_and(|namespace| crate::object::is_going(namespace.as_ref())) {
            to.push(name);
        }
    });
}

async fn reconcile(
    context: &Context,
    catalogue: &Catalogue,
    name: String,
) -> Result<Option<Duration>, apply::ApplyError> {
    let Some(namespace) = context.mirrors.namespaces.get(&Key::new("", &name)) else {
        return Ok(None);
    };
    if crate::object::is_going(namespace.as_ref()) {
        catalogue.synced().await;
    }
    let observed = observe::observe(context, catalogue, namespace);
    let steps = plan::plan(&observed, &context.settings.ca_pem);
    apply::apply(context, &observed, steps).await?;
    Ok(None)
}
