//! Keeps what kubectl sends, when asked to by `BERTH_RECORD=<file>`: one JSON object a line, bodies in base64 where they are no text.
//!
//! The corpus of the fuzz tests was made this way, by the suite; see tests/fuzz/README.md.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_apiserver::ApiService;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;
use tower::ServiceExt;

/// Where to keep it, if anywhere.
pub fn wanted() -> Option<PathBuf> {
    std::env::var_os("BERTH_RECORD").map(PathBuf::from)
}

/// Serves without TLS, as the identity of the service, and keeps every request.
pub async fn serve(listener: TcpListener, service: ApiService, path: PathBuf) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let file = Arc::new(Mutex::new(file));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (service, file) = (service.clone(), file.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (service, file) = (service.clone(), file.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let header = |name: &str| {
                        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
                        value.unwrap_or_default().to_owned()
                    };
                    let mut line = json!({"method": parts.method.as_str(),
                        "path": parts.uri.path_and_query().map(ToString::to_string),
                        "kind": header("content-type"), "accept": header("accept")});
                    match std::str::from_utf8(&body) {
                        Ok(text) => line["text"] = text.into(),
                        Err(_) => line["bytes"] = STANDARD.encode(&body).into(),
                    }
                    let line = format!("{line}\n");
                    file.lock().unwrap().write_all(line.as_bytes()).unwrap();
                    let request = http::Request::from_parts(parts, Full::new(body));
                    let response = service.oneshot(request).await;
                    Ok::<_, hyper::Error>(response.unwrap_or_else(|never| match never {}))
                }
            });
            let _ended = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}
