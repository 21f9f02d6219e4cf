//! Bootstrap tokens: `abcdef.0123456789abcdef`, kept as Secrets, by which a machine asks to become a node.

use berth_access::Identity;
use berth_objects::{Object, base64_decode, time};

use crate::authenticate::AuthenticationError;
use crate::server::Shared;

const GROUP: &str = "system:bootstrappers";

/// The two halves of a bootstrap token, if it is one.
pub(crate) fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

pub(crate) async fn authenticate(
    shared: &Shared,
    id: &str,
    secret: &str,
) -> Result<Identity, AuthenticationError> {
    let unknown = || AuthenticationError::Claims("an unknown bootstrap token");
    let resource = berth_rules::find("", "v1", "secrets").ok_or_else(unknown)?;
    let name = format!("bootstrap-token-{id}");
    let found = shared.fetch(resource, "kube-system", &name).await;
    let (object, _) = found.map_err(AuthenticationError::Store)?.ok_or_else(unknown)?;
    let data = |field: &str| -> String {
        let bytes = base64_decode(object.text(&["data", field])).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let good = object.text(&["type"]) == "bootstrap.kubernetes.io/token"
        && !object.deleting()
        && data("token-id") == id
        && data("usage-bootstrap-authentication") == "true"
        && same(data("token-secret").as_bytes(), secret.as_bytes());
    if !good {
        return Err(unknown());
    }
    let end = data("expiration");
    if !end.is_empty() && time::parse(&end).is_none_or(|end| end <= shared.now()) {
        return Err(AuthenticationError::Claims("it has expired"));
    }
    let mut identity = Identity::new(format!("system:bootstrap:{id}"), &[GROUP]);
    for group in data("auth-extra-groups").split(',').map(str::trim) {
        if group.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with(':')) {
            identity.groups.push(group.to_owned());
        }
    }
    Ok(identity)
}

/// Compares without telling by the time it takes where the difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |sum, (left, right)| sum | (left ^ right)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_form() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef", "a.b.c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(same(b"a", b"a") && !same(b"a", b"b") && !same(b"a", b"aa"));
    }
}
