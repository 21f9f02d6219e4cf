//! Signed tokens of service accounts: JSON Web Tokens with ES256 (RFC 7515, 7518, 7519), and the keys they are checked with.
//!
//! Several keys may be valid at once: the newest signs, the older ones go on being accepted until no token of theirs can be
//! left. Keys are files, so that a copied data directory is a whole cluster. The few lines of JOSE are our own since the
//! common library dropped the cryptography we use; nothing but ES256 is accepted, so there is no algorithm to confuse.

use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{AuthorityError, file};

/// The longest a token may live.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long one key signs.
const TERM: Duration = Duration::from_secs(90 * 24 * 3600);

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token of ours at all.
    #[error("the token is malformed")]
    Malformed,
    /// Its key is not known, or no longer.
    #[error("the token was signed with an unknown key")]
    UnknownKey,
    /// Its signature does not fit.
    #[error("the token's signature is wrong")]
    Signature,
}

struct Key {
    id: String,
    pair: EcdsaKeyPair,
    since: SystemTime,
}

/// The keys. The first signs.
pub struct TokenKeys {
    keys: RwLock<Vec<Key>>,
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("TokenKeys").field("ids", &self.ids()).finish_non_exhaustive()
    }
}

fn refused<E>(_cause: E) -> AuthorityError {
    AuthorityError::TokenKey
}

impl Key {
    fn from_pair(pair: &KeyPair, since: SystemTime) -> Result<Self, AuthorityError> {
        let random = SystemRandom::new();
        let der = pair.serialize_der();
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(refused)?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info()));
        Ok(Self { id, pair: signing, since })
    }

    fn generate(since: SystemTime) -> Result<(Self, String), AuthorityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((Self::from_pair(&pair, since)?, pair.serialize_pem()))
    }
}

/// Since when the key in a file signs, which its name says.
fn since(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".key")?.parse().ok()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl TokenKeys {
    /// Keys that are nowhere but in memory; tokens end with the process.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn ephemeral() -> Result<Self, AuthorityError> {
        let (key, _) = Key::generate(SystemTime::now())?;
        Ok(Self { keys: RwLock::new(vec![key]) })
    }

    /// Opens the keys of a folder. A new one is made when there is none or the newest has signed for its term; one that
    /// cannot have a valid token left is removed.
    ///
    /// # Errors
    /// When files cannot be read or written, or hold no key.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        file::folder(folder)?;
        let failed = |source| AuthorityError::File { path: folder.into(), source };
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(since) = since(&path) else { continue };
            let since = UNIX_EPOCH + Duration::from_secs(since);
            let text = std::fs::read_to_string(&path)
                .map_err(|source| AuthorityError::File { path: path.clone(), source })?;
            keys.push((Key::from_pair(&KeyPair::from_pem(&text)?, since)?, path));
        }
        keys.sort_by_key(|(key, _)| std::cmp::Reverse(key.since));
        let now = SystemTime::now();
        // A key stopped signing when the next one began.
        let mut superseded = None;
        let mut kept = Vec::new();
        for (key, path) in keys {
            let since = key.since;
            if superseded.is_some_and(|at| now > at + LONGEST) {
                std::fs::remove_file(&path)
                    .map_err(|source| AuthorityError::File { path, source })?;
                continue;
            }
            superseded = Some(since);
            kept.push(key);
        }
        let opened = Self { keys: RwLock::new(kept) };
        let newest = opened.lock_read().first().map(|key| key.since);
        if newest.is_none_or(|since| now > since + TERM) {
            opened.rotate(folder)?;
        }
        Ok(opened)
    }

    /// Makes a new key that signs from now on. Tokens of the older keys stay good.
    ///
    /// # Errors
    /// When the key cannot be made or kept.
    pub fn rotate(&self, folder: &Path) -> Result<(), AuthorityError> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let newest = keys.first().map_or(UNIX_EPOCH, |key| key.since);
        // The name of the file is the time; two keys of one second would be one file.
        let since = SystemTime::now().max(newest + Duration::from_secs(1));
        let since = UNIX_EPOCH + Duration::from_secs(seconds(since));
        let (key, pem) = Key::generate(since)?;
        file::write(&folder.join(format!("{}.key", seconds(since))), pem.as_bytes())?;
        keys.insert(0, key);
        Ok(())
    }

    /// What another server of the same cluster needs to sign and check the same tokens: since when each key signs, and the
    /// key, PEM; those of the folder, in no order.
    ///
    /// # Errors
    /// When files cannot be read.
    pub fn export(folder: &Path) -> Result<Vec<(u64, String)>, AuthorityError> {
        let failed = |source| AuthorityError::File { path: folder.into(), source };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(since) = since(&path) else { continue };
            let text = std::fs::read_to_string(&path)
                .map_err(|source| AuthorityError::File { path: path.clone(), source })?;
            all.push((since, text));
        }
        Ok(all)
    }

    /// Keeps a key that another server has made in a folder, where [`TokenKeys::open`] finds it; in place of one of the same
    /// second.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn install(folder: &Path, since: u64, pem: &str) -> Result<(), AuthorityError> {
        file::folder(folder)?;
        file::write(&folder.join(format!("{since}.key")), pem.as_bytes())
    }

    /// Believes, and if it is the newest signs with, a key that another server has made.
    ///
    /// # Errors
    /// When it is no key.
    pub fn learn(&self, since: u64, pem: &str) -> Result<(), AuthorityError> {
        let since = UNIX_EPOCH + Duration::from_secs(since);
        let key = Key::from_pair(&KeyPair::from_pem(pem)?, since)?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.iter().all(|known| known.id != key.id) {
            keys.push(key);
            keys.sort_by_key(|key| std::cmp::Reverse(key.since));
        }
        Ok(())
    }

    fn lock_read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the keys, that which signs first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.lock_read().iter().map(|key| key.id.clone()).collect()
    }

    /// A signed token with these claims.
    ///
    /// # Errors
    /// When there is no randomness or no key.
    pub fn sign(&self, claims: &Value) -> Result<String, AuthorityError> {
        let keys = self.lock_read();
        let key = keys.first().ok_or(AuthorityError::TokenKey)?;
        let header = json!({"alg": "ES256", "kid": key.id, "typ": "JWT"});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(claims));
        let signature = key.pair.sign(&SystemRandom::new(), text.as_bytes()).map_err(refused)?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The claims of a token whose signature is ours. Whom it is for and until when is the caller's to judge.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify(&self, token: &str) -> Result<Value, TokenError> {
        /// Far more than any token of ours has.
        const LARGEST: usize = 16 << 10;
        if token.len() > LARGEST {
            return Err(TokenError::Malformed);
        }
        let (text, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = text.split_once('.').ok_or(TokenError::Malformed)?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let parse = |part: &str| -> Result<Value, TokenError> {
            serde_json::from_slice(&bytes(part)?).map_err(|_| TokenError::Malformed)
        };
        let header = parse(header)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Malformed);
        }
        let keys = self.lock_read();
        let key = keys.iter().find(|key| header["kid"] == key.id.as_str());
        let key = key.ok_or(TokenError::UnknownKey)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key().as_ref())
            .verify(text.as_bytes(), &bytes(signature)?)
            .map_err(|_| TokenError::Signature)?;
        parse(claims)
    }

    /// The public halves as a JSON Web Key Set.
    #[must_use]
    pub fn key_set(&self) -> Value {
        let keys = self.lock_read();
        let keys = keys.iter().map(|key| {
            // An uncompressed point: 4, x, y.
            let (x, y) = key.pair.public_key().as_ref()[1..].split_at(32);
            json!({
                "use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
                "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
            })
        });
        json!({"keys": keys.collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_was_signed_and_nothing_else() {
        let keys = TokenKeys::ephemeral().unwrap();
        let token = keys.sign(&json!({"sub": "a"})).unwrap();
        assert_eq!(keys.verify(&token), Ok(json!({"sub": "a"})));
        let parts: Vec<_> = token.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"b"}"#);
        let forged = format!("{}.{other}.{}", parts[0], parts[2]);
        assert_eq!(keys.verify(&forged), Err(TokenError::Signature));
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(keys.verify(&format!("{none}.{other}.")), Err(TokenError::Malformed));
        for bad in ["", ".", "..", "a.b.c", &token[1..]] {
            assert!(keys.verify(bad).is_err(), "{bad}");
        }
        let stranger = TokenKeys::ephemeral().unwrap();
        assert_eq!(stranger.verify(&token), Err(TokenError::UnknownKey));
    }

    #[test]
    fn a_new_key_signs_and_the_old_one_is_still_believed() {
        let folder = tempfile::tempdir().unwrap();
        let keys = TokenKeys::open(folder.path()).unwrap();
        let old = keys.sign(&json!({"n": 1})).unwrap();
        keys.rotate(folder.path()).unwrap();
        let new = keys.sign(&json!({"n": 2})).unwrap();
        for keys in [&keys, &TokenKeys::open(folder.path()).unwrap()] {
            assert!(keys.verify(&old).is_ok() && keys.verify(&new).is_ok());
            assert_eq!(keys.ids().len(), 2);
            assert_eq!(keys.key_set()["keys"].as_array().unwrap().len(), 2);
        }
        let header = URL_SAFE_NO_PAD.decode(new.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header["kid"], keys.ids()[0].as_str());
    }

    #[test]
    fn another_server_of_the_cluster_believes_the_same_tokens() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = TokenKeys::open(one.path()).unwrap();
        for (since, pem) in TokenKeys::export(one.path()).unwrap() {
            TokenKeys::install(two.path(), since, &pem).unwrap();
        }
        let second = TokenKeys::open(two.path()).unwrap();
        assert_eq!(second.ids(), first.ids());
        first.rotate(one.path()).unwrap();
        let token = first.sign(&json!({"n": 1})).unwrap();
        assert_eq!(second.verify(&token), Err(TokenError::UnknownKey));
        for (since, pem) in TokenKeys::export(one.path()).unwrap() {
            second.learn(since, &pem).unwrap();
        }
        assert!(second.verify(&token).is_ok());
        assert_eq!(second.ids(), first.ids());
    }

    #[test]
    fn an_old_key_makes_room_and_is_dropped_when_no_token_can_be_left() {
        let folder = tempfile::tempdir().unwrap();
        let years = |count: u64| seconds(SystemTime::now()) - count * LONGEST.as_secs() - 60;
        for count in [1, 3, 4] {
            let (_, pem) = Key::generate(UNIX_EPOCH).unwrap();
            let path = folder.path().join(format!("{}.key", years(count)));
            file::write(&path, pem.as_bytes()).unwrap();
        }
        // That of four years ago stopped signing three years ago; that of three years ago, one year ago.
        let keys = TokenKeys::open(folder.path()).unwrap();
        assert_eq!(keys.ids().len(), 2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
