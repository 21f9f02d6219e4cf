//! A registry process, images to move, and a peer that answers from a script.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_content::{ContentStore, Digest, Durability, Image, LayerExpectation, Reference};
use berth_registry::{Client, ClientOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const BINARY: &str = "/usr/bin/docker-registry";

pub struct Registry {
    process: Child,
    _folder: tempfile::TempDir,
    pub address: SocketAddr,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Registry {
    pub async fn start() -> Self {
        assert!(
            std::path::Path::new(BINARY).exists(),
            "this test needs {BINARY}; install the package `docker-registry`"
        );
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            folder.path().join("data").display()
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let mut registry = Self { process: command.spawn().unwrap(), _folder: folder, address };
        let ready = async {
            while TcpStream::connect(address).await.is_err() {
                assert!(registry.process.try_wait().unwrap().is_none(), "the registry ended");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
        registry
    }

    pub fn reference(&self, name: &str) -> Reference {
        at(self.address, name)
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn at(address: SocketAddr, name: &str) -> Reference {
    format!("{address}/{name}").parse().unwrap()
}

pub struct Store {
    pub store: ContentStore,
    _folder: tempfile::TempDir,
}

pub fn store() -> Store {
    let folder = tempfile::tempdir().unwrap();
    let store = ContentStore::open(folder.path()).unwrap();
    Store { store: store.with_durability(Durability::ThisBoot), _folder: folder }
}

pub fn client() -> Client {
    let pause = Duration::from_millis(5);
    Client::new(ClientOptions { pause, ..ClientOptions::default() }).unwrap()
}

/// An image with these files, a layer each, compressed.
pub fn image(store: &ContentStore, files: &[(&str, &[u8])], tag: &Reference) -> Image {
    let session = store.session().unwrap();
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for (name, data) in files {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, *data).unwrap();
        let blob = tar.into_inner().unwrap().finish().unwrap();
        let unpacked = session.add_layer(&blob[..], LayerExpectation::default()).unwrap();
        layers.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{}}}"#,
            unpacked.digest, unpacked.compressed
        ));
        diff_ids.push(format!("\"{}\"", unpacked.diff_id));
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let digest = session.put_blob(config.as_bytes()).unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[{}]}}"#,
        config.len(),
        layers.join(",")
    );
    let manifest = session.put_blob(manifest.as_bytes()).unwrap();
    session.finish(&manifest, std::slice::from_ref(tag)).unwrap()
}

/// Bytes that do not compress.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Passes connections on to `to`, and cuts each after so many bytes of answers.
pub async fn cutting_proxy(to: SocketAddr, after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                let sending = tokio::spawn(async move {
                    // Ends with the connection, however that ends.
                    let _cut = tokio::io::copy(&mut from_client, &mut to_server).await;
                });
                let mut limited = from_server.take(after as u64);
                let _cut = tokio::io::copy(&mut limited, &mut to_client).await;
                sending.abort();
            });
        }
    });
    address
}

/// Answers each request with what `script` says for its first line and headers.
pub async fn scripted(
    script: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match peer.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8(head).unwrap();
            if head.is_empty() {
                continue;
            }
            log.lock().unwrap().push(head.lines().next().unwrap().to_owned());
            peer.write_all(script(&head).as_bytes()).await.unwrap();
        }
    });
    (address, seen)
}

/// An answer that ends its connection.
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

pub fn digest_of(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}
