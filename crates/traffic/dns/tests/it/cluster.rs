//! Names of the cluster.

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::api::{Api, service};
use crate::peer::Peer;
use crate::server::{Server, texts};

#[tokio::test]
async fn answers_over_datagrams_and_streams() {
    let api = Api::new(vec![service("web", "10.96.0.20"), service("db", "10.96.0.21")]);
    let server = Server::start(&api, &[]).await;
    let answer = server.ask("web.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&answer), ["10.96.0.20"]);
    assert_eq!(answer.answers[0].ttl, 5);
    assert!(answer.authoritative && answer.recursion_available);
    let names = ["web.shop.svc.cluster.local.", "db.shop.svc.cluster.local."];
    let answers = server.ask_stream(&names, RecordType::A).await;
    assert_eq!(answers.iter().map(texts).collect::<Vec<_>>(), [["10.96.0.20"], ["10.96.0.21"]]);
    let absent = server.ask("cache.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(absent.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn knows_names_while_the_api_is_away_and_takes_in_what_is_new() {
    let api = Api::new(vec![service("web", "10.96.0.20"), service("old", "10.96.0.9")]);
    let server = Server::start(&api, &[]).await;
    api.leave().await;
    let answer = server.ask("web.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&answer), ["10.96.0.20"]);
    api.come_back(vec![service("web", "10.96.0.30")]);
    server.becomes("web.shop.svc.cluster.local.", &["10.96.0.30"]).await;
    let old = server.ask("old.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(old.response_code, ResponseCode::NXDomain);
    server.stop().await;
}

#[tokio::test]
async fn survives_nonsense() {
    let api = Api::new(vec![service("web", "10.96.0.20")]);
    let peer = Peer::start(Ipv4Addr::LOCALHOST, 0).await;
    let server = Server::start(&api, &[&peer]).await;
    // A header that promises a question, and no question.
    let broken = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x3f];
    let answer = server.exchange(&broken).await;
    assert_eq!((&answer[..2], answer[3] & 0xf), (&broken[..2], 1));
    let answer = server.ask("web.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&answer), ["10.96.0.20"]);
    server.stop().await;
}
