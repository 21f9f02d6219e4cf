//! One plugin: its connection, its list of devices as long as it lives, and the questions it is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::Devices;
use super::ledger::Ids;
use super::messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredRequest, Empty, HEALTHY, ListAndWatchResponse, Options,
    PreStartContainerRequest, PreferredRequest, PreferredResponse, RegisterRequest,
};
use crate::status::chain;

/// How long a plugin may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A plugin that has registered.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Which registration it is.
    pub number: u64,
    /// Ended when another takes its place.
    pub stop: CancellationToken,
    /// What it wants to be asked.
    pub options: Options,
    channel: Channel,
}

/// Asks a question that has one answer.
async fn ask<Q, A>(channel: &Channel, method: &'static str, question: Q) -> Result<A, String>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let asked = async {
        let mut client = Grpc::new(channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        client.unary(Request::new(question), PathAndQuery::from_static(method), codec).await
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(told(&status)),
        Err(_) => Err(format!("the plugin does not answer within {} s", PATIENCE.as_secs())),
    }
}

fn told(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

async fn connect(socket: PathBuf) -> Result<Channel, String> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The name is not used, and has to be one.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(PATIENCE);
    endpoint.connect_with_connector(connector).await.map_err(|error| chain(&error))
}

/// Follows a plugin from its registration to its end.
pub async fn follow(devices: Arc<Devices>, socket: PathBuf, request: RegisterRequest) {
    let resource = request.resource_name.clone();
    if let Err(why) = follow_from(&devices, socket, request).await {
        tracing::warn!(resource, why, "a device plugin cannot be used");
    }
}

async fn follow_from(
    devices: &Devices,
    socket: PathBuf,
    request: RegisterRequest,
) -> Result<(), String> {
    let resource = request.resource_name;
    let channel = connect(socket).await?;
    let options = ask(&channel, "/v1beta1.DevicePlugin/GetDevicePluginOptions", Empty {}).await?;
    let options = request.options.filter(|said| *said != Options::default()).unwrap_or(options);
    let stop = CancellationToken::new();
    let number = {
        let mut state = devices.state();
        state.count += 1;
        state.count
    };
    let plugin = Plugin { number, stop: stop.clone(), options, channel: channel.clone() };
    devices.welcome(&resource, plugin);
    let listed = tokio::select! {
        listed = list(devices, &resource, number, &channel) => listed,
        () = stop.cancelled() => return Ok(()),
    };
    let why = listed.err().unwrap_or_else(|| "it ended".to_owned());
    devices.part(&resource, number, &why);
    Ok(())
}

/// Takes in what it lists until it ends.
async fn list(
    devices: &Devices,
    resource: &str,
    number: u64,
    channel: &Channel,
) -> Result<(), String> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| chain(&error))?;
    let codec = ProstCodec::<Empty, ListAndWatchResponse>::default();
    let method = PathAndQuery::from_static("/v1beta1.DevicePlugin/ListAndWatch");
    let answer = client.server_streaming(Request::new(Empty {}), method, codec).await;
    let mut lists = answer.map_err(|status| told(&status))?.into_inner();
    while let Some(list) = lists.message().await.map_err(|status| told(&status))? {
        let all = list.devices.into_iter().map(|it| (it.id, it.health == HEALTHY));
        devices.list(resource, number, all.collect::<BTreeMap<_, _>>());
    }
    Ok(())
}

impl Plugin {
    /// Which devices it would give, of those that are available; some must be among them.
    pub async fn prefer(&self, available: &Ids, must: &Ids, count: usize) -> Result<Ids, String> {
        let question = PreferredRequest {
            containers: vec![ContainerPreferredRequest {
                available: available.iter().cloned().collect(),
                must_include: must.iter().cloned().collect(),
                size: i32::try_from(count).unwrap_or(i32::MAX),
            }],
        };
        let method = "/v1beta1.DevicePlugin/GetPreferredAllocation";
        let answer: PreferredResponse = ask(&self.channel, method, question).await?;
        Ok(answer.containers.into_iter().flat_map(|container| container.devices).collect())
    }

    /// What a container needs for these devices.
    pub async fn allocate(&self, devices: &Ids) -> Result<ContainerAllocateResponse, String> {
        let container = ContainerAllocateRequest { devices: devices.iter().cloned().collect() };
        let question = AllocateRequest { containers: vec![container] };
        let method = "/v1beta1.DevicePlugin/Allocate";
        let mut answer: AllocateResponse = ask(&self.channel, method, question).await?;
        match (answer.containers.pop(), answer.containers.is_empty()) {
            (Some(container), true) => Ok(container),
            _ => Err("the plugin does not answer for one container".to_owned()),
        }
    }

    /// Tells it that a container with these devices is about to start.
    pub async fn pre_start(&self, devices: &Ids) -> Result<(), String> {
        let question = PreStartContainerRequest { devices: devices.iter().cloned().collect() };
        let method = "/v1beta1.DevicePlugin/PreStartContainer";
        ask::<_, Empty>(&self.channel, method, question).await.map(drop)
    }
}
