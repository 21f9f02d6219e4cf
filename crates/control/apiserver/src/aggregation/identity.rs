//! How this server shows other servers for whom it asks (the front proxy of upstream's documentation).
//!
//! Its certificate is of an authority that issues nothing else, so that no client's own certificate can speak for others. Everything
//! another server needs to check that is in a ConfigMap.

use std::sync::Arc;

use berth_objects::{Object, Status};
use berth_tls::Credentials;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};

use crate::callout::{Service, roots};
use crate::server::Shared;
use crate::transport::{Connector, HttpClient, Place};
use crate::{BoxError, Identity};

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";
/// Connections that are kept to one server.
const IDLE: usize = 16;

/// What this server shows other servers.
#[derive(Debug, Clone)]
pub struct Aggregator {
    /// The certificates of clients are of this authority, PEM.
    pub clients: String,
    /// The authority of `certificate`, PEM.
    pub authority: String,
    /// Whom the certificate names.
    pub name: String,
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

/// What other servers read to know whom to believe.
pub(crate) fn announce(own: &Aggregator) -> Value {
    json!({
        "metadata": {"name": "extension-apiserver-authentication"},
        "data": {
            "client-ca-file": own.clients,
            "requestheader-client-ca-file": own.authority,
            "requestheader-allowed-names": json!([own.name]).to_string(),
            "requestheader-username-headers": r#"["X-Remote-User"]"#,
            "requestheader-uid-headers": r#"["X-Remote-Uid"]"#,
            "requestheader-group-headers": r#"["X-Remote-Group"]"#,
            "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
        },
    })
}

/// Takes away what a client says about who it is.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let ours = |name: &HeaderName| {
        let name = name.as_str();
        [USER, UID, GROUP].contains(&name) || name.starts_with(EXTRA)
    };
    let found: Vec<HeaderName> = headers.keys().filter(|name| ours(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Headers that say who asks.
///
/// # Errors
/// For names that no header can hold: then nobody is named, rather than somebody else.
pub(crate) fn introduction(identity: &Identity) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, text: &str| {
        let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
            let why =
                "the name of the user, or of a group, cannot be told to the server of this group";
            Status::new(403, "Forbidden", why)
        });
        headers.append(name, value?);
        Ok::<_, Status>(())
    };
    add(HeaderName::from_static(USER), &identity.user)?;
    if !identity.uid.is_empty() {
        add(HeaderName::from_static(UID), &identity.uid)?;
    }
    for group in &identity.groups {
        add(HeaderName::from_static(GROUP), group)?;
    }
    for (key, values) in &identity.extra {
        let name =
            HeaderName::try_from(format!("{EXTRA}{}", escaped(key))).map_err(Status::internal)?;
        for value in values {
            add(name.clone(), value)?;
        }
    }
    Ok(headers)
}

/// A key as part of a header's name: what may not stand there is percent-encoded.
fn escaped(key: &str) -> String {
    let mut text = String::new();
    for byte in key.to_lowercase().bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

/// A client for the server that the `spec` of an API service describes.
pub(super) fn client(shared: &Shared, spec: &Value, host: &str) -> Result<HttpClient, BoxError> {
    let service = &spec["service"];
    let port = service.integer(&["port"]).unwrap_or(443);
    let service = Service {
        namespace: service.text(&["namespace"]).to_owned(),
        name: service.text(&["name"]).to_owned(),
        port: u16::try_from(port)?,
    };
    let own = shared.options.aggregator.as_deref();
    let own = own.map(|own| Credentials::from_pem(&own.certificate, &own.key)).transpose()?;
    let mut tls = match roots(spec.text(&["caBundle"]))? {
        _ if spec.get("insecureSkipTLSVerify") == Some(&Value::Bool(true)) => {
            berth_tls::unverified_client(own)?
        }
        Some(roots) => berth_tls::client(&roots, own)?,
        None => berth_tls::public_client(own)?,
    };
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let place = Place::Service(Arc::downgrade(&shared.store), service);
    let name = ServerName::try_from(host.to_owned())?;
    Ok(Connector::secure(place, tls, name).client(IDLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_said_in_headers() {
        let mut identity = Identity::new("jane", &["team", "system:authenticated"]);
        identity.extra.insert("example.com/Scope".into(), vec!["x".into()]);
        let headers = introduction(&identity).unwrap();
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}={}", value.to_str().unwrap())
        };
        let mut all: Vec<_> = headers.iter().map(text).collect();
        all.sort();
        let expected = [
            "x-remote-extra-example.com%2fscope=x",
            "x-remote-group=system:authenticated",
            "x-remote-group=team",
            "x-remote-user=jane",
        ];
        assert_eq!(all, expected);
        let mut client: HeaderMap = headers;
        client.insert("accept", HeaderValue::from_static("*/*"));
        strip(&mut client);
        assert_eq!(client.len(), 1);
        assert!(introduction(&Identity::new("jane\n", &[])).is_err());
    }
}
