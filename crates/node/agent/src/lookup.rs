//! Connections to whatever probes and hooks name.
//!
//! A name is looked up by the machine's own resolver, which blocks a thread, and for half a minute where nobody answers: much longer
//! than anybody waits for a probe. Only so many threads are ever held by it, however many probes ask.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most names that are looked up at once.
const MOST: usize = 16;
static LOOKUPS: Semaphore = Semaphore::const_new(MOST);

/// Connects to a name or an address.
///
/// # Errors
/// When it is not known, or nobody listens there.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let host = host.trim_matches(['[', ']']);
    if let Ok(address) = host.parse::<IpAddr>() {
        return TcpStream::connect((address, port)).await;
    }
    let name = host.to_owned();
    let addresses = bounded(&LOOKUPS, move || {
        Ok((name.as_str(), port).to_socket_addrs()?.collect::<Vec<SocketAddr>>())
    });
    let addresses = addresses.await?;
    TcpStream::connect(addresses.as_slice()).await
}

/// Blocking work that keeps its place until it is done, also where nobody waits for it any more.
async fn bounded<T: Send + 'static>(
    places: &'static Semaphore,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let place: SemaphorePermit<'static> = places.acquire().await.map_err(io::Error::other)?;
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    done.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    #[tokio::test]
    async fn names_and_addresses_are_reached() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            connect(host, port).await.unwrap();
        }
        assert!(connect("name.invalid", port).await.is_err());
    }

    #[tokio::test]
    async fn work_nobody_waits_for_keeps_its_place() {
        static PLACES: Semaphore = Semaphore::const_new(1);
        static GO: Mutex<Option<Receiver<()>>> = Mutex::new(None);
        let (go, wait) = channel();
        *GO.lock().unwrap() = Some(wait);
        let slow = bounded(&PLACES, || {
            let wait = GO.lock().unwrap().take().unwrap();
            wait.recv().map_err(io::Error::other)
        });
        assert!(tokio::time::timeout(Duration::from_millis(10), slow).await.is_err());
        let next = tokio::time::timeout(Duration::from_millis(10), bounded(&PLACES, || Ok(())));
        assert!(next.await.is_err(), "it has begun beside the other");
        go.send(()).unwrap();
        bounded(&PLACES, || Ok(())).await.unwrap();
    }
}
