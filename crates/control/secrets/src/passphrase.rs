//! A key file behind a passphrase, so that it may travel with a backup.
//!
//! Layout: `berthkw1`, a salt, a nonce, the file sealed with AES-256-GCM. The key comes from the passphrase by PBKDF2 with
//! HMAC-SHA-256, slow enough that guessing short passphrases is expensive; it is no reason to choose one.

use std::num::NonZeroU32;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;

const MAGIC: &[u8; 8] = b"berthkw1";
const SALT: usize = 16;
/// What OWASP recommends for this function.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).expect("it is not zero");

/// Why locked keys do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// They are not as this program writes them.
    #[error("the keys are not in a form this berth knows")]
    Foreign,
    /// The passphrase is another one, or the keys were changed.
    #[error("the passphrase is wrong")]
    Wrong,
}

fn key(passphrase: &str, salt: &[u8]) -> LessSafeKey {
    let mut bytes = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, passphrase.as_bytes(), &mut bytes);
    let key = UnboundKey::new(&AES_256_GCM, &bytes).expect("32 bytes are the cipher's length");
    LessSafeKey::new(key)
}

/// Locks the content of a key file.
#[must_use]
pub fn lock_keys(passphrase: &str, keys: &[u8]) -> Vec<u8> {
    let (salt, nonce): ([u8; SALT], [u8; NONCE_LEN]) = (rand::random(), rand::random());
    let mut sealed = keys.to_vec();
    key(passphrase, &salt)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(MAGIC),
            &mut sealed,
        )
        .expect("key files are far smaller than the cipher's limit");
    [&MAGIC[..], &salt, &nonce, &sealed].concat()
}

/// The content of a key file that was locked.
///
/// # Errors
/// When the passphrase is another one.
pub fn unlock_keys(passphrase: &str, locked: &[u8]) -> Result<Vec<u8>, PassphraseError> {
    let rest = locked.strip_prefix(MAGIC).ok_or(PassphraseError::Foreign)?;
    let (salt, rest) = rest.split_at_checked(SALT).ok_or(PassphraseError::Foreign)?;
    let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or(PassphraseError::Foreign)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| PassphraseError::Foreign)?;
    let mut bytes = sealed.to_vec();
    let opened = key(passphrase, salt).open_in_place(nonce, Aad::from(MAGIC), &mut bytes);
    let length = opened.map_err(|_| PassphraseError::Wrong)?.len();
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_with_their_passphrase_alone() {
        let locked = lock_keys("correct horse", b"id key");
        assert!(!locked.windows(6).any(|part| part == b"id key"));
        assert_eq!(unlock_keys("correct horse", &locked).unwrap(), b"id key");
        assert_eq!(unlock_keys("correct house", &locked), Err(PassphraseError::Wrong));
        assert_eq!(unlock_keys("x", b"something else"), Err(PassphraseError::Foreign));
        assert_eq!(unlock_keys("x", &locked[..20]), Err(PassphraseError::Foreign));
    }
}
