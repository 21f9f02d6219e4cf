//! Names that others know.

use std::io::{Seek, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::api::{Api, service};
use crate::peer::Peer;
use crate::server::{Server, texts};

fn api() -> Api {
    Api::new(vec![service("web", "10.96.0.20")])
}

#[tokio::test]
async fn asks_once_for_many_and_remembers() {
    let peer = Peer::start(Ipv4Addr::LOCALHOST, 0).await;
    let server = Server::start(&api(), &[&peer]).await;
    let all = join_all((0..20).map(|_| server.ask("www.example.test.", RecordType::A))).await;
    assert!(all.iter().all(|answer| texts(answer) == ["192.0.2.80"] && !answer.authoritative));
    for _ in 0..3 {
        let absent = server.ask("absent.test.", RecordType::A).await;
        assert_eq!(absent.response_code, ResponseCode::NXDomain);
        assert_eq!(absent.authorities.len(), 1);
    }
    assert_eq!(peer.datagrams.load(Ordering::SeqCst), 2);
    server.stop().await;
}

#[tokio::test]
async fn an_outside_name_costs_two_questions_through_the_search_list() {
    let peer = Peer::start(Ipv4Addr::LOCALHOST, 0).await;
    let server = Server::start(&api(), &[&peer]).await;
    let through = "www.example.test.shop.svc.cluster.local.";
    let answer = server.ask(through, RecordType::A).await;
    assert_eq!(texts(&answer), ["-> www.example.test.", "192.0.2.80"]);
    assert_eq!(answer.answers[0].name.to_ascii(), through);
    let answer = server.ask(through, RecordType::AAAA).await;
    assert_eq!(answer.response_code, ResponseCode::NoError);
    assert_eq!(
        (texts(&answer), answer.authorities.len()),
        (vec!["-> www.example.test.".to_owned()], 1)
    );
    server.stop().await;
}

#[tokio::test]
async fn nothing_of_the_cluster_is_asked_outside() {
    let peer = Peer::start(Ipv4Addr::LOCALHOST, 0).await;
    let server = Server::start(&api(), &[&peer]).await;
    for name in ["cache.shop.svc.cluster.local.", "x.cluster.local.", "9.0.96.10.in-addr.arpa."] {
        let answer = server.ask(name, RecordType::PTR).await;
        assert_eq!(answer.response_code, ResponseCode::NXDomain, "{name}");
    }
    assert_eq!(peer.datagrams.load(Ordering::SeqCst), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_large_answer_comes_by_stream_and_is_cut_for_datagrams() {
    let peer = Peer::start(Ipv4Addr::LOCALHOST, 0).await;
    let server = Server::start(&api(), &[&peer]).await;
    let cut = server.ask("large.test.", RecordType::A).await;
    assert!(cut.truncation && (20..40).contains(&cut.answers.len()));
    let more = server.ask_sized("large.test.", RecordType::A, Some(1232)).await;
    assert!(more.truncation && more.answers.len() > 60 && more.edns.is_some());
    let whole = server.ask_sized("large.test.", RecordType::A, Some(4096)).await;
    assert!(!whole.truncation && whole.answers.len() == 100);
    let stream = server.ask_stream(&["large.test."], RecordType::A).await;
    assert_eq!(stream[0].answers.len(), 100);
    assert_eq!(peer.streams.load(Ordering::SeqCst), 1);
    server.stop().await;
}

#[tokio::test]
async fn goes_on_to_the_next_resolver_and_stays_with_it() {
    let mute = Peer::start(Ipv4Addr::new(127, 0, 0, 2), 0).await;
    mute.mute.store(true, Ordering::SeqCst);
    let good = Peer::start(Ipv4Addr::new(127, 0, 0, 3), mute.address.port()).await;
    let server = Server::start(&api(), &[&mute, &good]).await;
    assert_eq!(texts(&server.ask("www.example.test.", RecordType::A).await), ["192.0.2.80"]);
    let start = Instant::now();
    let absent = server.ask("absent.test.", RecordType::A).await;
    assert_eq!(absent.response_code, ResponseCode::NXDomain);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(mute.datagrams.load(Ordering::SeqCst), 1);
    server.stop().await;
}

#[tokio::test]
async fn fails_at_once_when_nobody_listens() {
    let peer = Peer::start(Ipv4Addr::LOCALHOST, 0).await;
    let server = Server::start(&api(), &[&peer]).await;
    let broken = server.ask("broken.test.", RecordType::A).await;
    assert_eq!(broken.response_code, ResponseCode::ServFail);
    drop(peer);
    let start = Instant::now();
    let answer = server.ask("www.example.test.", RecordType::A).await;
    assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::ServFail, 0));
    assert!(start.elapsed() < Duration::from_secs(1));
    server.stop().await;
}

#[tokio::test]
async fn takes_new_resolvers_when_the_file_changes() {
    let old = Peer::start(Ipv4Addr::new(127, 0, 0, 4), 0).await;
    let new = Peer::start(Ipv4Addr::new(127, 0, 0, 55), old.address.port()).await;
    let mut server = Server::start(&api(), &[&old]).await;
    server.ask("one.test.", RecordType::A).await;
    let file = server.resolv_conf.as_file_mut();
    file.set_len(0).unwrap();
    file.rewind().unwrap();
    writeln!(file, "nameserver {}", new.address.ip()).unwrap();
    server.ask("two.test.", RecordType::A).await;
    let counts = [&old, &new].map(|peer| peer.datagrams.load(Ordering::SeqCst));
    assert_eq!(counts, [1, 1]);
    server.stop().await;
}
