//! Memory and network of the whole machine, each from one file.

use std::collections::HashMap;
use std::fs;
use std::io;

use crate::groups::most_processes;

/// Bytes and packets that went through an interface, as seen from its owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Came in.
    pub received: Counters,
    /// Went out.
    pub sent: Counters,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory there is, in bytes.
    pub memory_total: u64,
    /// Memory that is not free.
    pub memory_used: u64,
    /// The same without file pages nobody has touched lately.
    pub memory_working_set: u64,
    /// Anonymous memory.
    pub memory_rss: u64,
    /// Page faults since the start of the machine.
    pub faults: u64,
    /// Those that had to read from a disk.
    pub major_faults: u64,
    /// Start of the machine, in seconds since the epoch.
    pub boot: i64,
    /// Processes and threads, and the most there may be.
    pub processes: (u64, u64),
    /// The interface that leads to the outside.
    pub outside: Option<String>,
    interfaces: HashMap<String, Traffic>,
}

impl Machine {
    /// Reads it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn read() -> io::Result<Self> {
        let memory = fs::read_to_string("/proc/meminfo")?;
        let value = |name: &str| kibibytes(&memory, name).unwrap_or(0) * 1024;
        let used = value("MemTotal:").saturating_sub(value("MemFree:"));
        let events = fs::read_to_string("/proc/vmstat")?;
        let event = |name: &str| {
            let mut lines = events.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(known, _)| *known == name).and_then(|(_, number)| number.parse().ok())
        };
        let stat = fs::read_to_string("/proc/stat")?;
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
        let load = fs::read_to_string("/proc/loadavg")?;
        let running = load.split(['/', ' ']).nth(4).and_then(|number| number.parse().ok());
        Ok(Self {
            memory_total: value("MemTotal:"),
            memory_used: used,
            memory_working_set: used.saturating_sub(value("Inactive(file):")),
            memory_rss: value("AnonPages:"),
            faults: event("pgfault").unwrap_or(0),
            major_faults: event("pgmajfault").unwrap_or(0),
            boot: boot.unwrap_or(0),
            processes: (running.unwrap_or(0), u64::try_from(most_processes()).unwrap_or(0)),
            outside: outside(&fs::read_to_string("/proc/net/route").unwrap_or_default()),
            interfaces: interfaces(&fs::read_to_string("/proc/net/dev")?),
        })
    }

    /// The traffic of one of the machine's interfaces.
    pub fn through(&self, interface: &str) -> Option<Traffic> {
        self.interfaces.get(interface).copied()
    }

    /// The traffic of whoever has the other end of one of our interfaces: what we receive is what they send.
    pub fn behind(&self, interface: &str) -> Option<Traffic> {
        self.through(interface).map(|ours| Traffic { received: ours.sent, sent: ours.received })
    }
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The interface of the route to everywhere.
fn outside(routes: &str) -> Option<String> {
    let mut rows = routes.lines().skip(1).map(|line| line.split_whitespace());
    rows.find_map(|mut row| {
        let (name, destination) = (row.next()?, row.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

fn interfaces(text: &str) -> HashMap<String, Traffic> {
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    rows.map(|(name, numbers)| {
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect();
        let at = |place: usize| numbers.get(place).copied().unwrap_or(0);
        let counters = |first: usize| Counters {
            bytes: at(first),
            packets: at(first + 1),
            errors: at(first + 2),
            dropped: at(first + 3),
        };
        (name.trim().to_owned(), Traffic { received: counters(0), sent: counters(8) })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_other_end_of_an_interface_sees_the_reverse() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
                    btx0a:    10       1    2    3    0     0          0         0      40       5    6    7    0     0       0          0\n";
        let machine = Machine { interfaces: interfaces(text), ..Machine::default() };
        let pod = machine.behind("btx0a").unwrap();
        assert_eq!((pod.sent.bytes, pod.received.bytes), (10, 40));
        assert_eq!((pod.received.packets, pod.received.errors, pod.received.dropped), (5, 6, 7));
        assert_eq!(machine.behind("other"), None);
    }

    #[test]
    fn this_machine_has_memory_and_a_loopback() {
        let machine = Machine::read().unwrap();
        assert!(machine.memory_total > machine.memory_working_set && machine.memory_rss > 0);
        assert!(machine.boot > 0 && machine.processes.0 > 0);
        let most = |name| fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).unwrap();
        let most = ["pid_max", "threads-max"].map(|name| most(name).trim().parse::<u64>().unwrap());
        assert_eq!(Some(&machine.processes.1), most.iter().min());
        assert!(machine.through("lo").is_some());
        let routes = "Iface\tDestination\tGateway\nveth\t0000FEA9\t0\neth0\t00000000\t0101A8C0\n";
        assert_eq!(outside(routes).as_deref(), Some("eth0"));
    }
}
