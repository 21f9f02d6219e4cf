//! A resolver that says what the test wrote down, and counts its questions.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// Ends when dropped.
pub struct Peer {
    pub address: SocketAddr,
    pub datagrams: Arc<AtomicUsize>,
    pub streams: Arc<AtomicUsize>,
    pub mute: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// At an address of the loopback network; port 0 for any that is free.
    pub async fn start(host: Ipv4Addr, port: u16) -> Self {
        let tcp = TcpListener::bind((host, port)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let (datagrams, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mute = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let (count, quiet) = (Arc::clone(&datagrams), Arc::clone(&mute));
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                if quiet.load(Ordering::SeqCst) {
                    continue;
                }
                // A stray datagram first: it must not be taken for the answer.
                udp.send_to(b"stray", from).await.unwrap();
                udp.send_to(&answer(&buffer[..length], true), from).await.unwrap();
            }
        });
        let count = Arc::clone(&streams);
        tasks.spawn(async move {
            loop {
                let (mut stream, _from) = tcp.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let length = stream.read_u16().await.unwrap();
                let mut bytes = vec![0; length.into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let bytes = answer(&bytes, false);
                stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        });
        Self { address, datagrams, streams, mute, _tasks: tasks }
    }
}

fn answer(bytes: &[u8], datagram: bool) -> Vec<u8> {
    let question = Message::from_vec(bytes).unwrap();
    let query = question.queries[0].clone();
    let mut message = Message::new(question.id, MessageType::Response, question.op_code);
    message.add_query(query.clone());
    let name = query.name().to_lowercase();
    let record = |data| Record::from_rdata(name.clone(), 60, data);
    match (name.to_ascii().as_str(), query.query_type()) {
        ("broken.test.", _) => message.metadata.response_code = ResponseCode::ServFail,
        ("large.test.", _) if datagram => message.metadata.truncation = true,
        ("large.test.", _) => {
            message.add_answers((0..100).map(|last| record(RData::A(A::new(192, 0, 2, last)))));
        }
        ("www.example.test.", RecordType::A) => {
            message.add_answer(record(RData::A(A::new(192, 0, 2, 80))));
        }
        (text, _) => {
            if text != "www.example.test." {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            let root = Name::from_ascii("test.").unwrap();
            let data = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 20);
            message.add_authority(Record::from_rdata(root, 60, RData::SOA(data)));
        }
    }
    message.to_vec().unwrap()
}
