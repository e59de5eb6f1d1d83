//! Thirty-two secret bytes. Never shown by `Debug`, wiped when dropped, compared in constant time.

use std::fmt;

use breakwater_core::Entropy;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A key, or what keys are derived from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Secret(bytes)
    }

    /// A new secret that nobody can guess.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut secret = Secret([0; 32]);
        entropy.fill(&mut secret.0);
        secret
    }

    /// The secret of the 64 hex digits in `text`; `None` when it is anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut secret = Secret([0; 32]);
        hex::decode_to_slice(text, &mut secret.0).ok()?;
        Some(secret)
    }

    /// The bytes, for the one who must use or store them.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::from_bytes([0xab; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(!format!("{:?}", Some(&secret)).contains("ab"));
    }

    #[test]
    fn hex_is_exact() {
        let text = hex::encode([7; 32]);
        assert_eq!(Secret::from_hex(&text), Some(Secret::from_bytes([7; 32])));
        assert_eq!(Secret::from_hex(&text[2..]), None);
        assert_eq!(Secret::from_hex(&format!("{text}00")), None);
        assert_ne!(Secret::from_bytes([7; 32]), Secret::from_bytes([8; 32]));
    }
}
