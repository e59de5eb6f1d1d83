//! Signatures by which a restorer vouches for what it has read: Ed25519 (RFC 8032).
//!
//! Invariant: the secret half follows from the repository's root, which only recipients open; the public half is in the
//! descriptor, which every key file pins. So writers can check what they cannot make, and nobody has to keep another key.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::Secret;
use crate::derive::{PREFIX, derive};

/// What a restorer signs with.
#[derive(Debug)]
pub struct Voucher(Ed25519KeyPair);

impl Voucher {
    /// The one of the repository with this root.
    pub fn of_root(root: &Secret) -> Self {
        let seed = derive(root, "vouch", &[]);
        Voucher(Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("any 32 bytes are a seed"))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("public keys have 32 bytes")
    }

    /// The signature of `text` for the use that `label` names.
    pub fn sign(&self, label: &str, text: &[u8]) -> [u8; 64] {
        self.0.sign(&message(label, text)).as_ref().try_into().expect("signatures have 64 bytes")
    }
}

/// Whether the holder of the secret half of `public` signed `text` for the use that `label` names.
pub fn is_vouched(public: &[u8; 32], label: &str, text: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(&message(label, text), signature).is_ok()
}

/// `"breakwater/v1/"` ‖ label ‖ `0x00` ‖ text.
fn message(label: &str, text: &[u8]) -> Vec<u8> {
    [PREFIX, label.as_bytes(), &[0], text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_signs_and_only_for_one_use() {
        let voucher = Voucher::of_root(&Secret::from_bytes([7; 32]));
        let public = voucher.public();
        let signature = voucher.sign("use", b"text");
        assert!(is_vouched(&public, "use", b"text", &signature));
        assert!(!is_vouched(&public, "use", b"texx", &signature));
        assert!(!is_vouched(&public, "other", b"text", &signature));
        let other = Voucher::of_root(&Secret::from_bytes([8; 32]));
        assert!(!is_vouched(&other.public(), "use", b"text", &signature));
        assert!(!is_vouched(&public, "use", b"text", &other.sign("use", b"text")));
        let mut changed = signature;
        changed[40] ^= 1;
        assert!(!is_vouched(&public, "use", b"text", &changed));
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn published_vector() {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let seed = bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        assert_eq!(pair.public_key().as_ref(), public);
        let signature = bytes(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        assert_eq!(pair.sign(&[0x72]).as_ref(), signature);
    }
}
