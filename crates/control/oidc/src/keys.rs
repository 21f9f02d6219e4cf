//! A provider's keys: found by discovery, kept, and looked for again when a token names one that is not known.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_objects::Object;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;
use tokio::time::Instant;

use crate::Parts;

/// How long the provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys are not asked for more often, whatever tokens come along.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys are asked for again after this, so that one that was withdrawn is not believed for ever.
const FRESH: Duration = Duration::from_secs(3600);
/// Documents of a provider are short.
const LARGEST: usize = 1 << 20;

/// Why a signature cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The provider does not answer, or with something else.
    #[error("cannot fetch the keys of `{issuer}`: {why}")]
    Provider {
        /// Whose keys.
        issuer: String,
        /// Why not.
        why: String,
    },
    /// None of its keys fits.
    #[error("the token was signed with an unknown key")]
    Unknown,
    /// No way of signing that is known.
    #[error("the token is signed with `{0}`, which is not accepted")]
    Algorithm(String),
    /// The signature does not fit.
    #[error("the token's signature is wrong")]
    Signature,
}

/// The keys of one provider.
pub(crate) struct Keys {
    issuer: String,
    discovery: String,
    client: reqwest::Client,
    known: Mutex<Known>,
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: Arc<Vec<Value>>,
    /// When they were asked for last, and whether that brought any.
    asked: Option<(Instant, bool)>,
}

impl Keys {
    pub fn new(
        issuer: &str,
        discovery: &str,
        roots: Option<&str>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let tls = match roots {
            Some(pem) => berth_tls::client(pem, None)?,
            None => berth_tls::public_client(None)?,
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()?;
        let (issuer, discovery) = (issuer.to_owned(), discovery.to_owned());
        Ok(Self {
            issuer,
            discovery,
            client,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// Checks a token's signature.
    pub async fn check(&self, parts: &Parts<'_>) -> Result<(), KeyError> {
        let id = parts.header.text(&["kid"]);
        let fits = |key: &&Value| id.is_empty() || key.text(&["kid"]) == id;
        let mut keys = self.keys(false).await?;
        if !keys.iter().any(|key| fits(&key)) {
            keys = self.keys(true).await?;
        }
        let mut outcome = Err(KeyError::Unknown);
        for key in keys.iter().filter(fits) {
            outcome = verify(key, parts);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// The keys. `anew` asks for what may have come since, unless that was done just now.
    async fn keys(&self, anew: bool) -> Result<Arc<Vec<Value>>, KeyError> {
        let recent = || {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let recent = known.asked.is_some_and(|(when, well)| {
                when.elapsed() < PAUSE || (well && !anew && when.elapsed() < FRESH)
            });
            (recent, Arc::clone(&known.keys))
        };
        let (fresh, old) = recent();
        if fresh {
            return Ok(old);
        }
        // One asks; who has a key at hand does not wait for the others'.
        let _turn = match self.asking.try_lock() {
            Ok(turn) => turn,
            Err(_) if !anew && !old.is_empty() => return Ok(old),
            Err(_) => self.asking.lock().await,
        };
        if let (true, keys) = recent() {
            return Ok(keys);
        }
        let fetched = self.fetch().await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.asked = Some((Instant::now(), fetched.is_ok()));
        match fetched {
            Ok(keys) => known.keys = Arc::new(keys),
            // What was good a while ago is good enough while the provider is away.
            Err(error) if !known.keys.is_empty() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "kept a provider's old keys"
                );
            }
            Err(error) => return Err(error),
        }
        Ok(Arc::clone(&known.keys))
    }

    async fn fetch(&self) -> Result<Vec<Value>, KeyError> {
        let failed = |why: String| KeyError::Provider { issuer: self.issuer.clone(), why };
        let document = self.get(&self.discovery).await.map_err(failed)?;
        if document.text(&["issuer"]) != self.issuer {
            let found = document.text(&["issuer"]);
            return Err(failed(format!("its discovery document is that of `{found}`")));
        }
        let place = document.text(&["jwks_uri"]);
        if !place.starts_with("https://") {
            return Err(failed(format!("its keys are at `{place}`, which is not https")));
        }
        let set = self.get(place).await.map_err(failed)?;
        Ok(set.list(&["keys"]).to_vec())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let failed = |error: reqwest::Error| berth_report::chain(&error);
        let mut answer = self.client.get(url).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("`{url}` answered {}", answer.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LARGEST {
                return Err(format!("`{url}` has more than {LARGEST} bytes"));
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("`{url}` is no JSON: {error}"))
    }
}

/// Checks a signature with one key (RFC 7517, 7518). The key says which family it is of; a token cannot choose another.
fn verify(key: &Value, parts: &Parts<'_>) -> Result<(), KeyError> {
    let algorithm = parts.header.text(&["alg"]);
    let unknown = || KeyError::Algorithm(algorithm.to_owned());
    let own = key.text(&["alg"]);
    if key.text(&["use"]) == "enc" {
        return Err(KeyError::Unknown);
    }
    if !own.is_empty() && own != algorithm {
        return Err(unknown());
    }
    let part =
        |name: &str| URL_SAFE_NO_PAD.decode(key.text(&[name])).map_err(|_| KeyError::Unknown);
    let message = parts.signed.as_bytes();
    let outcome = match key.text(&["kty"]) {
        "RSA" => {
            let parameters = match algorithm {
                "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return Err(unknown()),
            };
            let public = RsaPublicKeyComponents { n: part("n")?, e: part("e")? };
            public.verify(parameters, message, &parts.signature)
        }
        "EC" => {
            let curve = match (algorithm, key.text(&["crv"])) {
                ("ES256", "P-256") => &signature::ECDSA_P256_SHA256_FIXED,
                ("ES384", "P-384") => &signature::ECDSA_P384_SHA384_FIXED,
                _ => return Err(unknown()),
            };
            let point = [vec![4], part("x")?, part("y")?].concat();
            UnparsedPublicKey::new(curve, point).verify(message, &parts.signature)
        }
        "OKP" if (algorithm, key.text(&["crv"])) == ("EdDSA", "Ed25519") => {
            UnparsedPublicKey::new(&signature::ED25519, part("x")?)
                .verify(message, &parts.signature)
        }
        _ => return Err(unknown()),
    };
    outcome.map_err(|_| KeyError::Signature)
}
