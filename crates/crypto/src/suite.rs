//! Cipher suites: one byte on disk chooses how chunks are named and how bytes are sealed.

use std::fmt;
use std::str::FromStr;

use breakwater_core::ErrorClass;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, Key, KeyInit, Nonce, Tag};
use hmac::Mac;
use serde::{Deserialize, Serialize};

use crate::{Secret, derive};

/// Bytes of the tag that a seal appends.
pub const TAG_LENGTH: usize = 16;

/// How chunks are named and how bytes are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// HMAC-SHA256 and ChaCha20-Poly1305.
    Standard,
}

impl Suite {
    /// The suite of this byte.
    pub fn from_byte(byte: u8) -> Result<Suite, SuiteError> {
        match byte {
            1 => Ok(Suite::Standard),
            2 | 3 => Err(SuiteError::Reserved { byte }),
            _ => Err(SuiteError::Unknown { byte }),
        }
    }

    /// The byte on disk.
    pub const fn byte(self) -> u8 {
        match self {
            Suite::Standard => 1,
        }
    }

    /// The word in JSON and YAML.
    pub const fn word(self) -> &'static str {
        match self {
            Suite::Standard => "standard",
        }
    }

    /// The name of a chunk: it tells nothing about the content to anyone without the domain's id key.
    pub fn chunk_id(self, id_key: &Secret, class: u8, plain: &[u8]) -> ChunkId {
        match self {
            Suite::Standard => {
                let mut mac = derive::mac(id_key);
                mac.update(&[class]);
                mac.update(&(plain.len() as u64).to_be_bytes());
                mac.update(plain);
                ChunkId(mac.finalize().into_bytes().into())
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
        match self {
            Suite::Standard => cipher(key)
                .encrypt_inout_detached(&Nonce::from(nonce), aad, buffer.into())
                .expect("ChaCha20-Poly1305 takes 256 GiB, and no chunk has more than 4 GiB")
                .into(),
        }
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
        match self {
            Suite::Standard => cipher(key)
                .decrypt_inout_detached(&Nonce::from(nonce), aad, buffer.into(), &Tag::from(tag))
                .map_err(|_| OpenError),
        }
    }
}

fn cipher(key: &Secret) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&Key::from(*key.expose()))
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
            "fast" => Err(SuiteError::Reserved { byte: 2 }),
            "nist" => Err(SuiteError::Reserved { byte: 3 }),
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
    /// Set aside for a later version.
    #[error("cipher suite {byte} belongs to a newer format than this program reads; hint: use a newer breakwater")]
    Reserved {
        /// The byte found.
        byte: u8,
    },
    /// Not a suite of this version.
    #[error("cipher suite {byte} is not known; hint: the object is damaged or was written by a newer breakwater")]
    Unknown {
        /// The byte found.
        byte: u8,
    },
    /// Not the word of a suite.
    #[error("cipher suite `{word}` is not known; hint: use `standard`, or a newer breakwater")]
    UnknownWord {
        /// The word found.
        word: String,
    },
}

impl SuiteError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            SuiteError::Reserved { .. } | SuiteError::UnknownWord { .. } => ErrorClass::Refused,
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
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
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
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| serde::de::Error::custom("a chunk id is 64 hexadecimal digits"))?;
        Ok(ChunkId(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn chacha20_poly1305_of_rfc_8439() {
        // RFC 8439, section 2.8.2.
        let key = Secret::from_hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f").unwrap();
        let nonce = [0x07, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
        let aad = hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                      sunscreen would be it.";
        let mut buffer = plain.to_vec();
        Suite::Standard.seal(&key, nonce, &aad, &mut buffer);
        assert_eq!(
            hex::encode(&buffer),
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
             1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
             3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
        );
        Suite::Standard.open(&key, nonce, &aad, &mut buffer).unwrap();
        assert_eq!(buffer, plain);
    }

    #[test]
    fn reserved_bytes_are_refused_by_name() {
        for byte in 0..=255 {
            match Suite::from_byte(byte) {
                Ok(suite) => assert_eq!((suite.byte(), byte), (1, 1)),
                Err(error) => assert!(error.to_string().contains(&byte.to_string()), "{error}"),
            }
        }
        assert!(Suite::from_byte(2).unwrap_err().to_string().contains("newer format"));
        assert!("fast".parse::<Suite>().unwrap_err().to_string().contains("newer format"));
        assert_eq!("standard".parse(), Ok(Suite::Standard));
    }

    #[test]
    fn chunk_ids_are_keyed_and_bind_class_and_length() {
        let key = Secret::from_bytes([1; 32]);
        let id = Suite::Standard.chunk_id(&key, 1, b"abc");
        assert_ne!(id, Suite::Standard.chunk_id(&key, 2, b"abc"));
        assert_ne!(id, Suite::Standard.chunk_id(&Secret::from_bytes([2; 32]), 1, b"abc"));
        assert_ne!(id, Suite::Standard.chunk_id(&key, 1, b"abcd"));
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<ChunkId>(&text).unwrap(), id);
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_only_unchanged(
            plain in prop::collection::vec(any::<u8>(), 0..300),
            aad in prop::collection::vec(any::<u8>(), 1..40),
            flip in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let (key, nonce) = (Secret::from_bytes([9; 32]), [3; 12]);
            let mut sealed = plain.clone();
            Suite::Standard.seal(&key, nonce, &aad, &mut sealed);

            let mut good = sealed.clone();
            Suite::Standard.open(&key, nonce, &aad, &mut good).unwrap();
            prop_assert_eq!(&good, &plain);

            let mut flipped = sealed.clone();
            let at = flip.index(flipped.len());
            flipped[at] ^= 1 << bit;
            prop_assert!(Suite::Standard.open(&key, nonce, &aad, &mut flipped).is_err());

            let mut other_aad = aad.clone();
            let at = flip.index(other_aad.len());
            other_aad[at] ^= 1 << bit;
            prop_assert!(Suite::Standard.open(&key, nonce, &other_aad, &mut sealed.clone()).is_err());
            prop_assert!(
                Suite::Standard.open(&Secret::from_bytes([8; 32]), nonce, &aad, &mut sealed.clone()).is_err()
            );
            sealed.truncate(flip.index(sealed.len()));
            prop_assert!(Suite::Standard.open(&key, nonce, &aad, &mut sealed).is_err());
        }
    }
}
