//! Starts the server and asks it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use berth_dns::{DnsError, Settings};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::peer::Peer;

/// Long enough for any machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub address: SocketAddr,
    pub resolv_conf: NamedTempFile,
    stop: CancellationToken,
    task: JoinHandle<Result<(), DnsError>>,
}

impl Server {
    /// A server before the given resolvers, which share one port. Returns when the zone is complete.
    pub async fn start(api: &Api, peers: &[&Peer]) -> Self {
        let mut resolv_conf = NamedTempFile::new().unwrap();
        for peer in peers {
            writeln!(resolv_conf, "nameserver {}", peer.address.ip()).unwrap();
        }
        // A port that was free a moment ago; another test may be quicker, so there are several tries.
        for _ in 0..10 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut settings = Settings::new(vec![address]);
            settings.resolv_conf = resolv_conf.path().to_owned();
            settings.upstream_port = peers.first().map_or(53, |peer| peer.address.port());
            let stop = CancellationToken::new();
            let task = tokio::spawn(berth_dns::run(api.client(), settings, stop.clone()));
            let server = Self { address, resolv_conf, stop, task };
            if server.until_ready().await {
                return server;
            }
            resolv_conf = server.resolv_conf;
        }
        panic!("no free port");
    }

    async fn until_ready(&self) -> bool {
        let wait = async {
            while !self.task.is_finished() {
                // Nobody listens at first, so the stream is the way that tells.
                if TcpStream::connect(self.address).await.is_ok() {
                    let answer = self.ask("cluster.local.", RecordType::A).await;
                    // Not complete yet, and the failure says so; asking again is the condition.
                    if answer.response_code == ResponseCode::NoError {
                        return true;
                    }
                }
                tokio::task::yield_now().await;
            }
            false
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    /// Over UDP, without EDNS.
    pub async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.ask_sized(name, kind, None).await
    }

    pub async fn ask_sized(&self, name: &str, kind: RecordType, size: Option<u16>) -> Message {
        let question = question(name, kind, size);
        let bytes = self.exchange(&question.to_vec().unwrap()).await;
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!((answer.id, &answer.queries), (question.id, &question.queries));
        assert!(bytes.len() <= usize::from(size.unwrap_or(512)));
        answer
    }

    pub async fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(bytes, self.address).await.unwrap();
        let mut buffer = vec![0; 65535];
        let length =
            tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        buffer.truncate(length);
        buffer
    }

    /// Several questions over one connection.
    pub async fn ask_stream(&self, names: &[&str], kind: RecordType) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        for name in names {
            let bytes = question(name, kind, None).to_vec().unwrap();
            stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
        let mut answers = Vec::new();
        for _ in names {
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            answers.push(Message::from_vec(&bytes).unwrap());
        }
        answers
    }

    /// Asks until the answer is this one.
    pub async fn becomes(&self, name: &str, wanted: &[&str]) {
        let wait = async {
            while texts(&self.ask(name, RecordType::A).await) != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

pub fn question(name: &str, kind: RecordType, size: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = size {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message
}

pub fn texts(message: &Message) -> Vec<String> {
    let data = message.answers.iter().map(|record| match &record.data {
        RData::CNAME(name) => format!("-> {}", name.0),
        data => data.to_string(),
    });
    data.collect()
}
