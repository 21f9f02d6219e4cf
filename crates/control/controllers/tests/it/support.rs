//! A cluster: server, controllers, scheduler, and a node that says of every pod bound to it that it runs.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth_apiserver::{ApiServer, Identity, Options};
use berth_client::{Key, Mirror, Queue};
use berth_controllers::Settings;
use berth_store::Memory;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub struct Cluster {
    pub client: Client,
    server: ApiServer,
    pub stop: CancellationToken,
    _guard: DropGuard,
}

pub const PATIENCE: Duration = Duration::from_secs(20);

impl Cluster {
    /// A cluster without a node.
    pub async fn empty() -> Self {
        let server =
            ApiServer::start(Arc::new(Memory::default()), Options::default()).await.unwrap();
        let api = server.clone();
        let client = move |user: &str, groups: &[&str]| {
            Client::new(api.service(Identity::new(user, groups)), "default")
        };
        let accounts = {
            let client = client.clone();
            move |name: &str| {
                client(
                    &format!("system:serviceaccount:kube-system:{name}"),
                    &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
                )
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let authority = berth_authority::Authority::open(folder.path()).unwrap();
        let stop = CancellationToken::new();
        let settings = Settings {
            ca_pem: "the certificate".to_owned(),
            volumes_root: PathBuf::from("/volumes"),
            node_name: "node-a".to_owned(),
            authority: Some(Arc::new(authority)),
        };
        let (to, token) = (client("system:kube-controller-manager", &[]), stop.clone());
        tokio::spawn(async move {
            berth_controllers::run(to, accounts, settings, token).await.unwrap();
        });
        let (to, token) = (client("system:kube-scheduler", &[]), stop.clone());
        tokio::spawn(async move { berth_scheduler::run(to, token).await.unwrap() });
        let client = client("admin", &["system:masters"]);
        Self { client, server, _guard: stop.clone().drop_guard(), stop }
    }

    /// A client of somebody else.
    pub fn as_user(&self, user: &str, groups: &[&str]) -> Client {
        Client::new(self.server.service(Identity::new(user, groups)), "default")
    }

    /// A cluster with a node that pretends.
    pub async fn start() -> Self {
        let cluster = Self::empty().await;
        cluster.node("node-a").await;
        cluster
    }

    pub async fn node(&self, name: &str) {
        let api: Api<Node> = Api::all(self.client.clone());
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        });
        api.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let status = json!({ "status": {
            "allocatable": { "cpu": "8", "memory": "16Gi", "pods": "500" },
            "addresses": [{ "type": "InternalIP", "address": "192.0.2.10" }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        let (client, stop, name) = (self.client.clone(), self.stop.clone(), name.to_owned());
        tokio::spawn(async move { pretend(client, name, stop).await });
    }

    pub async fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    pub async fn list<K>(&self, namespace: &str) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// The object once it fulfils a condition.
    pub async fn until<K>(&self, namespace: &str, name: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let begin = Instant::now();
        loop {
            let found = api.get_opt(name).await.unwrap();
            if let Some(found) = found.clone().filter(&holds) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "still {found:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All objects of a namespace once they fulfil a condition.
    pub async fn until_all<K>(&self, namespace: &str, holds: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let begin = Instant::now();
        loop {
            let found: Vec<K> = self.list(namespace).await;
            if holds(&found) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "still {found:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Says of every pod bound to a node that it runs, and confirms the end of those that are to go.
async fn pretend(client: Client, node: String, stop: CancellationToken) {
    static ADDRESS: AtomicU32 = AtomicU32::new(0x0a01_0001);
    let pods: Mirror<Pod> = Mirror::new();
    let queue = Queue::new();
    let to = queue.clone();
    pods.listen(move |change| to.push(Key::of(change.object().as_ref())));
    let look = |key: Key| {
        let (client, pods, node) = (client.clone(), pods.clone(), node.clone());
        async move {
            let Some(pod) = pods.get(&key) else { return Ok(None) };
            let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            if bound.as_ref() != Some(&node) {
                return Ok(None);
            }
            let api: Api<Pod> = Api::namespaced(client, &key.namespace);
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            if pod.metadata.deletion_timestamp.is_some() {
                let now = DeleteParams::default().grace_period(0);
                match api.delete(&key.name, &now).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(error),
                }
            } else if phase.as_deref() != Some("Running") && !pod.labels().contains_key("stuck") {
                let address = std::net::Ipv4Addr::from(ADDRESS.fetch_add(1, Ordering::Relaxed));
                let now = Timestamp::now().to_string();
                let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": now });
                let status = json!({ "status": {
                    "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "conditions": [ready],
                } });
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(&status))
                    .await?;
            }
            Ok(None)
        }
    };
    futures::join!(pods.run(Api::all(client.clone()), &stop), queue.serve(16, &stop, look));
}

pub fn deployment(name: &str, image: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{
                    "name": "main", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }],
                }] },
            },
        },
    })
}

pub fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{
            "name": "main", "image": "one", "resources": { "requests": { "cpu": cpu } },
        }] },
    })
}

pub fn is_done(deployment: &k8s_openapi::api::apps::v1::Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let conditions = status.conditions.iter().flatten();
    status.observed_generation == deployment.metadata.generation
        && (status.updated_replicas, status.replicas, status.available_replicas)
            == (wanted, wanted, wanted)
        && conditions
            .filter(|condition| condition.type_ == "Progressing")
            .any(|condition| condition.reason.as_deref() == Some("NewReplicaSetAvailable"))
}
