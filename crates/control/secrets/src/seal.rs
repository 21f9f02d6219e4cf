//! One sealed value: `k8s:enc:berth:v1:<key id>:`, then the value's own key, sealed, then the value, sealed with that.
//!
//! Both are AES-256-GCM with random nonces. A value's own key is used once, so its nonce can never repeat; what the ring's
//! key seals is random, and would take four thousand million writes before a repeated nonce becomes thinkable.

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::Keyring;
use crate::keyring::Key;

const PREFIX: &[u8] = b"k8s:enc:berth:v1:";
const KEY: usize = 32;
const TAG: usize = 16;
/// A nonce, a sealed key.
const WRAPPED: usize = NONCE_LEN + KEY + TAG;

/// Why a sealed value does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The ring has no such key.
    #[error("`{place}` is sealed with key `{id}`, which the key file does not have")]
    UnknownKey {
        /// The value's key in the store.
        place: String,
        /// The missing key.
        id: String,
    },
    /// The key is another one of that name, or the value was changed or moved.
    #[error(
        "`{place}` does not open with key `{id}`: the key is wrong, or the value was tampered with"
    )]
    Wrong {
        /// The value's key in the store.
        place: String,
        /// The key.
        id: String,
    },
}

/// Whether a value is sealed.
pub(crate) fn is_sealed(value: &[u8]) -> bool {
    value.starts_with(PREFIX)
}

/// The id of the key that sealed a value, and the rest.
fn split(value: &[u8]) -> Option<(&str, &[u8])> {
    let rest = value.strip_prefix(PREFIX)?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
}

/// Whether a value was sealed with the key that seals now.
pub(crate) fn is_current(keyring: &Keyring, value: &[u8]) -> bool {
    split(value).is_some_and(|(id, _)| id == keyring.newest().id)
}

fn context<'a>(key: &'a Key, place: &'a [u8]) -> Aad<Vec<u8>> {
    // The id cannot hold a colon, so the two parts cannot be mistaken for others.
    Aad::from([key.id.as_bytes(), b":", place].concat())
}

fn single(bytes: &[u8]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, bytes).expect("a value's key has the cipher's length");
    LessSafeKey::new(key)
}

/// Appends a nonce and the sealed bytes.
fn lock(key: &LessSafeKey, aad: Aad<Vec<u8>>, clear: &[u8], out: &mut Vec<u8>) {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut bytes = clear.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes)
        .expect("objects are far smaller than the cipher's limit of 64 GiB");
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&bytes);
}

fn unlock(key: &LessSafeKey, aad: Aad<Vec<u8>>, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = rest.to_vec();
    let length = key.open_in_place(nonce, aad, &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

/// Seals a value for its place.
pub(crate) fn seal(keyring: &Keyring, place: &[u8], clear: &[u8]) -> Bytes {
    let key = keyring.newest();
    let own: [u8; KEY] = rand::random();
    let mut out = [PREFIX, key.id.as_bytes(), b":"].concat();
    lock(&key.aead, context(&key, place), &own, &mut out);
    lock(&single(&own), context(&key, place), clear, &mut out);
    out.into()
}

/// Opens a value of a place. One that is not sealed is returned as it is: it was written before sealing began.
pub(crate) fn open(keyring: &Keyring, place: &[u8], value: &Bytes) -> Result<Bytes, OpenError> {
    if !is_sealed(value) {
        return Ok(value.clone());
    }
    let named = || String::from_utf8_lossy(place).into_owned();
    let (id, rest) = split(value).unwrap_or_default();
    let key = keyring
        .find(id)
        .ok_or_else(|| OpenError::UnknownKey { place: named(), id: id.to_owned() })?;
    let opened = rest.split_at_checked(WRAPPED).and_then(|(wrapped, sealed)| {
        let own = unlock(&key.aead, context(&key, place), wrapped)?;
        unlock(&single(&own), context(&key, place), sealed)
    });
    let wrong = || OpenError::Wrong { place: named(), id: key.id.clone() };
    opened.map(Bytes::from).ok_or_else(wrong)
}

/// Whether these keys open every sealed value among the records; returns how many there are.
///
/// # Errors
/// With the first that does not open.
pub fn check(keyring: &Keyring, records: &[berth_store::Record]) -> Result<usize, OpenError> {
    let mut count = 0;
    for record in records.iter().filter(|record| is_sealed(&record.value)) {
        open(keyring, &record.key, &record.value)?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring() -> (tempfile::TempDir, Keyring) {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::create(&folder.path().join("keys")).unwrap();
        (folder, keyring)
    }

    #[test]
    fn a_value_opens_where_it_was_sealed_and_nowhere_else() {
        let (_folder, keyring) = keyring();
        let sealed = seal(&keyring, b"/a", b"hidden");
        assert!(is_sealed(&sealed) && !sealed.windows(6).any(|part| part == b"hidden"));
        assert_eq!(open(&keyring, b"/a", &sealed).unwrap(), "hidden");
        assert!(matches!(open(&keyring, b"/b", &sealed), Err(OpenError::Wrong { .. })));
        assert_ne!(seal(&keyring, b"/a", b"hidden"), sealed);
        assert_eq!(open(&keyring, b"/a", &Bytes::from("clear")).unwrap(), "clear");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (_folder, keyring) = keyring();
        let sealed = seal(&keyring, b"/a", b"hidden");
        for index in PREFIX.len()..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[index] ^= 1;
            assert!(open(&keyring, b"/a", &changed.into()).is_err(), "byte {index}");
        }
        for length in PREFIX.len()..sealed.len() {
            assert!(open(&keyring, b"/a", &sealed.slice(..length)).is_err(), "length {length}");
        }
    }

    #[test]
    fn older_keys_open_and_the_newest_seals() {
        let (_folder, keyring) = keyring();
        let old = seal(&keyring, b"/a", b"hidden");
        keyring.rotate().unwrap();
        assert!(!is_current(&keyring, &old));
        assert_eq!(open(&keyring, b"/a", &old).unwrap(), "hidden");
        assert!(is_current(&keyring, &seal(&keyring, b"/a", b"x")));
        let (_other, stranger) = self::keyring();
        assert!(matches!(open(&stranger, b"/a", &old), Err(OpenError::UnknownKey { .. })));
    }
}
