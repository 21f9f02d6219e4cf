//! Against servers of hyper and one that only speaks TCP.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use http::Response;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use k8s_openapi::api::core::v1::HTTPHeader;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

fn action(path: &str, headers: &[(&str, &str)]) -> HTTPGetAction {
    let header = |(name, value): &(&str, &str)| HTTPHeader {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(0),
        http_headers: Some(headers.iter().map(header).collect()),
        ..HTTPGetAction::default()
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

type Reply = Response<Full<Bytes>>;

fn reply(code: u16, location: &str, body: &str) -> Reply {
    let mut response = Response::builder().status(code);
    if !location.is_empty() {
        response = response.header(LOCATION, location);
    }
    response.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

/// Says what it was asked, or redirects.
fn web(request: &Request<Incoming>, port: u16) -> Reply {
    let text = |name: &str| {
        request.headers().get(name).map_or("-", |value| value.to_str().unwrap_or("?")).to_owned()
    };
    match request.uri().path() {
        "/here" => reply(302, "there?x=1", "moved"),
        "/there" => reply(200, "", request.uri().query().unwrap_or_default()),
        "/absolute" => reply(307, &format!("http://127.0.0.1:{port}/there?x=2"), ""),
        "/elsewhere" => reply(301, "http://example.invalid/", "gone"),
        "/circle" => reply(303, "/circle", ""),
        "/bad" => reply(503, "", &"x".repeat(READ + 10)),
        _ => {
            let words = [text("host"), text("user-agent"), text("accept"), text("x-own")];
            reply(200, "", &format!("{} {}", request.uri(), words.join(" ")))
        }
    }
}

async fn serve(tls: Option<TlsAcceptor>) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(move |request| async move { Ok::<_, Infallible>(web(&request, port)) });
            let stream: Box<dyn Duplex> = match &tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => continue,
                },
                None => Box::new(stream),
            };
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

async fn ask(port: u16, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
    let get = Get::new(&action(path, headers), "127.0.0.1", port, "probe/1")?;
    get.ask().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn headers_are_those_of_the_probe_or_its_own() {
    let port = serve(None).await;
    let body = |path, headers| async move { ask(port, path, headers).await.unwrap().body };
    assert_eq!(body("a b?c=d", &[]).await, format!("/a%20b?c=d 127.0.0.1:{port} probe/1 */* -"));
    let own = [("Host", "web.example"), ("user-agent", "me"), ("Accept", ""), ("X-Own", "1")];
    assert_eq!(body("/", &own).await, "/ web.example me - 1");
    let wrong = ask(port, "/", &[("a b", "c")]).await.unwrap_err();
    assert_eq!(wrong, "`a b: c` is not a header");
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_alone() {
    let port = serve(None).await;
    let status = async |path| ask(port, path, &[]).await.map(|it| (it.status.as_u16(), it.body));
    assert_eq!(status("/here").await, Ok((200, "x=1".to_owned())));
    assert_eq!(status("/absolute").await, Ok((200, "x=2".to_owned())));
    assert_eq!(status("/elsewhere").await, Ok((301, "gone".to_owned())));
    assert_eq!(status("/circle").await, Err("stopped after 10 redirects".to_owned()));
    let (code, body) = status("/bad").await.unwrap();
    assert_eq!((code, body.len()), (503, READ));
}

#[tokio::test]
async fn certificates_are_not_verified_and_no_tls_is_told() {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["somebody.else".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let secure = serve(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let get = |port| {
        let action = HTTPGetAction { scheme: Some("HTTPS".to_owned()), ..action("/x", &[]) };
        Get::new(&action, "127.0.0.1", port, "p").unwrap().ask()
    };
    assert_eq!(get(secure).await.unwrap().status, StatusCode::OK);
    let plain = serve(None).await;
    assert!(matches!(get(plain).await.unwrap_err(), GetError::Tls(..)));
    let (closed, port) = listen().await;
    drop(closed);
    assert!(matches!(get(port).await.unwrap_err(), GetError::Connect(..)));
}

/// A health service in a few lines: `good` serves, `bad` does not, others are unknown.
async fn health() -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |request: Request<Incoming>| {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()["te"], "trailers");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                let (code, status) = match &asked[..] {
                    b"\0\0\0\0\0" | b"\0\0\0\0\x06\x0a\x04good" => ("0", 1),
                    b"\0\0\0\0\x05\x0a\x03bad" => ("0", 2),
                    b"\0\0\0\0\x06\x0a\x04none" => ("12", 0),
                    _ => ("5", 0),
                };
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(code));
                let frames = [
                    Frame::data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status])),
                    Frame::trailers(trailers),
                ];
                let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
                Ok::<_, Infallible>(Response::new(body))
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

#[tokio::test]
async fn a_health_service_is_asked_in_its_own_words() {
    let port = health().await;
    let ask = async |service| grpc_health("127.0.0.1", port, service, "p").await;
    assert_eq!(ask("").await, Ok(()));
    assert_eq!(ask("good").await, Ok(()));
    let bad = "service unhealthy (responded with \"NOT_SERVING\")";
    assert_eq!(ask("bad").await, Err(bad.to_owned()));
    assert!(ask("none").await.unwrap_err().contains("does not implement"));
    assert!(ask("other").await.unwrap_err().contains("does not know the service `other`"));
    let web = serve(None).await;
    assert!(grpc_health("127.0.0.1", web, "", "p").await.is_err());
}

#[test]
fn messages_of_the_health_protocol() {
    assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
    let long = question(&"s".repeat(300));
    assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
    assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 3]), Some(3));
    for broken in [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 9, 8], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1, 9]]
    {
        assert_eq!(serving_status(broken), None);
    }
}
