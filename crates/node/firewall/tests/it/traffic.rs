//! Connections through the rules.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_firewall::{Backend, Firewall, Frontend, PolicySet, Protocol, Ruleset};

use crate::support::{Net, pod, run, settings};

const PATIENCE: Duration = Duration::from_millis(700);

/// Connects and returns what the other side says first, with the address it saw.
fn ask(address: Ipv4Addr, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Serves `name` and the client's address in a pod until `stop`.
fn serve(net: &Net, number: u8, port: u16, stop: &AtomicBool) {
    net.inside(number, || {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, peer)) => {
                    // A client that has given up is not the server's concern.
                    let _gone = write!(stream, "pod{number} {}", peer.ip());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let mut polled =
                        [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
                    let short = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                    rustix::event::poll(&mut polled, Some(&short)).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
}

/// Runs `work` while the pods serve.
fn while_serving(net: &Net, pods: &[u8], work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in pods {
            scope.spawn(|| serve(net, *number, 8080, &stop));
        }
        for number in pods {
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while net.inside(*number, || ask(Ipv4Addr::LOCALHOST, 8080)).is_err() {
                assert!(std::time::Instant::now() < deadline, "pod {number} does not listen");
            }
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn frontend(address: [u8; 4], port: u16) -> Frontend {
    Frontend { address: address.into(), protocol: Protocol::Tcp, port }
}

fn backend(number: u8) -> Backend {
    Backend { address: pod(number), port: 8080 }
}

#[test]
fn a_service_balances_over_its_endpoints_and_refuses_without() {
    let net = Net::new(3);
    let ruleset = Ruleset {
        services: [
            (frontend([10, 43, 0, 1], 80), vec![backend(0), backend(1)]),
            (frontend([10, 43, 0, 2], 80), vec![]),
            (frontend([127, 0, 0, 1], 9000), vec![backend(0)]),
            (frontend([0, 0, 0, 0], 9001), vec![backend(1)]),
        ]
        .into(),
        ..Ruleset::default()
    };
    let _firewall = Firewall::install(settings(), &ruleset).unwrap();
    while_serving(&net, &[0, 1], || {
        let mut seen = [0, 0];
        for _ in 0..40 {
            let answer = net.inside(2, || ask([10, 43, 0, 1].into(), 80)).unwrap();
            assert!(
                answer.ends_with(&pod(2).to_string()),
                "the client's address is kept: {answer}"
            );
            seen[usize::from(answer.starts_with("pod1"))] += 1;
        }
        assert!(seen.iter().all(|count| *count > 5), "both endpoints take part: {seen:?}");
        let refused = net.inside(2, || ask([10, 43, 0, 2].into(), 80)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        // A pod reaches itself through its own Service.
        for _ in 0..6 {
            assert!(net.inside(0, || ask([10, 43, 0, 1].into(), 80)).is_ok());
        }
        // From the host: through the Service, through a port on loopback only, and through one on all addresses.
        assert!(ask([10, 43, 0, 1].into(), 80).is_ok());
        assert!(ask([127, 0, 0, 1].into(), 9000).unwrap().starts_with("pod0"));
        assert!(ask([127, 0, 0, 1].into(), 9001).unwrap().starts_with("pod1"));
        assert!(ask([10, 42, 0, 1].into(), 9001).unwrap().starts_with("pod1"));
        // Nobody takes the names' place by publishing their port.
        run("ip address add 10.43.0.10/32 dev lo");
        assert!(ask([10, 43, 0, 10].into(), 9001).is_err());
        assert!(net.inside(2, || ask([10, 43, 0, 10].into(), 9001)).is_err());
        assert!(net.inside(2, || ask([10, 42, 0, 1].into(), 9001)).is_ok());
        assert!(
            ask([10, 42, 0, 1].into(), 9000).is_err(),
            "a port on loopback is not on other addresses"
        );
        assert!(net.inside(2, || ask([127, 0, 0, 1].into(), 9000)).is_err());
    });
}

/// Where clouds tell machines who they are, and with which credentials.
#[test]
fn pods_do_not_reach_link_local_addresses() {
    let net = Net::new(1);
    run("ip address add 169.254.169.254/32 dev lo");
    let listener = TcpListener::bind("169.254.169.254:80").unwrap();
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let connect = || TcpStream::connect_timeout(&SocketAddr::from((metadata, 80)), PATIENCE);
    assert!(net.inside(0, connect).is_ok(), "it is there, before");
    let _firewall = Firewall::install(settings(), &Ruleset::default()).unwrap();
    let refused = net.inside(0, connect).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "without waiting");
    assert!(connect().is_ok(), "the machine itself goes on");
    drop(listener);
}

#[test]
fn isolated_pods_hear_only_whom_a_policy_names() {
    let net = Net::new(3);
    let mut ruleset = Ruleset {
        services: [(frontend([0, 0, 0, 0], 9001), vec![backend(0)])].into(),
        inbound: PolicySet {
            isolated: [pod(0)].into(),
            peers: [(pod(0), pod(1))].into(),
            ..PolicySet::default()
        },
        ..Ruleset::default()
    };
    let mut firewall = Firewall::install(settings(), &ruleset).unwrap();
    while_serving(&net, &[0, 1], || {
        let reaches = |from: u8, to: u8| net.inside(from, || ask(pod(to), 8080)).is_ok();
        assert!(reaches(1, 0), "the named peer");
        assert!(!reaches(2, 0), "another pod");
        assert!(reaches(2, 1) && reaches(0, 1), "pods without a policy");
        assert!(ask(pod(0), 8080).is_ok(), "the node, for its probes");
        assert!(ask([10, 42, 0, 1].into(), 9001).is_ok(), "a published port");
        // By port.
        ruleset.inbound.peer_ports = [(pod(0), pod(2), Protocol::Tcp, 8080)].into();
        firewall.update(&ruleset).unwrap();
        assert!(reaches(2, 0), "allowed on this port");
        ruleset.inbound.peer_ports = [(pod(0), pod(2), Protocol::Tcp, 81)].into();
        firewall.update(&ruleset).unwrap();
        assert!(!reaches(2, 0), "allowed on another port");
        ruleset.inbound.anybody_ports = [(pod(0), Protocol::Tcp, 8080)].into();
        firewall.update(&ruleset).unwrap();
        assert!(reaches(2, 0), "everybody on this port");
        // The way out.
        ruleset.outbound = PolicySet {
            isolated: [pod(2)].into(),
            peers: [(pod(2), pod(0))].into(),
            ..PolicySet::default()
        };
        firewall.update(&ruleset).unwrap();
        assert!(reaches(2, 0) && !reaches(2, 1), "out only to the named peer");
    });
}
