//! The short form of ports, `[[address:]published:]target[/protocol]`, with ranges.

use super::ValueError;

/// One published port, or one that the cluster picks a port for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortPort {
    pub(crate) address: Option<String>,
    pub(crate) published: Option<u16>,
    pub(crate) target: u16,
    pub(crate) protocol: String,
}

/// All ports that the text stands for.
pub(crate) fn parse(text: &str) -> Result<Vec<ShortPort>, ValueError> {
    let fail = |why: &str| {
        ValueError::Other(format!(
            "`{text}` is not a port: {why}; write `8080:80`, `127.0.0.1:8080:80/udp` or `3000-3005:3000-3005`"
        ))
    };
    let (rest, protocol) = text.trim().rsplit_once('/').unwrap_or((text.trim(), "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(fail("the protocol is none of `tcp`, `udp` and `sctp`"));
    }
    let (rest, target) =
        rest.rsplit_once(':').map_or((None, rest), |(rest, target)| (Some(rest), target));
    let (address, published) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((address, published)) => (Some(address), Some(published)),
        },
    };
    let address = match address.map(|address| address.trim_matches(['[', ']'])) {
        None | Some("") => None,
        Some(address) => {
            let parsed: std::net::IpAddr =
                address.parse().map_err(|_| fail("the part before the ports is no IP address"))?;
            Some(parsed.to_string())
        }
    };
    let target =
        range(target).ok_or_else(|| fail("the container port is no number from 1 to 65535"))?;
    let published = match published.filter(|published| !published.is_empty()) {
        None => None,
        Some(text) => Some(
            range(text).ok_or_else(|| fail("the published port is no number from 1 to 65535"))?,
        ),
    };
    let one = |target, published| ShortPort {
        address: address.clone(),
        published,
        target,
        protocol: protocol.clone(),
    };
    match published {
        None => Ok((target.0..=target.1).map(|target| one(target, None)).collect()),
        Some((first, last)) if last - first == target.1 - target.0 => Ok((target.0..=target.1)
            .zip(first..=last)
            .map(|(target, published)| one(target, Some(published)))
            .collect()),
        // One container port and a range to choose from: the first is as good as any.
        Some((first, _)) if target.0 == target.1 => Ok(vec![one(target.0, Some(first))]),
        Some(_) => Err(fail("the two ranges differ in length")),
    }
}

/// `80` or `80-85`.
pub(crate) fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|number| *number > 0);
    let (first, last) = match text.split_once('-') {
        None => (number(text)?, number(text)?),
        Some((first, last)) => (number(first)?, number(last)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            Err(error) => error.to_string(),
            Ok(ports) => ports
                .iter()
                .map(|port| {
                    let address = port.address.as_deref().unwrap_or("*");
                    let published = port.published.map_or("?".to_owned(), |port| port.to_string());
                    format!("{address} {published}>{}/{}", port.target, port.protocol)
                })
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    #[test]
    fn reads_every_short_form() {
        assert_eq!(shown("80"), "* ?>80/tcp");
        assert_eq!(shown("8080:80"), "* 8080>80/tcp");
        assert_eq!(shown("127.0.0.1:5353:53/udp"), "127.0.0.1 5353>53/udp");
        assert_eq!(shown("[::1]:80:80"), "::1 80>80/tcp");
        assert_eq!(shown("127.0.0.1::80"), "127.0.0.1 ?>80/tcp");
        assert_eq!(shown("3000-3001:4000-4001"), "* 3000>4000/tcp, * 3001>4001/tcp");
        assert_eq!(shown("8000-9000:80"), "* 8000>80/tcp");
    }

    #[test]
    fn says_what_is_wrong() {
        for wrong in ["", "0", "70000:80", "a:b", "80/http", "localhost:80:80", "1-2:1-3", "5-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(shown("localhost:80:80").contains("no IP address"));
    }
}
