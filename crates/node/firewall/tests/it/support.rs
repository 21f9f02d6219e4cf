//! A host in its own network namespace with two pods behind it, made by `ip`.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use berth_firewall::kernel::Settings;

static COUNTER: AtomicU32 = AtomicU32::new(0);

pub fn settings() -> Settings {
    Settings {
        table: "berth-test".to_owned(),
        interfaces: "pod".to_owned(),
        pods: (Ipv4Addr::new(10, 42, 0, 0), 16),
        gateway: Ipv4Addr::new(10, 42, 0, 1),
        dns: Ipv4Addr::new(10, 43, 0, 10),
    }
}

pub fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 42, 0, 10 + number)
}

/// Runs a command in the calling thread's namespaces and returns its output.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The named namespaces of one test; removed at its end.
pub struct Net {
    prefix: String,
    pods: u8,
}

impl Net {
    /// Moves the calling thread into a fresh namespace, the host, and hangs `pods` pods on it.
    pub fn new(pods: u8) -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root");
        let prefix =
            format!("bf{}x{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        // Pods' namespaces get names, so that commands can be run in them; the host is this thread's own.
        let net = Self { prefix, pods };
        let prefix = &net.prefix;
        for number in 0..pods {
            run(&format!("ip netns add {prefix}-{number}"));
        }
        berth_sys::namespace::unshare(libc::CLONE_NEWNET).unwrap();
        run("ip link set lo up");
        run("ip addr add 10.42.0.1/32 dev lo");
        run("ip route add 10.43.0.0/16 dev lo src 10.42.0.1");
        std::fs::write("/proc/thread-self/root/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        for number in 0..pods {
            let (name, address) = (format!("{prefix}-{number}"), pod(number));
            run(&format!("ip link add pod{number} type veth peer name eth0 netns {name}"));
            run(&format!("ip link set pod{number} up"));
            run(&format!("ip route add {address}/32 dev pod{number}"));
            std::fs::write(format!("/proc/sys/net/ipv4/conf/pod{number}/route_localnet"), "1")
                .unwrap();
            run(&format!("ip -n {name} link set lo up"));
            run(&format!("ip -n {name} link set eth0 up"));
            run(&format!("ip -n {name} addr add {address}/32 dev eth0"));
            run(&format!("ip -n {name} route add 10.42.0.1 dev eth0"));
            run(&format!("ip -n {name} route add default via 10.42.0.1"));
        }
        net
    }

    /// Runs `work` in a pod.
    pub fn inside<T: Send>(&self, number: u8, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}-{number}", self.prefix);
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let file = std::fs::File::open(path).unwrap();
                    berth_sys::namespace::join(std::os::fd::AsFd::as_fd(&file), libc::CLONE_NEWNET)
                        .unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for number in 0..self.pods {
            run(&format!("ip netns del {}-{number}", self.prefix));
        }
    }
}
