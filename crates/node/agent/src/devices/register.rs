//! The socket at which plugins register.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tracing::{info, warn};

use super::messages::{Empty, RegisterRequest, VERSION};
use super::{Devices, front, plugin};
use crate::status::chain;

/// The name that plugins look for.
const SOCKET: &str = "kubelet.sock";

/// Opens the socket. That it is new is what tells plugins to register again.
pub fn open(folder: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o750))?;
    let socket = folder.join(SOCKET);
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

impl Devices {
    /// Takes plugins in until told to stop.
    pub async fn serve(self: Arc<Self>, folder: &Path, stop: CancellationToken) {
        let listener = match open(folder) {
            Ok(listener) => listener,
            Err(error) => {
                warn!(%error, folder = %folder.display(), "no device plugin can register");
                return;
            }
        };
        let (sender, mut requests) = mpsc::channel(16);
        let service = tower::service_fn(move |request| answer(sender.clone(), request));
        let ended = stop.clone();
        let server = Server::builder().serve_with_incoming_shutdown(
            service,
            Box::pin(front::front(listener)),
            ended.cancelled_owned(),
        );
        tokio::pin!(server);
        let mut plugins = JoinSet::new();
        loop {
            tokio::select! {
                ended = &mut server => {
                    if let Err(error) = ended {
                        warn!(error = %chain(&error), "no device plugin can register any more");
                    }
                    break;
                }
                Some(request) = requests.recv() => {
                    let request: RegisterRequest = request;
                    info!(resource = request.resource_name, endpoint = request.endpoint, "a device plugin registers");
                    let socket = folder.join(&request.endpoint);
                    plugins.spawn(plugin::follow(self.clone(), socket, request));
                }
                Some(_) = plugins.join_next() => {}
                () = stop.cancelled() => break,
            }
        }
        plugins.shutdown().await;
    }
}

/// One call, whatever its method.
async fn answer(
    requests: mpsc::Sender<RegisterRequest>,
    call: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    if call.uri().path() != "/v1beta1.Registration/Register" {
        return Ok(Status::unimplemented("there is nothing but Register here").into_http());
    }
    let codec = ProstCodec::<Empty, RegisterRequest>::default();
    let register = tower::service_fn(move |request: Request<RegisterRequest>| {
        let requests = requests.clone();
        async move {
            let request = request.into_inner();
            check(&request).map_err(Status::invalid_argument)?;
            let taken = requests.send(request).await;
            taken.map_err(|_| Status::unavailable("the node agent ends"))?;
            Ok::<_, Status>(Response::new(Empty {}))
        }
    });
    Ok(tonic::server::Grpc::new(codec).unary(register, call).await)
}

/// What is wrong with a registration.
fn check(request: &RegisterRequest) -> Result<(), String> {
    if request.version != VERSION {
        return Err(format!("the version `{}` is not known: {VERSION}", request.version));
    }
    let mut parts = Path::new(&request.endpoint).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(format!("`{}` is no name of a socket beside this one", request.endpoint));
    }
    let name = &request.resource_name;
    let good = name.split_once('/').is_some_and(|(domain, name)| {
        let known = |text: &str, more: &str| {
            let letter = |it: char| it.is_ascii_alphanumeric() || more.contains(it);
            !text.is_empty()
                && text.len() <= 253
                && text.chars().all(letter)
                && !text.starts_with(|it| more.contains(it))
                && !text.ends_with(|it| more.contains(it))
        };
        known(domain, "-.")
            && known(name, "-._")
            && name.len() <= 63
            && !domain.ends_with("kubernetes.io")
            && !domain.starts_with("requests.")
    });
    if good { Ok(()) } else { Err(format!("`{name}` is no name of an extended resource")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_name_a_resource_and_a_socket() {
        let refused = |version: &str, endpoint: &str, name: &str| {
            let request = RegisterRequest {
                version: version.to_owned(),
                endpoint: endpoint.to_owned(),
                resource_name: name.to_owned(),
                options: None,
            };
            check(&request).err()
        };
        assert_eq!(refused(VERSION, "widget.sock", "example.com/widget_1"), None);
        assert!(refused("v1alpha", "widget.sock", "example.com/widget").is_some());
        for endpoint in ["", "../widget.sock", "/run/widget.sock", "a/b", ".."] {
            assert!(refused(VERSION, endpoint, "example.com/widget").is_some(), "{endpoint}");
        }
        for name in ["widget", "kubernetes.io/x", "a.kubernetes.io/x", "/x", "a/", "a/b c", "-a/b"]
        {
            assert!(refused(VERSION, "widget.sock", name).is_some(), "{name}");
        }
    }
}
