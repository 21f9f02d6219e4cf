//! Pods' interfaces in the real kernel, in a network namespace of their own. Needs root and `ip`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;

use berth_network::{Attachment, NodeNetwork};

fn network() -> NodeNetwork {
    NodeNetwork {
        prefix: "bt".to_owned(),
        pods: (Ipv4Addr::new(10, 142, 0, 0), 16),
        services: (Ipv4Addr::new(10, 143, 0, 0), 16),
        dns: Ipv4Addr::new(10, 143, 0, 10),
    }
}

fn ip(line: &str) -> String {
    let output =
        Command::new("ip").args(line.split_whitespace()).output().expect("iproute2 is needed");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace without a name, held by a thread's descriptor.
fn namespace() -> std::fs::File {
    std::thread::spawn(|| {
        berth_sys::namespace::unshare(libc::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap()
}

fn inside<T: Send + 'static>(
    namespace: &std::fs::File,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let namespace = namespace.try_clone().unwrap();
    std::thread::spawn(move || {
        berth_sys::namespace::join(namespace.as_fd(), libc::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// This thread becomes a host without network.
fn host() {
    assert!(rustix::process::getuid().is_root(), "these tests need root");
    berth_sys::namespace::unshare(libc::CLONE_NEWNET).unwrap();
    ip("link set lo up");
}

#[test]
fn pods_reach_each_other_and_the_node_and_leave_nothing() {
    host();
    let network = network();
    network.setup().unwrap();
    network.setup().unwrap();
    let pods: Vec<_> = [2, 3]
        .map(|last| {
            let namespace = namespace();
            let attachment = Attachment::of(&network, Ipv4Addr::new(10, 142, 0, last));
            attachment.attach(namespace.as_fd()).unwrap();
            (namespace, attachment)
        })
        .into();
    assert_eq!(network.interfaces().unwrap().len(), 2);
    let listener = inside(&pods[0].0, || TcpListener::bind("0.0.0.0:7000").unwrap());
    let serve = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, peer) = listener.accept().unwrap();
            write!(stream, "{}", peer.ip()).unwrap();
        }
    });
    let ask = || {
        let mut text = String::new();
        TcpStream::connect("10.142.0.2:7000").unwrap().read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(inside(&pods[1].0, ask), "10.142.0.3");
    assert_eq!(ask(), "10.142.0.1");
    serve.join().unwrap();
    for (_, attachment) in &pods {
        attachment.detach().unwrap();
        attachment.detach().unwrap();
    }
    assert!(network.interfaces().unwrap().is_empty());
    network.teardown().unwrap();
    network.teardown().unwrap();
    assert!(!ip("addr").contains("10.14") && !ip("route").contains("10.14"));
}

#[test]
fn attaching_again_replaces_what_a_crash_left() {
    host();
    let network = network();
    network.setup().unwrap();
    let attachment = Attachment::of(&network, Ipv4Addr::new(10, 142, 0, 9));
    let (first, second) = (namespace(), namespace());
    attachment.attach(first.as_fd()).unwrap();
    attachment.attach(second.as_fd()).unwrap();
    assert_eq!(network.interfaces().unwrap().len(), 1);
    assert!(inside(&second, || ip("addr show eth0")).contains("10.142.0.9/32"));
    network.teardown().unwrap();
}

#[test]
fn a_forged_source_address_goes_nowhere() {
    host();
    let network = network();
    network.setup().unwrap();
    let (honest, forger) = (namespace(), namespace());
    Attachment::of(&network, Ipv4Addr::new(10, 142, 0, 2)).attach(honest.as_fd()).unwrap();
    Attachment::of(&network, Ipv4Addr::new(10, 142, 0, 3)).attach(forger.as_fd()).unwrap();
    let receiver = inside(&honest, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:9").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        socket
    });
    inside(&forger, || {
        ip("addr add 10.142.0.77/32 dev eth0");
        let send = |from: &str, text: &[u8]| {
            std::net::UdpSocket::bind(from).unwrap().send_to(text, "10.142.0.2:9").unwrap();
        };
        send("10.142.0.77:0", b"forged");
        send("10.142.0.3:0", b"honest");
    });
    let mut buffer = [0; 16];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"honest"[..], "10.142.0.3"));
    assert!(receiver.recv_from(&mut buffer).is_err(), "nothing else arrives");
    network.teardown().unwrap();
}
