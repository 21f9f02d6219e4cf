//! Who asks, from the token they bring: service accounts, joining nodes, people of an identity provider. Certificates are read in `listen`.
//!
//! A service account's token is only as good as what it is bound to: the account, and the pod, Secret or node it was made
//! for, are looked up each time, so that deleting one ends its tokens.

use berth_access::{AUTHENTICATED, Identity, service_account, service_account_of};
use berth_authority::TokenError;
use berth_objects::{Object, Status, time};
use http::HeaderMap;
use serde_json::Value;

use crate::server::Shared;
use crate::service::header;

/// Who signs tokens, and whom they are for when nobody says otherwise.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where what a token says is found in an identity.
const EXTRA: &str = "authentication.kubernetes.io";
/// Clocks may differ by this much, in seconds.
const SKEW: i64 = 10;

/// Why a token does not identify anybody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// Its form or signature.
    #[error("the token is not good")]
    Token(#[from] TokenError),
    /// An identity provider's token.
    #[error("the identity provider's token is not good")]
    Person(#[from] berth_oidc::TokenError),
    /// What it says.
    #[error("the token says: {0}")]
    Claims(&'static str),
    /// What it is bound to.
    #[error("the token is bound to a {0} that is gone")]
    Gone(&'static str),
    /// The store.
    #[error("cannot look up what the token is bound to")]
    Store(#[source] Status),
}

/// The identity of a request's `Authorization: Bearer`; nothing where there is none.
pub(crate) async fn bearer(
    shared: &Shared,
    headers: &HeaderMap,
) -> Option<Result<Identity, AuthenticationError>> {
    let (scheme, token) = header(headers, "authorization").split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mine = [ISSUER.to_owned()];
    let found = self::token(shared, token.trim(), &mine).await;
    Some(found.map(|(mut identity, _)| {
        identity.groups.push(AUTHENTICATED.to_owned());
        identity
    }))
}

/// The identity a token stands for, and which of the wanted audiences it is for. No audiences mean the server's own.
pub(crate) async fn token(
    shared: &Shared,
    token: &str,
    audiences: &[String],
) -> Result<(Identity, Vec<String>), AuthenticationError> {
    let mine = [ISSUER.to_owned()];
    let audiences = if audiences.is_empty() { &mine[..] } else { audiences };
    if let Some((id, secret)) = crate::join::parse(token) {
        return match audiences.contains(&mine[0]) {
            true => Ok((crate::join::authenticate(shared, id, secret).await?, mine.to_vec())),
            false => Err(AuthenticationError::Claims("another audience")),
        };
    }
    let now = shared.now().as_second();
    if let Some(people) = &shared.options.people
        && let Some(found) = people.identify(token, now).await
    {
        // Such a token is for this server as a whole; what else it may be for is its provider's business.
        return match audiences.contains(&mine[0]) {
            true => Ok((found?, mine.to_vec())),
            false => Err(AuthenticationError::Claims("another audience")),
        };
    }
    let claims = shared.options.tokens.verify(token)?;
    let moment = |name: &str| claims.integer(&[name]);
    if claims.text(&["iss"]) != ISSUER {
        return Err(AuthenticationError::Claims("another issuer"));
    }
    if moment("exp").is_none_or(|end| end + SKEW < now) {
        return Err(AuthenticationError::Claims("it has expired"));
    }
    if moment("nbf").is_some_and(|begin| begin > now + SKEW) {
        return Err(AuthenticationError::Claims("it is not valid yet"));
    }
    let own: Vec<&str> = claims.list(&["aud"]).iter().filter_map(Value::as_str).collect();
    let fitting: Vec<String> =
        audiences.iter().filter(|wanted| own.contains(&wanted.as_str())).cloned().collect();
    if fitting.is_empty() {
        return Err(AuthenticationError::Claims("another audience"));
    }
    Ok((account(shared, &claims).await?, fitting))
}

async fn account(shared: &Shared, claims: &Value) -> Result<Identity, AuthenticationError> {
    let subject = claims.text(&["sub"]);
    let (namespace, name) =
        service_account_of(subject).ok_or(AuthenticationError::Claims("no service account"))?;
    let bound = claims.get("kubernetes.io").unwrap_or(&Value::Null);
    if bound.text(&["namespace"]) != namespace || bound.text(&["serviceaccount", "name"]) != name {
        return Err(AuthenticationError::Claims("two different service accounts"));
    }
    let uid = bound.text(&["serviceaccount", "uid"]);
    alive(shared, "serviceaccounts", "service account", namespace, name, uid).await?;
    let mut identity = Identity::new(
        service_account(namespace, name),
        &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
    );
    uid.clone_into(&mut identity.uid);
    let mut note = |key: &str, value: &str| {
        identity.extra.insert(format!("{EXTRA}/{key}"), vec![value.to_owned()]);
    };
    for (kind, plural, what) in
        [("pod", "pods", "pod"), ("secret", "secrets", "Secret"), ("node", "nodes", "node")]
    {
        let Some(object) = bound.get(kind) else { continue };
        let (name, uid) = (object.text(&["name"]), object.text(&["uid"]));
        // A pod's node is told for information; only a token bound to the node itself ends with it.
        if kind != "node" || bound.get("pod").is_none() {
            let space = if kind == "node" { "" } else { namespace };
            alive(shared, plural, what, space, name, uid).await?;
        }
        if kind != "secret" {
            note(&format!("{kind}-name"), name);
            note(&format!("{kind}-uid"), uid);
        }
    }
    if !claims.text(&["jti"]).is_empty() {
        note("credential-id", &format!("JTI={}", claims.text(&["jti"])));
    }
    Ok(identity)
}

/// Whether the object a token is bound to is still the same one, and there to stay.
async fn alive(
    shared: &Shared,
    plural: &str,
    what: &'static str,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), AuthenticationError> {
    let gone = || AuthenticationError::Gone(what);
    let resource = berth_rules::find("", "v1", plural).ok_or_else(gone)?;
    let found =
        shared.fetch(resource, namespace, name).await.map_err(AuthenticationError::Store)?;
    let (object, _) = found.ok_or_else(gone)?;
    // A pod that ends needs its rights until it is gone, and a little longer; upstream grants a minute.
    const GRACE: i64 = 60;
    let over = time::parse(object.text(&["metadata", "deletionTimestamp"]))
        .is_some_and(|end| end.as_second() + GRACE < shared.now().as_second());
    if object.uid() != uid || over { Err(gone()) } else { Ok(()) }
}
