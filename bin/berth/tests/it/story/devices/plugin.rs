//! A device plugin as its vendor would write one: a gRPC server at a socket of its own that registers at the node's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::stream;
use http::uri::PathAndQuery;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

pub const WIDGET: &str = "example.com/widget";

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct Options {
    #[prost(bool, tag = "1")]
    pre_start_required: bool,
    #[prost(bool, tag = "2")]
    get_preferred_allocation_available: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegisterRequest {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(string, tag = "3")]
    resource_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Device {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    health: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Devices {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

/// Lists of ids; of preferred ones those that are available, and how many.
#[derive(Clone, PartialEq, prost::Message)]
struct Ids {
    #[prost(string, repeated, tag = "1")]
    ids: Vec<String>,
    #[prost(int32, tag = "3")]
    size: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Ids>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(bool, tag = "3")]
    read_only: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Spec {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(string, tag = "3")]
    permissions: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Allocated {
    #[prost(btree_map = "string, string", tag = "1")]
    envs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
    #[prost(message, repeated, tag = "3")]
    devices: Vec<Spec>,
    #[prost(btree_map = "string, string", tag = "4")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AllAllocated {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Allocated>,
}

struct Inner {
    /// A directory of the node that containers see.
    shared: PathBuf,
    health: watch::Sender<Vec<Device>>,
    /// Of which devices it was told that their container is about to start.
    started: Mutex<Vec<String>>,
}

/// A plugin that runs. When it is dropped it is gone, as a process that was killed.
pub struct Plugin {
    runtime: Option<tokio::runtime::Runtime>,
    inner: Arc<Inner>,
    folder: PathBuf,
}

impl Plugin {
    pub fn start(folder: &Path, shared: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let inner = Arc::new(Inner {
            shared: shared.to_owned(),
            health: watch::Sender::new(vec![device("one", true), device("two", true)]),
            started: Mutex::default(),
        });
        let socket = folder.join("widget.sock");
        let _old = fs::remove_file(&socket);
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        let incoming = stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let of_service = inner.clone();
        let service = tower::service_fn(move |call| answer(of_service.clone(), call));
        runtime.spawn(async move {
            let incoming = Box::pin(incoming);
            let server = tonic::transport::Server::builder();
            server.serve_with_incoming_shutdown(service, incoming, std::future::pending()).await
        });
        Self { runtime: Some(runtime), inner, folder: folder.to_owned() }
    }

    /// Registers at the node, as the interface's version.
    pub fn register(&self, version: &str) -> Result<(), Status> {
        let socket = self.folder.join("kubelet.sock");
        let request = RegisterRequest {
            version: version.to_owned(),
            endpoint: "widget.sock".to_owned(),
            resource_name: WIDGET.to_owned(),
        };
        self.runtime.as_ref().unwrap().block_on(async {
            let connector = tower::service_fn(move |_: http::Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
            });
            let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
            let channel = endpoint.connect_with_connector(connector).await.unwrap();
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.unwrap();
            let codec = ProstCodec::<RegisterRequest, Nothing>::default();
            let method = PathAndQuery::from_static("/v1beta1.Registration/Register");
            client.unary(Request::new(request), method, codec).await.map(drop)
        })
    }

    pub fn set_health(&self, health: &[(&str, bool)]) {
        let devices = health.iter().map(|(id, healthy)| device(id, *healthy));
        self.inner.health.send_replace(devices.collect());
    }

    /// Of which devices it was told, since it was asked last.
    pub fn started(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.started.lock().unwrap())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn answer(
    inner: Arc<Inner>,
    call: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    let method = call.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    Ok(match method.as_str() {
        "GetDevicePluginOptions" => {
            let asked = tower::service_fn(|_: Request<Nothing>| async {
                let both =
                    Options { pre_start_required: true, get_preferred_allocation_available: true };
                Ok::<_, Status>(Response::new(both))
            });
            let codec = ProstCodec::<Options, Nothing>::default();
            tonic::server::Grpc::new(codec).unary(asked, call).await
        }
        "ListAndWatch" => {
            let health = inner.health.subscribe();
            let asked = tower::service_fn(move |_: Request<Nothing>| {
                let mut health = health.clone();
                health.mark_changed();
                let lists = stream::unfold(health, next_list);
                async move { Ok::<_, Status>(Response::new(Box::pin(lists))) }
            });
            let codec = ProstCodec::<Devices, Nothing>::default();
            tonic::server::Grpc::new(codec).server_streaming(asked, call).await
        }
        "GetPreferredAllocation" => {
            let asked = tower::service_fn(|request: Request<Containers>| async {
                let mut all = request.into_inner();
                for container in &mut all.containers {
                    // The last ones, where the node itself would take the first.
                    container.ids.sort_by(|one, other| other.cmp(one));
                    container.ids.truncate(usize::try_from(container.size).unwrap());
                }
                Ok::<_, Status>(Response::new(all))
            });
            let codec = ProstCodec::<Containers, Containers>::default();
            tonic::server::Grpc::new(codec).unary(asked, call).await
        }
        "Allocate" => {
            let asked = tower::service_fn(move |request: Request<Containers>| {
                let inner = inner.clone();
                async move {
                    let containers = request.into_inner().containers;
                    let containers = containers.iter().map(|it| allocated(&inner, &it.ids));
                    let answer = AllAllocated { containers: containers.collect() };
                    Ok::<_, Status>(Response::new(answer))
                }
            });
            let codec = ProstCodec::<AllAllocated, Containers>::default();
            tonic::server::Grpc::new(codec).unary(asked, call).await
        }
        "PreStartContainer" => {
            let asked = tower::service_fn(move |request: Request<Ids>| {
                inner.started.lock().unwrap().extend(request.into_inner().ids);
                async { Ok::<_, Status>(Response::new(Nothing {})) }
            });
            let codec = ProstCodec::<Nothing, Ids>::default();
            tonic::server::Grpc::new(codec).unary(asked, call).await
        }
        other => Status::unimplemented(other.to_owned()).into_http(),
    })
}

async fn next_list(
    mut health: watch::Receiver<Vec<Device>>,
) -> Option<(Result<Devices, Status>, watch::Receiver<Vec<Device>>)> {
    health.changed().await.ok()?;
    let devices = health.borrow_and_update().clone();
    Some((Ok(Devices { devices }), health))
}

fn device(id: &str, healthy: bool) -> Device {
    let health = if healthy { "Healthy" } else { "Unhealthy" };
    Device { id: id.to_owned(), health: health.to_owned() }
}

fn allocated(inner: &Inner, ids: &[String]) -> Allocated {
    Allocated {
        envs: [("WIDGETS".to_owned(), ids.join(","))].into(),
        mounts: vec![Mount {
            container_path: "/widgets".to_owned(),
            host_path: inner.shared.display().to_string(),
            read_only: true,
        }],
        devices: vec![Spec {
            container_path: "/dev/widget0".to_owned(),
            host_path: "/dev/full".to_owned(),
            permissions: "rw".to_owned(),
        }],
        annotations: [("example.com/widgets".to_owned(), ids.join(","))].into(),
    }
}
