//! Published vectors of the primitives that the suites are made of, and of the suites where they are the primitive itself.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use breakwater_crypto::{Secret, Suite};
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};

/// Seals with `suite` and compares, then opens again.
fn check(suite: Suite, [key, nonce, aad, plain, sealed, tag]: [&str; 6]) {
    let nonce: [u8; 12] = hex::decode(nonce).unwrap().try_into().unwrap();
    let (key, aad, plain) = (Secret::from_hex(key).unwrap(), hex::decode(aad).unwrap(), hex::decode(plain).unwrap());
    let mut buffer = plain.clone();
    suite.seal(&key, nonce, &aad, &mut buffer);
    assert_eq!(hex::encode(&buffer), format!("{sealed}{tag}"));
    suite.open(&key, nonce, &aad, &mut buffer).unwrap();
    assert_eq!(buffer, plain);
}

#[test]
fn chacha20_poly1305_of_rfc_8439() {
    // Section 2.8.2.
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                  sunscreen would be it.";
    check(
        Suite::Standard,
        [
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            &hex::encode(plain),
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
             1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
             3ff4def08e4b7a9de576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691",
        ],
    );
}

#[test]
fn aes_256_gcm_of_its_specification() {
    // McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 13 to 16.
    let zeros = "0".repeat(64);
    let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                 b16aedf5aa0de657ba637b391aafd255";
    let sealed = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
                  c5f61e6393ba7a0abcc9f662898015ad";
    let nonce = "cafebabefacedbaddecaf888";
    let aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    for suite in [Suite::Fast, Suite::Nist] {
        check(suite, [&zeros, &zeros[..24], "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"]);
        let block = "cea7403d4d606b6e074ec5d3baf39d18";
        check(suite, [&zeros, &zeros[..24], "", &zeros[..32], block, "d0d1c8a799996bf0265b98b5d48ab919"]);
        check(suite, [key, nonce, "", plain, sealed, "b094dac5d93471bdec1a502270e3cc6c"]);
        check(suite, [key, nonce, aad, &plain[..120], &sealed[..120], "76fc6ece0f4e1768cddf8853bb2d551b"]);
    }
}

#[test]
fn aes_256_gcm_of_wycheproof() {
    // C2SP Wycheproof, aes_gcm_test.json, tests 91, 92, 94, 99, 100, 103, 105 and 106: lengths around the block's.
    let cases = [
        [
            "92ace3e348cd821092cd921aa3546374299ab46209691bc28b8752d17f123c20",
            "00112233445566778899aabb",
            "00000000ffffffff",
            "00010203040506070809",
            "e27abdd2d2a53d2f136b",
            "9a4a2579529301bcfb71c78d4060f52c",
        ],
        [
            "29d3a44f8723dc640239100c365423a312934ac80239212ac3df3421a2098123",
            "00112233445566778899aabb",
            "aabbccddeeff",
            "",
            "",
            "2a7d77fa526b8250cb296078926b5020",
        ],
        [
            "cc56b680552eb75008f5484b4cb803fa5063ebd6eab91f6ab6aef4916a766273",
            "99e23ec48985bccdeeab60f1",
            "",
            "2a",
            "06",
            "633c1e9703ef744ffffb40edf9d14355",
        ],
        [
            "0212a8de5007ed87b33f1a7090b6114f9e08cefd9607f2c276bdcfdbc5ce9cd7",
            "e6b1adf2fd58a8762c65f31b",
            "",
            "10f1ecf9c60584665d9ae5efe279e7f7377eea6916d2b111",
            "0843fff52d934fc7a071ea62c0bd351ce85678cde3ea2c9e",
            "7355fde599006715053813ce696237a8",
        ],
        [
            "b279f57e19c8f53f2f963f5f2519fdb7c1779be2ca2b3ae8e1128b7d6c627fc4",
            "98bc2c7438d5cd7665d76f6e",
            "c0",
            "fcc515b294408c8645c9183e3f4ecee5127846d1",
            "eb5500e3825952866d911253f8de860c00831c81",
            "ecb660e1fb0541ec41e8d68a64141b3a",
        ],
        [
            "ff0089ee870a4a39f645b0a5da774f7a5911e9696fc9cad646452c2aa8595a12",
            "bc2a7757d0ce2d8b1f14ccd9",
            "972ab4e06390caae8f99dd6e2187be6c7ff2c08a24be16ef",
            "748b28031621d95ee61812b4b4f47d04c6fc2ff3",
            "a929ee7e67c7a2f91bbcec6389a3caf43ab49305",
            "ebec6774b955e789591c822dab739e12",
        ],
        [
            "5b1d1035c0b17ee0b0444767f80a25b8c1b741f4b50a4d3052226baa1c6fb701",
            "d61040a313ed492823cc065b",
            "",
            "d096803181beef9e008ff85d5ddc38ddacf0f09ee5f7e07f1e4079cb64d0dc8f5e6711cd4921a7887de76e2678fdc676\
             18f1185586bfea9d4c685d50e4bb9a82",
            "c7d191b601f86c28b6a1bdef6a57b4f6ee3ae417bc125c381cdf1c4dac184ed1d84f1196206d62cad112b038845720e0\
             2c061179a8836f02b93fa7008379a6bf",
            "f15612f6c40f2e0db6dc76fc4822fcfe",
        ],
        [
            "81b6b27e5ed90ab99fe6756d4cb41e3f07269687f5afabdb426e29096b5e4466",
            "13e727486031cca21f733375",
            "",
            "9a95a23cfb1e35d89a7597570df0fb0efcbb7429f53bebcbbfa49fa247b251a8508ad497066855d08688576188e4ffb1\
             2d1d084dcabec3d57806daf215dcc97edd",
            "7ede7368bca3c93d9f1d7f7750d6e44b1cb92c30e3c9834b0b69efd2470911644ae6f6d75715e13aea8781f8da611a13\
             ac6364c406c1a715b7e97acb22b6e6156e",
            "74e20a93802f43407c8989a37f013802",
        ],
    ];
    for case in cases {
        check(Suite::Nist, case);
        let [key, nonce, aad, _, sealed, tag] = case;
        let last = if tag.ends_with('0') { '1' } else { '0' };
        let mut buffer = hex::decode(format!("{sealed}{}{last}", &tag[..31])).unwrap();
        let (key, aad) = (Secret::from_hex(key).unwrap(), hex::decode(aad).unwrap());
        let nonce = hex::decode(nonce).unwrap().try_into().unwrap();
        assert!(Suite::Nist.open(&key, nonce, &aad, &mut buffer).is_err());
    }
}

/// The input of all published BLAKE3 vectors.
fn counting(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

const BLAKE3_KEY: &[u8; 32] = b"whats the Elvish word for friend";

#[test]
fn keyed_blake3_of_its_authors() {
    // BLAKE3, test_vectors.json: the first 32 bytes of `keyed_hash`.
    let cases = [
        (0, "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"),
        (1, "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"),
        (1023, "c951ecdf03288d0fcc96ee3413563d8a6d3589547f2c2fb36d9786470f1b9d6e"),
        (1024, "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4"),
        (1025, "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69"),
        (2048, "879cf1fa2ea0e79126cb1063617a05b6ad9d0b696d0d757cf053439f60a99dd1"),
        (5121, "6ccf1c34753e7a044db80798ecd0782a8f76f33563accaddbfbb2e0ea4b2d024"),
        (8193, "954a2a75420c8d6547e3ba5b98d963e6fa6491addc8c023189cc519821b4a1f5"),
        (31744, "efa53b389ab67c593dba624d898d0f7353ab99e4ac9d42302ee64cbf9939a419"),
        (102_400, "1c35d1a5811083fd7119f5d5d1ba027b4d01c0c6c49fb6ff2cf75393ea5db4a7"),
    ];
    for (length, expected) in cases {
        let hash = blake3::keyed_hash(BLAKE3_KEY, &counting(length));
        assert_eq!(hash.to_hex().as_str(), expected, "{length} bytes");
    }
}

#[test]
fn a_fast_chunk_id_is_keyed_blake3_of_content_class_and_length() {
    for length in [0, 1, 1023, 1024, 4096, 131_072, 131_073] {
        let plain = counting(length);
        let mut whole = plain.clone();
        whole.push(7);
        whole.extend_from_slice(&(length as u64).to_be_bytes());
        let id = Suite::Fast.chunk_id(&Secret::from_bytes(*BLAKE3_KEY), 7, &plain);
        assert_eq!(&id.0, blake3::keyed_hash(BLAKE3_KEY, &whole).as_bytes());
    }
}

proptest! {
    /// The portable implementation and the one in use.
    #[test]
    fn both_chacha20_poly1305_agree(
        key: [u8; 32],
        nonce: [u8; 12],
        aad in prop::collection::vec(any::<u8>(), 0..100),
        plain in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut ours = plain.clone();
        let tag = Suite::Standard.seal_detached(&Secret::from_bytes(key), nonce, &aad, &mut ours);
        let mut theirs = plain.clone();
        let other = ChaCha20Poly1305::new(&key.into());
        let other_tag = other.encrypt_inout_detached(&nonce.into(), &aad, theirs.as_mut_slice().into()).unwrap();
        prop_assert_eq!(&ours, &theirs);
        prop_assert_eq!(&tag[..], &other_tag[..]);
        other.decrypt_inout_detached(&nonce.into(), &aad, ours.as_mut_slice().into(), &tag.into()).unwrap();
        prop_assert_eq!(&ours, &plain);
        Suite::Standard.open_detached(&Secret::from_bytes(key), nonce, &aad, &mut theirs, tag).unwrap();
        prop_assert_eq!(theirs, plain);
    }
}
