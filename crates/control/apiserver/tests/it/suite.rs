//! Every kubectl command that needs no container, with the unmodified binaries of three minor versions.

mod access;
mod apply;
mod change;
mod cluster;
mod create;
mod custom;
mod delete;
mod read;
mod rollout;

use crate::script::each_kubectl;

each_kubectl! {
    access::asks_who_may_what,
    access::keeps_roles,
    access::makes_tokens_and_certificates,
    apply::applies,
    apply::applies_on_the_server,
    apply::shows_differences,
    change::changes,
    change::sets,
    cluster::describes_itself,
    cluster::keeps_nodes,
    cluster::proxies,
    create::creates,
    create::creates_every_kind,
    custom::defines,
    custom::installs_the_gateway_api,
    delete::deletes,
    read::gets,
    read::watches_and_waits,
    rollout::rolls_out,
}

/// A Deployment and its Service.
const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: 'nginx:1.27', ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";
