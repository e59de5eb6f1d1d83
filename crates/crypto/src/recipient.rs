//! Sealing secrets to the people and machines that may restore.
//!
//! HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. Base mode does not say who
//! sealed; what is opened must be authenticated by other means, which `docs/format.md` names for each purpose.

use std::convert::Infallible;
use std::fmt;

use breakwater_core::{Entropy, ErrorClass, RepositoryId, SessionId, SnapshotId, SourceUid, Uid};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal_with_rng};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::derive::PREFIX;
use crate::{Secret, sha256};

/// The word of the one suite in use, as it stands in the descriptor.
pub const HPKE_SUITE: &str = "x25519-hkdf-sha256-chacha20poly1305";

type KemInUse = X25519HkdfSha256;

/// The first 16 bytes of SHA-256 of a recipient's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecipientId(pub Uid);

impl RecipientId {
    /// The id that belongs to this public key.
    pub fn of(public: &[u8; 32]) -> Self {
        let digest = sha256(public);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        RecipientId(Uid(id))
    }
}

impl fmt::Display for RecipientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RecipientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One who may open: a name for people and a public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Follows from `public`.
    pub id: RecipientId,
    /// For people: `primary`, `recovery`.
    pub name: String,
    /// The X25519 public key.
    #[serde(with = "hex::serde")]
    pub public: [u8; 32],
}

impl Recipient {
    /// The recipient of this name and public key.
    pub fn new(name: &str, public: [u8; 32]) -> Self {
        Recipient { id: RecipientId::of(&public), name: name.to_owned(), public }
    }

    /// Seals `secret` so that only this recipient opens it, and only for `purpose`.
    pub fn seal(
        &self,
        purpose: &Purpose<'_>,
        secret: &Secret,
        entropy: &dyn Entropy,
    ) -> Result<SealedSecret, SealError> {
        // The id is what readers look their copy up by; one that names another key would make it unreadable for both.
        if self.id != RecipientId::of(&self.public) {
            return Err(SealError::BadRecipient { name: self.name.clone() });
        }
        let bad = |_| SealError::BadRecipient { name: self.name.clone() };
        let seal = Seal::to(&self.public, purpose, secret.expose(), entropy).map_err(bad)?;
        Ok(SealedSecret { recipient: self.id, seal })
    }
}

/// Seals `secret` once for each of `recipients`.
pub fn seal_for_all(
    recipients: &[Recipient],
    purpose: &Purpose<'_>,
    secret: &Secret,
    entropy: &dyn Entropy,
) -> Result<Vec<SealedSecret>, SealError> {
    if recipients.is_empty() {
        return Err(SealError::NoRecipient);
    }
    recipients.iter().map(|recipient| recipient.seal(purpose, secret, entropy)).collect()
}

/// What a sealed secret is for. It is bound into the seal, so that one kind cannot be passed off as another.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// The repository's root.
    RepositoryRoot(RepositoryId),
    /// A domain's root.
    DomainRoot {
        /// The repository.
        repository: RepositoryId,
        /// The epoch of the domain's record.
        epoch: u32,
        /// The domain's name.
        domain: &'a str,
    },
    /// The private half of a domain's restore key.
    RestoreKey {
        /// The repository.
        repository: RepositoryId,
        /// The epoch that the restore key was made in.
        epoch: u32,
        /// The domain's name.
        domain: &'a str,
    },
    /// The secret of one session.
    SessionSecret {
        /// The repository.
        repository: RepositoryId,
        /// The source.
        source: SourceUid,
        /// The session.
        session: SessionId,
    },
    /// The secrets that one snapshot needs.
    Grant {
        /// The repository.
        repository: RepositoryId,
        /// The source.
        source: SourceUid,
        /// The snapshot.
        snapshot: SnapshotId,
    },
}

impl Purpose<'_> {
    fn info(&self) -> Vec<u8> {
        let mut info = PREFIX.to_vec();
        match self {
            Purpose::RepositoryRoot(repository) => {
                info.extend_from_slice(b"repository-root\0");
                info.extend_from_slice(repository.as_bytes());
            }
            Purpose::DomainRoot { repository, epoch, domain } => {
                info.extend_from_slice(b"domain-root\0");
                info.extend_from_slice(repository.as_bytes());
                info.extend_from_slice(&epoch.to_be_bytes());
                info.extend_from_slice(domain.as_bytes());
            }
            Purpose::RestoreKey { repository, epoch, domain } => {
                info.extend_from_slice(b"restore-key\0");
                info.extend_from_slice(repository.as_bytes());
                info.extend_from_slice(&epoch.to_be_bytes());
                info.extend_from_slice(domain.as_bytes());
            }
            Purpose::SessionSecret { repository, source, session } => {
                info.extend_from_slice(b"session-secret\0");
                info.extend_from_slice(repository.as_bytes());
                info.extend_from_slice(source.as_bytes());
                info.extend_from_slice(session.as_bytes());
            }
            Purpose::Grant { repository, source, snapshot } => {
                info.extend_from_slice(b"grant\0");
                info.extend_from_slice(repository.as_bytes());
                info.extend_from_slice(source.as_bytes());
                info.extend_from_slice(snapshot.as_bytes());
            }
        }
        info
    }
}

/// Bytes as they are stored: only the holder of one private key opens them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The encapsulated key.
    #[serde(with = "hex::serde")]
    pub enc: [u8; 32],
    /// Ciphertext and tag.
    #[serde(with = "hex::serde")]
    pub sealed: Vec<u8>,
}

impl Seal {
    /// Seals `plain` to a public key. An error when the public key cannot be used.
    pub fn to(
        public: &[u8; 32],
        purpose: &Purpose<'_>,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Seal, UnusableKey> {
        let public = <KemInUse as Kem>::PublicKey::from_bytes(public).map_err(|_| UnusableKey)?;
        let (enc, sealed) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, KemInUse>(
            &OpModeS::Base,
            &public,
            &purpose.info(),
            plain,
            &[],
            &mut EntropyRng(entropy),
        )
        .map_err(|_| UnusableKey)?;
        let mut bytes = [0; 32];
        enc.write_exact(&mut bytes);
        Ok(Seal { enc: bytes, sealed })
    }
}

/// A public key that nothing can be sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the public key is not usable")]
pub struct UnusableKey;

/// A secret as it is stored: only its recipient opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Who opens it.
    pub recipient: RecipientId,
    /// The secret.
    #[serde(flatten)]
    pub seal: Seal,
}

/// A recipient's private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientSecret(Secret);

impl RecipientSecret {
    /// A new key pair.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let seed = Secret::generate(entropy);
        Self::from_seed(seed.expose())
    }

    /// The key pair that DeriveKeyPair of RFC 9180 makes of `seed`.
    fn from_seed(seed: &[u8]) -> Self {
        let (private, _) = KemInUse::derive_keypair(seed);
        let mut bytes = [0; 32];
        private.write_exact(&mut bytes);
        let secret = Secret::from_bytes(bytes);
        bytes.zeroize();
        RecipientSecret(secret)
    }

    /// The key with these bytes.
    pub const fn from_secret(secret: Secret) -> Self {
        RecipientSecret(secret)
    }

    /// The bytes of the key, for the key file.
    pub const fn secret(&self) -> &Secret {
        &self.0
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        KemInUse::sk_to_pk(&self.private()).write_exact(&mut bytes);
        bytes
    }

    /// The id of this recipient.
    pub fn id(&self) -> RecipientId {
        RecipientId::of(&self.public())
    }

    /// Opens this recipient's copy among `sealed`.
    pub fn open(&self, purpose: &Purpose<'_>, sealed: &[SealedSecret]) -> Result<Secret, SealError> {
        let id = self.id();
        let mine = sealed.iter().find(|one| one.recipient == id).ok_or(SealError::NotForThisKey { id })?;
        self.open_secret(purpose, &mine.seal)
    }

    /// Opens a secret that was sealed to this key.
    pub fn open_secret(&self, purpose: &Purpose<'_>, seal: &Seal) -> Result<Secret, SealError> {
        let plain = self.open_bytes(purpose, seal)?;
        let secret = <[u8; 32]>::try_from(plain.as_slice()).map(Secret::from_bytes);
        secret.map_err(|_| SealError::DoesNotOpen { id: self.id() })
    }

    /// Opens bytes that were sealed to this key.
    pub fn open_bytes(&self, purpose: &Purpose<'_>, seal: &Seal) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let refused = |_| SealError::DoesNotOpen { id: self.id() };
        let enc = <KemInUse as Kem>::EncappedKey::from_bytes(&seal.enc).map_err(refused)?;
        let plain = single_shot_open::<ChaCha20Poly1305, HkdfSha256, KemInUse>(
            &OpModeR::Base,
            &self.private(),
            &enc,
            &purpose.info(),
            &seal.sealed,
            &[],
        );
        plain.map(Zeroizing::new).map_err(refused)
    }

    fn private(&self) -> <KemInUse as Kem>::PrivateKey {
        <KemInUse as Kem>::PrivateKey::from_bytes(self.0.expose()).expect("every 32 bytes are an X25519 key")
    }
}

/// A secret could not be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Nobody could ever open it.
    #[error("there is no recipient to seal to")]
    NoRecipient,
    /// A public key that cannot be used, or that does not belong to its id.
    #[error("the public key of recipient `{name}` is not usable, or its id is that of another key")]
    BadRecipient {
        /// The recipient's name.
        name: String,
    },
    /// It was sealed to others.
    #[error("not sealed to this key ({id})")]
    NotForThisKey {
        /// The recipient that this key is.
        id: RecipientId,
    },
    /// The seal does not fit.
    #[error("the copy for key {id} does not open: it was changed, or made for another purpose")]
    DoesNotOpen {
        /// The recipient that this key is.
        id: RecipientId,
    },
}

impl SealError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            SealError::NoRecipient | SealError::BadRecipient { .. } => ErrorClass::Invalid,
            SealError::NotForThisKey { .. } => ErrorClass::Denied,
            SealError::DoesNotOpen { .. } => ErrorClass::Corrupt,
        }
    }
}

/// Gives HPKE its randomness from the caller's entropy.
struct EntropyRng<'a>(&'a dyn Entropy);

impl TryRng for EntropyRng<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for EntropyRng<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers the same bytes to every call.
    #[derive(Debug)]
    struct Fixed(Vec<u8>);

    impl Entropy for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            for (at, byte) in buffer.iter_mut().enumerate() {
                *byte = self.0[at % self.0.len()];
            }
        }
    }

    fn session_purpose(session: u8) -> Purpose<'static> {
        Purpose::SessionSecret {
            repository: RepositoryId::from_bytes([1; 16]),
            source: SourceUid::from_bytes([2; 16]),
            session: SessionId::from_bytes([session; 16]),
        }
    }

    #[test]
    fn hpke_of_rfc_9180() {
        // RFC 9180, appendix A.2.1: base mode of the suite in use.
        let unhex = |text: &str| hex::decode(text).unwrap();
        let recipient =
            RecipientSecret::from_seed(&unhex("1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df"));
        // The RFC prints skRm as derived, the library keeps it clamped (RFC 7748, section 5).
        let printed = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb";
        let mut private = *Secret::from_hex(printed).unwrap().expose();
        private[31] = private[31] & 0x7f | 0x40;
        assert_eq!(recipient.0, Secret::from_bytes(private));
        assert_eq!(hex::encode(recipient.public()), "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let entropy = Fixed(unhex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b"));
        let public = <KemInUse as Kem>::PublicKey::from_bytes(&recipient.public()).unwrap();
        let (enc, sealed) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, KemInUse>(
            &OpModeS::Base,
            &public,
            &unhex("4f6465206f6e2061204772656369616e2055726e"),
            &unhex("4265617574792069732074727574682c20747275746820626561757479"),
            &unhex("436f756e742d30"),
            &mut EntropyRng(&entropy),
        )
        .unwrap();
        assert_eq!(hex::encode(enc.to_bytes()), "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        assert_eq!(
            hex::encode(sealed),
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
        );
    }

    #[test]
    fn every_recipient_opens_and_nobody_else() {
        let keys: Vec<_> = (1..4).map(|seed| RecipientSecret::from_seed(&[seed; 32])).collect();
        let named: Vec<_> = keys[..2].iter().map(|key| Recipient::new("someone", key.public())).collect();
        let secret = Secret::from_bytes([5; 32]);
        let sealed = seal_for_all(&named, &session_purpose(3), &secret, &Fixed(vec![6; 32])).unwrap();
        for key in &keys[..2] {
            assert_eq!(key.open(&session_purpose(3), &sealed), Ok(secret.clone()));
            assert_eq!(key.open(&session_purpose(4), &sealed), Err(SealError::DoesNotOpen { id: key.id() }));
            let root = Purpose::RepositoryRoot(RepositoryId::from_bytes([1; 16]));
            assert!(key.open(&root, &sealed).is_err());
        }
        assert_eq!(keys[2].open(&session_purpose(3), &sealed), Err(SealError::NotForThisKey { id: keys[2].id() }));
        let json = serde_json::to_string(&sealed).unwrap();
        assert_eq!(serde_json::from_str::<Vec<SealedSecret>>(&json).unwrap(), sealed);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let key = RecipientSecret::from_seed(&[1; 32]);
        let recipient = Recipient::new("r", key.public());
        let sealed = recipient.seal(&session_purpose(3), &Secret::from_bytes([5; 32]), &Fixed(vec![6; 32])).unwrap();
        for bit in 0..sealed.seal.sealed.len() * 8 {
            let mut other = sealed.clone();
            other.seal.sealed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(&session_purpose(3), &[other]).is_err());
        }
        for bit in 0..255 {
            // Bit 255 of an X25519 point is ignored by the standard (RFC 7748, section 5), but RFC 9180 binds the bytes.
            let mut other = sealed.clone();
            other.seal.enc[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(&session_purpose(3), &[other]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn unusable_recipients_are_refused() {
        let (secret, entropy) = (Secret::from_bytes([5; 32]), Fixed(vec![6; 32]));
        assert_eq!(seal_for_all(&[], &session_purpose(1), &secret, &entropy), Err(SealError::NoRecipient));
        let zero = Recipient::new("zero", [0; 32]);
        assert!(zero.seal(&session_purpose(1), &secret, &entropy).is_err());
        let mut swapped = Recipient::new("swapped", RecipientSecret::from_seed(&[1; 32]).public());
        swapped.id = zero.id;
        assert!(swapped.seal(&session_purpose(1), &secret, &entropy).is_err());
    }
}
