//! Acting as somebody else: `Impersonate-User`, `-Group`, `-Uid`, `-Extra-…`. Each part needs the right to impersonate it.

use berth_access::{AUTHENTICATED, Attributes, Identity, service_account_of};
use berth_objects::Status;
use http::HeaderMap;

use crate::reviews::refused;
use crate::server::Shared;

const GROUP: &str = "authentication.k8s.io";
const PREFIX: &str = "impersonate-extra-";

/// The identity the headers ask for; nothing where they ask for none.
///
/// # Errors
/// When the headers contradict themselves, or the asker may not be that.
pub(crate) async fn identity(
    shared: &Shared,
    asker: &Identity,
    headers: &HeaderMap,
) -> Result<Option<Identity>, Status> {
    let Some(mut wanted) = parse(headers)? else { return Ok(None) };
    let (namespace, name) = service_account_of(&wanted.user).unwrap_or_default();
    let mut asked = Vec::new();
    if name.is_empty() {
        asked.push(("", "users", "", "", wanted.user.clone()));
    } else {
        asked.push(("", "serviceaccounts", "", namespace, name.to_owned()));
    }
    for group in &wanted.groups {
        asked.push(("", "groups", "", "", group.clone()));
    }
    if !wanted.uid.is_empty() {
        asked.push((GROUP, "uids", "", "", wanted.uid.clone()));
    }
    for (key, values) in &wanted.extra {
        for value in values {
            asked.push((GROUP, "userextras", key.as_str(), "", value.clone()));
        }
    }
    for (group, resource, subresource, namespace, name) in &asked {
        let wanted = Attributes {
            verb: "impersonate",
            group,
            resource,
            subresource,
            namespace,
            name,
            path: "",
        };
        let verdict = shared.access.judge(&*shared.store, asker, &wanted).await;
        if !verdict.is_allowed() {
            return Err(refused(asker, &wanted, &verdict));
        }
    }
    if wanted.groups.is_empty() && !name.is_empty() {
        wanted.groups.push("system:serviceaccounts".to_owned());
        wanted.groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    if wanted.user != "system:anonymous" && !wanted.is_in(AUTHENTICATED) {
        wanted.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some(wanted))
}

fn parse(headers: &HeaderMap) -> Result<Option<Identity>, Status> {
    let unreadable = || Status::bad_request("an impersonation header is not readable text");
    let mut wanted = Identity::default();
    let mut any = false;
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("impersonate-") {
            continue;
        }
        any = true;
        let value = value.to_str().map_err(|_| unreadable())?.to_owned();
        match name {
            "impersonate-user" => wanted.user = value,
            "impersonate-group" => wanted.groups.push(value),
            "impersonate-uid" => wanted.uid = value,
            _ => {
                let key = name.strip_prefix(PREFIX).filter(|key| !key.is_empty());
                let key =
                    key.ok_or_else(|| Status::bad_request(format!("unknown header {name}")))?;
                wanted.extra.entry(decode(key)).or_default().push(value);
            }
        }
    }
    if any && wanted.user.is_empty() {
        let why = "requested groups, uid or extra without impersonating a user";
        return Err(Status::bad_request(why));
    }
    Ok(any.then_some(wanted))
}

/// Keys may hold what headers cannot, percent-encoded.
fn decode(key: &str) -> String {
    crate::path::decode(key, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).fold(
            HeaderMap::new(),
            |mut map, (name, value): (http::HeaderName, http::HeaderValue)| {
                map.append(name, value);
                map
            },
        )
    }

    #[test]
    fn headers_make_an_identity() {
        assert!(parse(&headers(&[("accept", "x")])).unwrap().is_none());
        let wanted = parse(&headers(&[
            ("impersonate-user", "ann"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "1"),
            ("impersonate-extra-example.com%2Fscope", "x"),
        ]));
        let wanted = wanted.unwrap().unwrap();
        assert_eq!(
            (wanted.user.as_str(), wanted.groups.len(), wanted.uid.as_str()),
            ("ann", 2, "1")
        );
        assert_eq!(wanted.extra["example.com/scope"], ["x"]);
    }

    #[test]
    fn groups_without_a_user_are_an_error() {
        assert!(parse(&headers(&[("impersonate-group", "system:masters")])).is_err());
        assert!(
            parse(&headers(&[("impersonate-user", "a"), ("impersonate-extra-", "x")])).is_err()
        );
    }
}
