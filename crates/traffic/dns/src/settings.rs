//! How the server behaves, and where it asks for what it does not know.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it answers, over UDP and TCP alike.
    pub listen: Vec<SocketAddr>,
    /// The zone it knows by itself, without a final dot.
    pub zone: String,
    /// The file that names the resolvers to ask for everything else.
    pub resolv_conf: PathBuf,
    /// How long one resolver may take before the next is asked.
    pub patience: Duration,
    /// How many questions may be under way to resolvers at once; more are refused.
    pub under_way: usize,
}

impl Settings {
    /// The usual behaviour at these addresses.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            zone: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            patience: Duration::from_millis(1000),
            under_way: 1024,
        }
    }
}

/// The resolvers of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers(pub Vec<SocketAddr>);

/// The library functions ask no more than three either.
const MOST: usize = 3;

impl Resolvers {
    /// Reads them from the text of a `resolv.conf`. Lines that say something else, or nothing readable, are skipped, as
    /// every resolver does. `except` are our own addresses.
    ///
    /// A port other than 53 may be given as `address#port` or `[address]:port`, which only we understand.
    #[must_use]
    pub fn parse(text: &str, except: &[SocketAddr]) -> Self {
        let mut servers = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            let Some(server) = words.next().and_then(address) else { continue };
            if !except.contains(&server) && !servers.contains(&server) && servers.len() < MOST {
                servers.push(server);
            }
        }
        Self(servers)
    }

    /// Reads them from a file. A file that is not there names none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path, except: &[SocketAddr]) -> std::io::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text, except)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

fn address(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 53));
    }
    if let Ok(address) = word.parse::<SocketAddr>() {
        return Some(address);
    }
    let (address, port) = word.split_once('#')?;
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_understands() {
        let text = "# x\nsearch example.org\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\n\
                    nameserver 2001:db8::1 # y\nnameserver 10.0.0.1#5353\nnameserver 192.0.2.1\n\
                    nameserver 127.0.0.1\noptions ndots:2";
        let own = ["127.0.0.1:53".parse().unwrap()];
        let found = Resolvers::parse(text, &own).0;
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "10.0.0.1:5353"]);
    }

    #[test]
    fn a_file_that_is_not_there_names_none() {
        let none = Resolvers::read(Path::new("/nowhere/resolv.conf"), &[]).unwrap();
        assert_eq!(none, Resolvers::default());
    }
}
