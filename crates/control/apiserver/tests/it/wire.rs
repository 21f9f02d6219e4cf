//! What goes over the wire: media types, compression, HTTP/2.

use std::io::Read;

use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{Client, Network};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn media_types_are_negotiated() {
    let client = Client::start().await;
    let map = json!({"metadata": {"name": "a"}});
    client.post(MAPS, &map).await.expect(201);
    let path = format!("{MAPS}/a");
    for accept in
        ["", "*/*", "application/json", "application/vnd.kubernetes.protobuf,application/json"]
    {
        let answer = client.get_as(&path, accept).await;
        assert_eq!(
            (answer.code, &answer.headers["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
    }
    let yaml = client.get_as(&path, "application/yaml").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert_eq!(yaml.body["metadata"]["name"], "a");
    for accept in ["application/cbor", "application/vnd.kubernetes.protobuf", "text/html"] {
        let refused = client.get_as(&path, accept).await.expect(406);
        assert_eq!(refused["reason"], "NotAcceptable");
    }
    let falls_back = client.get_as(&path, "application/cbor, application/json;q=0.9").await;
    assert_eq!(falls_back.code, 200);

    for kind in ["application/cbor", "text/plain", "application/apply-patch+cbor"] {
        let refused = client.send("POST", MAPS, kind, vec![0xd9, 0xd9, 0xf7, 0xa0]).await;
        let refused = refused.expect(415);
        assert_eq!(refused["reason"], "UnsupportedMediaType");
        let refused = client.send("PATCH", &path, kind, vec![0xa0]).await.expect(415);
        assert_eq!((&refused["kind"], &refused["status"]), (&json!("Status"), &json!("Failure")));
    }
    let body = "metadata: {name: b}\ndata: {k: v}\n";
    client.send("POST", MAPS, "application/yaml", body).await.expect(201);
    let broken =
        client.send("POST", MAPS, "application/vnd.kubernetes.protobuf", "k8s\0\x0a").await;
    assert_eq!(broken.expect(400)["reason"], "BadRequest");
}

#[tokio::test]
async fn large_answers_are_compressed() {
    let client = Client::start().await;
    for number in 0..10 {
        let map = json!({"metadata": {"name": format!("m{number}")},
            "data": {"text": "the same again and again ".repeat(1000)}});
        client.post(MAPS, &map).await.expect(201);
    }
    let request = |path: &str, encoding: &str| {
        http::Request::builder()
            .uri(path)
            .header("accept-encoding", encoding)
            .body(http_body_util::Full::new(bytes::Bytes::new()))
            .unwrap()
    };
    let answer = client.answer(request(MAPS, "gzip")).await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.len() < 50_000, "{}", bytes.len());
    let mut text = String::new();
    GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 10);
    for (path, encoding) in [
        (MAPS, "identity"),
        (MAPS, "gzip;q=0"),
        ("/api/v1/namespaces/default/configmaps/m1", "gzip"),
        ("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1", "gzip"),
    ] {
        let answer = client.answer(request(path, encoding)).await;
        assert!(!answer.headers().contains_key("content-encoding"), "{path} {encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_one_connection() {
    let network = Network::start().await;
    let identity = network
        .authority
        .client("admin", "system:masters", std::time::Duration::from_secs(60))
        .unwrap();
    let authority = network.file("ca.crt", network.authority.certificate());
    let certificate = network.file("client.crt", &identity.certificate);
    let key = network.file("client.key", &identity.key);
    let url = format!("https://{}/api/v1/namespaces/default", network.address);
    let output = tokio::process::Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--http2",
            "--write-out",
            "\n%{http_version} %{num_connects}\n",
        ])
        .arg("--cacert")
        .arg(&authority)
        .arg("--cert")
        .arg(&certificate)
        .arg("--key")
        .arg(&key)
        .args([&url, &url])
        .args(["--output", "/dev/null", "--output", "/dev/null"])
        .output()
        .await
        .expect("this test needs curl");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["2 1", "2 0"], "{text}");
    network.stop().await;
}

#[tokio::test]
async fn descriptions_of_the_api_are_kept_by_clients() {
    let client = Client::start().await;
    let index = client.get("/openapi/v3").await.expect(200);
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("apis/autoscaling/v1") && paths.contains_key("apis/autoscaling/v2"));
    for (path, place) in paths {
        let url = place["serverRelativeURL"].as_str().unwrap();
        let answer = client.get(url).await;
        let cached = answer.headers["cache-control"].to_str().unwrap().to_owned();
        assert!(cached.contains("immutable"), "{path}: {cached}");
        let tag = answer.headers["etag"].clone();
        let document = answer.expect(200);
        assert!(!document["paths"].as_object().unwrap().is_empty(), "{path}");
        references_lead_somewhere(&document, &document);
        let again = http::Request::builder()
            .uri(url)
            .header("if-none-match", tag)
            .body(http_body_util::Full::new(bytes::Bytes::new()))
            .unwrap();
        assert_eq!(client.answer(again).await.status(), 304);
    }
    let plain = client.get("/openapi/v3/apis/apps/v1").await;
    assert!(!plain.headers["cache-control"].to_str().unwrap().contains("immutable"));
    client.get("/openapi/v3/apis/apps/v9").await.expect(404);
    let swagger = client.get("/openapi/v2").await.expect(200);
    assert_eq!(swagger["swagger"], "2.0");
    references_lead_somewhere(&swagger, &swagger);
    let kind = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = client.get_as("/openapi/v2", kind).await;
    let found = protobuf.headers["content-type"].to_str().unwrap();
    assert_eq!(found, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
}

/// Every reference within a document names something in it.
#[track_caller]
fn references_lead_somewhere(document: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            fields.values().for_each(|value| references_lead_somewhere(document, value));
        }
        Value::Array(items) => {
            items.iter().for_each(|value| references_lead_somewhere(document, value));
        }
        _ => {}
    }
}
