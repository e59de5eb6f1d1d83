//! A private key locked with a passphrase: Argon2id makes the key, ChaCha20-Poly1305 the seal.
//!
//! Invariant: the cost that a stored lock asks for is bounded before it is paid, because whoever can write to a bucket can
//! write a lock.

use argon2::{Algorithm, Argon2, Params, Version};
use breakwater_core::{Entropy, ErrorClass};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::{Secret, Suite};

/// Memory that a new lock costs, in KiB.
const MEMORY: u32 = 256 << 10;
/// Passes of a new lock.
const PASSES: u32 = 4;
/// The most that a stored lock may ask for.
const MEMORY_MAX: u32 = 2 << 20;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
/// Shorter passphrases are refused for new locks.
pub const SHORTEST: usize = 12;

/// What locking costs. Stored with each lock, so that later versions can ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// KiB of memory.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Cost {
    fn default() -> Self {
        Cost { memory: MEMORY, passes: PASSES, lanes: 1 }
    }
}

/// A secret that a passphrase opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseLock {
    /// The salt of Argon2id.
    #[serde(with = "hex::serde")]
    pub salt: [u8; 16],
    /// What it costs.
    pub cost: Cost,
    /// Ciphertext and tag.
    #[serde(with = "hex::serde")]
    pub sealed: Vec<u8>,
}

impl PassphraseLock {
    /// Locks `plain` with a passphrase. `context` must be given again to open it. Takes about a second and, by default,
    /// 256 MiB of memory.
    pub fn new(
        passphrase: &str,
        cost: Cost,
        context: &[u8],
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<PassphraseLock, PassphraseError> {
        if passphrase.chars().count() < SHORTEST {
            return Err(PassphraseError::Short);
        }
        let mut salt = [0; 16];
        entropy.fill(&mut salt);
        let mut buffer = Zeroizing::new(plain.to_vec());
        let key = key(passphrase, &salt, cost)?;
        // The key is used once: its salt is new.
        Suite::Standard.seal(&key, [0; 12], context, &mut buffer);
        Ok(PassphraseLock { salt, cost, sealed: std::mem::take(&mut *buffer) })
    }

    /// Opens the lock.
    pub fn open(&self, passphrase: &str, context: &[u8]) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
        let key = key(passphrase, &self.salt, self.cost)?;
        let mut buffer = Zeroizing::new(self.sealed.clone());
        Suite::Standard.open(&key, [0; 12], context, &mut buffer).map_err(|_| PassphraseError::Wrong)?;
        Ok(buffer)
    }
}

fn key(passphrase: &str, salt: &[u8], cost: Cost) -> Result<Secret, PassphraseError> {
    if cost.memory > MEMORY_MAX || cost.passes > PASSES_MAX || cost.lanes > LANES_MAX {
        return Err(PassphraseError::TooCostly { cost });
    }
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32));
    let params = params.map_err(|_| PassphraseError::Senseless { cost })?;
    let mut key = [0; 32];
    let made = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
        passphrase.as_bytes(),
        salt,
        &mut key,
    );
    let secret = Secret::from_bytes(key);
    key.zeroize();
    made.map_err(|_| PassphraseError::Senseless { cost })?;
    Ok(secret)
}

/// A passphrase does not open a lock, or cannot make one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// Too easily guessed.
    #[error("the passphrase is shorter than {SHORTEST} characters; hint: take several random words")]
    Short,
    /// Not the passphrase, or the lock was changed.
    #[error("the passphrase does not open the key")]
    Wrong,
    /// More than this program pays.
    #[error("the lock asks for more than this program pays: {} KiB of memory, {} passes, {} lanes", cost.memory, cost.passes, cost.lanes)]
    TooCostly {
        /// What it asks for.
        cost: Cost,
    },
    /// Parameters that Argon2id does not take.
    #[error("the lock's cost makes no sense: {} KiB of memory, {} passes, {} lanes", cost.memory, cost.passes, cost.lanes)]
    Senseless {
        /// What it asks for.
        cost: Cost,
    },
}

impl PassphraseError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            PassphraseError::Short => ErrorClass::Invalid,
            PassphraseError::Wrong => ErrorClass::Denied,
            PassphraseError::TooCostly { .. } | PassphraseError::Senseless { .. } => ErrorClass::Corrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Ones;
    impl Entropy for Ones {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(1);
        }
    }

    const CHEAP: Cost = Cost { memory: 64, passes: 1, lanes: 1 };

    #[test]
    fn argon2id_of_the_reference() {
        // test.c of the reference implementation (P-H-C/phc-winner-argon2): Argon2id, version 0x13, t=2, m=64 MiB, p=1.
        let key = key("password", b"somesalt", Cost { memory: 64 << 10, passes: 2, lanes: 1 }).unwrap();
        assert_eq!(hex::encode(key.expose()), "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7");
    }

    #[test]
    fn it_opens_with_the_same_words_and_context_only() {
        let words = "correct horse battery staple";
        let lock = PassphraseLock::new(words, CHEAP, b"here", &[7; 64], &Ones).unwrap();
        assert_eq!(*lock.open(words, b"here").unwrap(), [7; 64]);
        assert_eq!(lock.open("correct horse battery stable", b"here"), Err(PassphraseError::Wrong));
        assert_eq!(lock.open(words, b"there"), Err(PassphraseError::Wrong));
        let mut dearer = lock.clone();
        dearer.cost.passes = 2;
        assert_eq!(dearer.open(words, b"here"), Err(PassphraseError::Wrong));
        dearer.cost.memory = u32::MAX;
        assert!(matches!(dearer.open(words, b"here"), Err(PassphraseError::TooCostly { .. })));
        assert_eq!(PassphraseLock::new("short", CHEAP, b"", &[7; 32], &Ones), Err(PassphraseError::Short));
        assert!(!format!("{lock:?}").contains("7, 7"), "{lock:?}");
    }
}
