//! A device plugin for tests: one that answers when it is told to.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Empty, HEALTHY,
    ListAndWatchResponse, Listed, Options, RegisterRequest, VERSION,
};
use super::{Devices, plugin};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answer,
    Hold,
    RefuseOnce,
}

#[derive(Debug)]
struct Inner {
    ids: Vec<String>,
    mood: watch::Sender<Mood>,
    /// How often it was asked for devices.
    asked: watch::Sender<usize>,
}

/// A plugin that runs until it is dropped.
#[derive(Debug)]
pub struct Fake {
    inner: Arc<Inner>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Devices written down in this directory, in a boot of the machine.
pub fn devices(folder: &Path, boot: &str) -> Arc<Devices> {
    Arc::new(Devices::of(folder, boot))
}

impl Fake {
    /// A plugin that has registered, and whose devices are known.
    pub async fn start(
        devices: &Arc<Devices>,
        folder: &Path,
        resource: &str,
        ids: &[&str],
    ) -> Self {
        let inner = Arc::new(Inner {
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            mood: watch::Sender::new(Mood::Answer),
            asked: watch::Sender::new(0),
        });
        let socket = folder.join(format!("{}.sock", resource.replace('/', "_")));
        let _old = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let incoming = stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let of_service = inner.clone();
        let service = tower::service_fn(move |call| answer(of_service.clone(), call));
        let server = tokio::spawn(async move {
            let incoming = Box::pin(incoming);
            let served = Server::builder().serve_with_incoming_shutdown(
                service,
                incoming,
                std::future::pending(),
            );
            served.await.unwrap();
        });
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: String::new(),
            resource_name: resource.to_owned(),
            options: None,
        };
        let mut changes = devices.changes();
        let followed = tokio::spawn(plugin::follow(devices.clone(), socket, request));
        while devices.amounts().0.get(resource).is_none_or(|all| *all == 0) {
            changes.changed().await.unwrap();
        }
        Self { inner, _tasks: [server, followed].map(AbortOnDropHandle::new) }
    }

    /// It does not answer from now on when it is asked for devices.
    pub fn hold(&self) {
        self.inner.mood.send_replace(Mood::Hold);
    }

    /// It answers all who wait.
    pub fn go_on(&self) {
        self.inner.mood.send_replace(Mood::Answer);
    }

    /// It refuses one, and answers all others.
    pub fn refuse_next(&self) {
        self.inner.mood.send_replace(Mood::RefuseOnce);
    }

    /// Waits until it was asked for devices so often in all.
    pub async fn asked(&self, times: usize) {
        self.inner.asked.subscribe().wait_for(|asked| *asked >= times).await.unwrap();
    }

    /// How often that was so far.
    pub fn count(&self) -> usize {
        *self.inner.asked.borrow()
    }
}

async fn answer(
    inner: Arc<Inner>,
    call: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    let method = call.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    Ok(match method.as_str() {
        "GetDevicePluginOptions" => {
            let asked = tower::service_fn(|_: Request<Empty>| async {
                Ok::<_, Status>(Response::new(Options::default()))
            });
            let codec = ProstCodec::<Options, Empty>::default();
            tonic::server::Grpc::new(codec).unary(asked, call).await
        }
        "ListAndWatch" => {
            let asked = tower::service_fn(move |_: Request<Empty>| {
                let listed = |id: &String| Listed { id: id.clone(), health: HEALTHY.to_owned() };
                let devices = inner.ids.iter().map(listed).collect();
                let first = stream::iter([Ok(ListAndWatchResponse { devices })]);
                let lists = Box::pin(first.chain(stream::pending()));
                async { Ok::<_, Status>(Response::new(lists)) }
            });
            let codec = ProstCodec::<ListAndWatchResponse, Empty>::default();
            tonic::server::Grpc::new(codec).server_streaming(asked, call).await
        }
        "Allocate" => {
            let asked = tower::service_fn(move |request: Request<AllocateRequest>| {
                allocate(inner.clone(), request.into_inner())
            });
            let codec = ProstCodec::<AllocateResponse, AllocateRequest>::default();
            tonic::server::Grpc::new(codec).unary(asked, call).await
        }
        other => Status::unimplemented(other.to_owned()).into_http(),
    })
}

async fn allocate(
    inner: Arc<Inner>,
    request: AllocateRequest,
) -> Result<Response<AllocateResponse>, Status> {
    inner.asked.send_modify(|asked| *asked += 1);
    let mut mood = inner.mood.subscribe();
    let held = mood.wait_for(|mood| *mood != Mood::Hold).await;
    drop(held.map_err(|_| Status::unavailable("it ends"))?);
    let mut refused = false;
    inner.mood.send_if_modified(|mood| {
        refused = *mood == Mood::RefuseOnce;
        if refused {
            *mood = Mood::Answer;
        }
        refused
    });
    if refused {
        return Err(Status::aborted("not this one"));
    }
    let containers = request.containers.iter().map(|container| ContainerAllocateResponse {
        envs: [("IDS".to_owned(), container.devices.join(","))].into(),
        ..ContainerAllocateResponse::default()
    });
    Ok(Response::new(AllocateResponse { containers: containers.collect() }))
}
