//! Servers, clients and objects to measure with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, ApiService, Body, Identity, Options};
use berth_store::{Disk, DiskOptions, Store};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A folder on the disk that is measured.
pub fn folder() -> tempfile::TempDir {
    let place = std::env::var_os("BERTH_BENCH_DIR").map(PathBuf::from);
    let place = place.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    tempfile::tempdir_in(place).unwrap()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// A client in this process, and its server.
#[derive(Clone)]
pub struct Client {
    service: ApiService,
    pub server: ApiServer,
}

impl Client {
    pub async fn on(store: Arc<dyn Store>) -> Self {
        let server = ApiServer::start(store, Options::default()).await.unwrap();
        let service = server.service(Identity::new("admin", &["system:masters"]));
        Self { service, server }
    }

    /// On a file of this folder.
    pub async fn on_disk(folder: &std::path::Path) -> Self {
        let store = Disk::open(&folder.join("store"), DiskOptions::default()).unwrap();
        Self::on(Arc::new(store)).await
    }

    pub async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Response<Body> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        let request = request.body(Full::new(body.into())).unwrap();
        self.service.clone().oneshot(request).await.unwrap()
    }

    /// A request that must succeed, and its body.
    pub async fn good(&self, method: &str, path: &str, body: &Value) -> Bytes {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.send(method, path, body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(status.is_success(), "{}", String::from_utf8_lossy(&bytes));
        bytes
    }
}

/// An object of about a kibibyte.
pub fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": "x".repeat(1000)}})
}

/// A pod as a Deployment makes them.
pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web", "tier": "front"}},
        "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "registry.example/web:1.0",
            "ports": [{"containerPort": 8080}], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}]}})
}

/// The value below which so many of a hundred lie.
pub fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100]
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
