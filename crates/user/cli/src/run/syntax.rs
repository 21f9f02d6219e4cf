//! Docker's short notations: ports, volumes, sizes.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use crate::up::ports::Wanted;

/// `[ADDRESS:]HOST:CONTAINER[/PROTOCOL]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The address of this machine to listen on; all if absent.
    pub address: Option<IpAddr>,
    /// The port of this machine.
    pub host: u16,
    /// The port in the container.
    pub container: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
}

impl Port {
    /// For the check whether it is free.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            address: self.address,
            port: self.host,
            udp: self.protocol == "UDP",
            service: None,
        }
    }
}

/// `SOURCE:TARGET[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What is mounted.
    pub source: Source,
    /// Where, in the container.
    pub target: String,
    /// Whether the container may not write.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A volume that outlives containers.
    Named(String),
    /// A path of this machine, absolute.
    Path(PathBuf),
    /// A directory that lives as long as the container.
    Anonymous,
}

/// Reads a published port.
pub fn port(text: &str) -> Result<Port, String> {
    let (numbers, protocol) = match text.rsplit_once('/') {
        Some((numbers, "tcp")) => (numbers, "TCP"),
        Some((numbers, "udp")) => (numbers, "UDP"),
        Some((_, other)) => return Err(format!("`{other}` is no protocol; write `tcp` or `udp`")),
        None => (text, "TCP"),
    };
    let wrong = || "write HOST:CONTAINER, as `8080:80` or `127.0.0.1:8080:80`".to_owned();
    let (rest, container) = numbers.rsplit_once(':').ok_or_else(wrong)?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            (Some(address.parse().map_err(|_| format!("`{address}` is no address"))?), host)
        }
        None => (None, rest),
    };
    let number = |text: &str| match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no port; a port is a number from 1 to 65535")),
        Ok(number) => Ok(number),
    };
    Ok(Port { address, host: number(host)?, container: number(container)?, protocol })
}

/// Reads a mount. A relative path begins at the current directory.
pub fn volume(text: &str) -> Result<Volume, String> {
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    volume_from(text, &here)
}

fn volume_from(text: &str, here: &Path) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (Source::Anonymous, *target, ""),
        [source, target] => (self::source(source, here)?, *target, ""),
        [source, target, options] => (self::source(source, here)?, *target, *options),
        _ => return Err("write SOURCE:TARGET or SOURCE:TARGET:ro".to_owned()),
    };
    if !target.starts_with('/') {
        return Err(format!("`{target}` is not an absolute path in the container"));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => return Err(format!("`{other}` is no option of a volume; `ro` and `rw` are")),
        }
    }
    Ok(Volume { source, target: target.to_owned(), read_only })
}

fn source(text: &str, here: &Path) -> Result<Source, String> {
    if text.starts_with(['/', '.', '~']) || text.contains('/') {
        let path = match text.strip_prefix("~/") {
            Some(rest) => {
                let home = std::env::var_os("HOME").ok_or("`~` needs the variable HOME")?;
                PathBuf::from(home).join(rest)
            }
            None => here.join(text),
        };
        return Ok(Source::Path(tidy(&path)));
    }
    name(text).map(Source::Named)
}

/// The path without `.` and `..`.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                tidy.pop();
            }
            other => tidy.push(other),
        }
    }
    tidy
}

/// Checks a name for the cluster.
pub fn name(text: &str) -> Result<String, String> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let good = (1..=50).contains(&bytes.len())
        && bytes.iter().all(|byte| word(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|first| word(*first))
        && bytes.last().is_some_and(|last| word(*last));
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is no name here; use at most 50 lower-case letters, digits and `-` between them"
        ))
    }
}

/// Reads a size as docker does: bytes, or with `k`, `m`, `g`, in powers of 1024.
pub fn memory(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let trimmed = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, shift) = match trimmed.as_bytes().last() {
        Some(b'k') => (&trimmed[..trimmed.len() - 1], 10),
        Some(b'm') => (&trimmed[..trimmed.len() - 1], 20),
        Some(b'g') => (&trimmed[..trimmed.len() - 1], 30),
        _ => (trimmed, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "write a size as `512m` or `2g`".to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("`{text}` is out of range"))
}

/// Reads a number of processors, in thousandths.
pub fn processors(text: &str) -> Result<u64, String> {
    let wrong = || "write a number of processors, as `0.5` or `2`".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || whole.is_empty() && fraction.is_empty() {
        return Err(wrong());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let thousandths: u64 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    let all = whole.checked_mul(1000).and_then(|all| all.checked_add(thousandths));
    all.filter(|all| *all > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match port(text) {
            Ok(Port { address, host, container, protocol }) => {
                format!("{address:?} {host} {container} {protocol}")
            }
            Err(error) => error,
        }
    }

    #[test]
    fn ports_have_docker_s_forms() {
        assert_eq!(shown("8080:80"), "None 8080 80 TCP");
        assert_eq!(shown("127.0.0.1:53:5353/udp"), "Some(127.0.0.1) 53 5353 UDP");
        assert_eq!(shown("[::1]:80:80"), "Some(::1) 80 80 TCP");
        assert_eq!(shown("80"), "write HOST:CONTAINER, as `8080:80` or `127.0.0.1:8080:80`");
        assert_eq!(shown("0:80"), "`0` is no port; a port is a number from 1 to 65535");
        assert_eq!(shown("80:80/sctp"), "`sctp` is no protocol; write `tcp` or `udp`");
        assert_eq!(shown("web:80:80"), "`web` is no address");
    }

    fn mounted(text: &str) -> String {
        match volume_from(text, Path::new("/here")) {
            Ok(Volume { source, target, read_only }) => format!("{source:?} {target} {read_only}"),
            Err(error) => error,
        }
    }

    #[test]
    fn volumes_have_docker_s_forms() {
        assert_eq!(mounted("data:/var/lib"), "Named(\"data\") /var/lib false");
        assert_eq!(mounted("./x/../y:/y:ro"), "Path(\"/here/y\") /y true");
        assert_eq!(mounted("/a:/b:rw"), "Path(\"/a\") /b false");
        assert_eq!(mounted("/scratch"), "Anonymous /scratch false");
        assert_eq!(mounted("data:var"), "`var` is not an absolute path in the container");
        assert_eq!(mounted("a:/b:z"), "`z` is no option of a volume; `ro` and `rw` are");
        assert!(mounted("Data:/x").starts_with("`Data` is no name here"));
    }

    #[test]
    fn sizes_and_processors_are_numbers() {
        assert_eq!(
            ["512m", "2G", "1024", "4kib"].map(memory),
            [Ok(512 << 20), Ok(2 << 30), Ok(1024), Ok(4096)]
        );
        assert!(memory("much").is_err() && memory("0").is_err());
        assert_eq!(
            ["0.5", "2", ".25", "1.125"].map(processors),
            [Ok(500), Ok(2000), Ok(250), Ok(1125)]
        );
        assert!(
            processors("0").is_err() && processors("").is_err() && processors("1.0001").is_err()
        );
    }
}
