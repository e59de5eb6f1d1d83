//! Cipher suites: one byte on disk chooses how chunks are named and how bytes are sealed.
//!
//! The AEADs are those of aws-lc: twice (ChaCha20-Poly1305) and six times (AES-256-GCM) as fast as the portable ones. The
//! portable ones stay in the tests, which have both agree.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use breakwater_core::ErrorClass;
use hmac::Mac;
use serde::{Deserialize, Serialize};

use crate::{Secret, derive};

/// Bytes of the tag that a seal appends.
pub const TAG_LENGTH: usize = 16;

/// How chunks are named and how bytes are sealed. Keys are derived in the same way in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// HMAC-SHA256 and ChaCha20-Poly1305: needs nothing of the processor.
    Standard,
    /// Keyed BLAKE3 and AES-256-GCM: the quickest where the processor has AES.
    Fast,
    /// HMAC-SHA256 and AES-256-GCM: nothing that NIST has not approved.
    Nist,
}

impl Suite {
    /// The suite of this byte.
    pub fn from_byte(byte: u8) -> Result<Suite, SuiteError> {
        match byte {
            1 => Ok(Suite::Standard),
            2 => Ok(Suite::Fast),
            3 => Ok(Suite::Nist),
            _ => Err(SuiteError::Unknown { byte }),
        }
    }

    /// The byte on disk.
    pub const fn byte(self) -> u8 {
        match self {
            Suite::Standard => 1,
            Suite::Fast => 2,
            Suite::Nist => 3,
        }
    }

    /// The word in JSON and YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Suite::Standard => "standard",
            Suite::Fast => "fast",
            Suite::Nist => "nist",
        }
    }

    /// The name of a chunk: it tells nothing about the content to anyone without the domain's id key.
    ///
    /// HMAC-SHA256 takes class and length before the content. BLAKE3 takes them behind it, which says the same, since nine
    /// bytes in front would shift its blocks and keep it from working on many of them at once.
    pub fn chunk_id(self, id_key: &Secret, class: u8, plain: &[u8]) -> ChunkId {
        let length = (plain.len() as u64).to_be_bytes();
        match self {
            Suite::Standard | Suite::Nist => {
                let mut mac = derive::mac(id_key);
                mac.update(&[class]);
                mac.update(&length);
                mac.update(plain);
                ChunkId(mac.finalize().into_bytes().into())
            }
            Suite::Fast => {
                let mut hasher = blake3::Hasher::new_keyed(id_key.expose());
                hasher.update(plain);
                hasher.update(&[class]);
                hasher.update(&length);
                ChunkId(hasher.finalize().into())
            }
        }
    }

    /// Encrypts `buffer` where it is and appends the tag to it.
    pub fn seal(self, key: &Secret, nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) {
        let tag = self.seal_detached(key, nonce, aad, buffer);
        buffer.extend_from_slice(&tag);
    }

    /// Encrypts `buffer` where it is and answers the tag.
    pub fn seal_detached(self, key: &Secret, nonce: [u8; 12], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_LENGTH] {
        let mut tag = [0; TAG_LENGTH];
        let sealed = self
            .cipher(key)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buffer)
            .expect("the AEADs take 64 GiB, and no chunk has more than 4 GiB");
        tag.copy_from_slice(sealed.as_ref());
        tag
    }

    /// Decrypts `buffer`, which ends with the tag, where it is, and takes the tag off. The content of `buffer` is
    /// undefined after an error.
    pub fn open(self, key: &Secret, nonce: [u8; 12], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), OpenError> {
        let length = buffer.len().checked_sub(TAG_LENGTH).ok_or(OpenError)?;
        let mut tag = [0; TAG_LENGTH];
        tag.copy_from_slice(buffer.get(length..).ok_or(OpenError)?);
        buffer.truncate(length);
        self.open_detached(key, nonce, aad, buffer, tag)
    }

    /// Decrypts `buffer` where it is if `tag` proves it and `aad` unchanged.
    pub fn open_detached(
        self,
        key: &Secret,
        nonce: [u8; 12],
        aad: &[u8],
        buffer: &mut [u8],
        tag: [u8; TAG_LENGTH],
    ) -> Result<(), OpenError> {
        self.cipher(key)
            .open_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &tag, buffer)
            .map(drop)
            .map_err(|_| OpenError)
    }

    fn cipher(self, key: &Secret) -> LessSafeKey {
        let key = UnboundKey::new(self.aead(), key.expose()).expect("both AEADs take keys of 32 bytes");
        LessSafeKey::new(key)
    }

    fn aead(self) -> &'static Algorithm {
        match self {
            Suite::Standard => &CHACHA20_POLY1305,
            Suite::Fast | Suite::Nist => &AES_256_GCM,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Suite {
    type Err = SuiteError;
    fn from_str(text: &str) -> Result<Self, SuiteError> {
        match text {
            "standard" => Ok(Suite::Standard),
            "fast" => Ok(Suite::Fast),
            "nist" => Ok(Suite::Nist),
            _ => Err(SuiteError::UnknownWord { word: text.to_owned() }),
        }
    }
}

impl Serialize for Suite {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Suite {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A suite that this program does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// Not a suite of this version.
    #[error("cipher suite {byte} is not known; hint: the object is damaged or was written by a newer breakwater")]
    Unknown {
        /// The byte found.
        byte: u8,
    },
    /// Not the word of a suite.
    #[error("cipher suite `{word}` is not known; hint: use `standard`, `fast` or `nist`")]
    UnknownWord {
        /// The word found.
        word: String,
    },
}

impl SuiteError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            SuiteError::UnknownWord { .. } => ErrorClass::Refused,
            SuiteError::Unknown { .. } => ErrorClass::Corrupt,
        }
    }
}

/// The seal does not fit: another key, or changed bytes. Which of the two cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not open: the bytes were changed or the key is another")]
pub struct OpenError;

impl OpenError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Corrupt
    }
}

/// The keyed name of a chunk's content. Shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ChunkId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChunkId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let text = Text::deserialize(deserializer)?.0;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.as_bytes(), &mut bytes)
            .map_err(|_| serde::de::Error::custom("a chunk id is 64 hexadecimal digits"))?;
        Ok(ChunkId(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const ALL: [Suite; 3] = [Suite::Standard, Suite::Fast, Suite::Nist];

    #[test]
    fn bytes_and_words_name_suites_and_nothing_else_does() {
        for byte in 0..=255 {
            match Suite::from_byte(byte) {
                Ok(suite) => assert_eq!((suite.byte(), suite.word().parse()), (byte, Ok(suite))),
                Err(error) => {
                    assert!(!(1..=3).contains(&byte));
                    assert!(error.to_string().contains(&byte.to_string()), "{error}");
                }
            }
        }
        let error = "xchacha".parse::<Suite>().unwrap_err();
        assert!(error.to_string().contains("`xchacha`") && error.to_string().contains("`nist`"), "{error}");
    }

    #[test]
    fn chunk_ids_are_keyed_and_bind_class_and_length() {
        for suite in ALL {
            let key = Secret::from_bytes([1; 32]);
            let id = suite.chunk_id(&key, 1, b"abc");
            assert_ne!(id, suite.chunk_id(&key, 2, b"abc"));
            assert_ne!(id, suite.chunk_id(&Secret::from_bytes([2; 32]), 1, b"abc"));
            assert_ne!(id, suite.chunk_id(&key, 1, b"abcd"));
            let text = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<ChunkId>(&text).unwrap(), id);
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_only_unchanged(
            plain in prop::collection::vec(any::<u8>(), 0..300),
            aad in prop::collection::vec(any::<u8>(), 1..40),
            flip in any::<prop::sample::Index>(),
            bit in 0..8u8,
            suite in prop::sample::select(ALL.to_vec()),
        ) {
            let (key, nonce) = (Secret::from_bytes([9; 32]), [3; 12]);
            let mut sealed = plain.clone();
            suite.seal(&key, nonce, &aad, &mut sealed);

            let mut good = sealed.clone();
            suite.open(&key, nonce, &aad, &mut good).unwrap();
            prop_assert_eq!(&good, &plain);

            let mut flipped = sealed.clone();
            let at = flip.index(flipped.len());
            flipped[at] ^= 1 << bit;
            prop_assert!(suite.open(&key, nonce, &aad, &mut flipped).is_err());

            let mut other_aad = aad.clone();
            let at = flip.index(other_aad.len());
            other_aad[at] ^= 1 << bit;
            prop_assert!(suite.open(&key, nonce, &other_aad, &mut sealed.clone()).is_err());
            prop_assert!(
                suite.open(&Secret::from_bytes([8; 32]), nonce, &aad, &mut sealed.clone()).is_err()
            );
            sealed.truncate(flip.index(sealed.len()));
            prop_assert!(suite.open(&key, nonce, &aad, &mut sealed).is_err());
        }
    }
}
