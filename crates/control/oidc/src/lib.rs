//! People from an identity provider: tokens of OpenID Connect become users and groups.
//!
//! The configuration is upstream's `AuthenticationConfiguration` (`apiserver.config.k8s.io/v1`), so a file written for
//! Kubernetes works here. Beyond upstream, no provider can name a user or group `system:…`: those are the cluster's own.

mod config;
mod keys;
mod mapping;

use std::sync::Arc;

use berth_access::Identity;
use berth_objects::Object;
use serde_json::Value;

pub use config::ConfigError;
use config::Issuer;
pub use keys::KeyError;

/// Clocks may differ by this much, in seconds.
const SKEW: i64 = 10;
/// Tokens of people carry their groups; more than this is no token.
const LARGEST: usize = 64 << 10;

/// Why a token does not identify anybody.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its form.
    #[error("the token is malformed")]
    Malformed,
    /// The provider's keys, or the signature.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What it says.
    #[error("{0}")]
    Claims(String),
}

/// The identity providers of a cluster.
pub struct Providers {
    issuers: Vec<Arc<Issuer>>,
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls = self.issuers.iter().map(|issuer| &issuer.url);
        out.debug_list().entries(urls).finish()
    }
}

/// The parts of a token, decoded but not believed.
pub(crate) struct Parts<'token> {
    pub header: Value,
    pub claims: Value,
    /// What was signed.
    pub signed: &'token str,
    pub signature: Vec<u8>,
}

fn parts(token: &str) -> Option<Parts<'_>> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    if token.len() > LARGEST {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let parse = |text: &str| serde_json::from_slice(&decode(text)?).ok();
    Some(Parts {
        header: parse(header)?,
        claims: parse(claims)?,
        signed,
        signature: decode(signature)?,
    })
}

impl Providers {
    /// Reads the configuration: an `AuthenticationConfiguration` in YAML or JSON.
    ///
    /// # Errors
    /// When it is none, with the place of what is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(Self { issuers: config::parse(text)?.into_iter().map(Arc::new).collect() })
    }

    /// Whom a token stands for at `now` (seconds since 1970); nothing if it is of none of these providers.
    pub async fn identify(&self, token: &str, now: i64) -> Option<Result<Identity, TokenError>> {
        let parts = parts(token)?;
        let claimed = parts.claims.text(&["iss"]);
        let issuer = self.issuers.iter().find(|issuer| issuer.url == claimed)?;
        Some(verify(issuer, &parts, now).await)
    }
}

async fn verify(issuer: &Issuer, parts: &Parts<'_>, now: i64) -> Result<Identity, TokenError> {
    let claims = &parts.claims;
    let says = |text: &str| Err(TokenError::Claims(text.to_owned()));
    // What costs nothing to look at is looked at before the provider is asked for keys.
    if claims.integer(&["exp"]).is_none_or(|end| end + SKEW < now) {
        return says("the token has expired");
    }
    if claims.integer(&["nbf"]).is_some_and(|begin| begin > now + SKEW) {
        return says("the token is not valid yet");
    }
    let audiences = match &claims["aud"] {
        Value::String(one) => vec![one.as_str()],
        other => other.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    };
    if !audiences.iter().any(|audience| issuer.audiences.iter().any(|own| own == audience)) {
        return says("the token is for another audience");
    }
    issuer.keys.check(parts).await?;
    issuer.mapping.identity(claims).map_err(TokenError::Claims)
}
