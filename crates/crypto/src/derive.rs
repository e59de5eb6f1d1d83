//! One key from another. Every derived key has a label of its own, so that no two uses ever share a key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::Secret;

/// What stands before every label, so that a key of this format can never be one of another.
pub(crate) const PREFIX: &[u8] = b"breakwater/v1/";

/// HMAC-SHA256(key, `"breakwater/v1/"` ‖ label ‖ `0x00` ‖ context ‖ `0x01`): one block of HKDF-Expand (RFC 5869).
/// The parts of `context` are joined without separator; each use has parts of fixed length, the last one excepted.
pub fn derive(key: &Secret, label: &str, context: &[&[u8]]) -> Secret {
    let mut mac = mac(key);
    mac.update(PREFIX);
    mac.update(label.as_bytes());
    mac.update(&[0]);
    for part in context {
        mac.update(part);
    }
    mac.update(&[1]);
    Secret::from_bytes(mac.finalize().into_bytes().into())
}

/// A value that pins `key` without telling it. Compared before anything is opened, because the AEADs in use would let
/// one ciphertext open under two keys.
pub fn commitment(key: &Secret) -> [u8; 32] {
    *derive(key, "commit", &[]).expose()
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(crate) fn mac(key: &Secret) -> Hmac<Sha256> {
    Hmac::new_from_slice(key.expose()).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_the_standard() {
        // FIPS 180-2, appendix B.
        assert_eq!(hex::encode(sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(
            hex::encode(sha256(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        );
    }

    #[test]
    fn hmac_of_rfc_4231() {
        let tag = |key: &[u8], data: &[u8]| {
            let mut mac: Hmac<Sha256> = Hmac::new_from_slice(key).unwrap();
            mac.update(data);
            hex::encode(mac.finalize().into_bytes())
        };
        assert_eq!(tag(&[0x0b; 20], b"Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        assert_eq!(
            tag(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(tag(&[0xaa; 20], &[0xdd; 50]), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
        assert_eq!(
            tag(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn derive_is_one_block_of_hkdf_expand() {
        // RFC 5869, appendix A.1: the first 32 bytes of OKM are HMAC(PRK, info ‖ 0x01). The same steps here, with the
        // published PRK and info, show that the construction is the published one.
        let prk = Secret::from_hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5").unwrap();
        let mut expand = mac(&prk);
        expand.update(&hex::decode("f0f1f2f3f4f5f6f7f8f9").unwrap());
        expand.update(&[1]);
        assert_eq!(
            hex::encode(expand.finalize().into_bytes()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        );
        let mut by_hand = mac(&prk);
        by_hand.update(b"breakwater/v1/pack\0context\x01");
        assert_eq!(derive(&prk, "pack", &[b"con", b"text"]).expose()[..], by_hand.finalize().into_bytes()[..]);
    }

    #[test]
    fn labels_and_contexts_keep_keys_apart() {
        let key = Secret::from_bytes([1; 32]);
        let all = [
            derive(&key, "a", &[]),
            derive(&key, "b", &[]),
            derive(&key, "a", &[b"x"]),
            derive(&key, "ax", &[]),
            derive(&Secret::from_bytes([2; 32]), "a", &[]),
            Secret::from_bytes(commitment(&key)),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|other| other != one));
        }
    }
}
