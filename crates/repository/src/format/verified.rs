//! What a recipient vouches for: packs of content of one snapshot, all of whose frames were read in every region and found
//! to be the chunks that they are said to be.
//!
//! Invariant: whoever lacks the repository's root can make none that opens, whatever other keys he has; and a pack is named
//! together with the hash of its footer, so that the names of its chunks cannot be changed later.

use breakwater_core::{DomainName, RegionId, RepositoryId, SessionId, SnapshotId, SourceUid, Timestamp};
use breakwater_crypto::{Voucher, is_vouched};
use serde::{Deserialize, Serialize};

use super::pack::PackId;
use super::record::read_json;
use super::{FormatError, ObjectName};

const WHAT: &str = "verified packs";
const LABEL: &str = "verified-packs";

/// Packs in one part.
pub const PACKS_MAX: usize = 4096;

/// One part of what a run has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedPacks {
    /// The repository.
    pub repository: RepositoryId,
    /// The domain that may lean on it.
    pub domain: DomainName,
    /// The source of snapshot and packs.
    pub source: SourceUid,
    /// The snapshot: only frames that its references list may be leaned on.
    pub snapshot: SnapshotId,
    /// The session that committed it.
    pub session: SessionId,
    /// The run that read them.
    pub run: SessionId,
    /// Which part this is.
    pub part: u32,
    /// When it was made.
    pub at: Timestamp,
    /// The regions in which every byte was read.
    pub regions: Vec<RegionId>,
    /// The packs, ascending over all parts, each with the SHA-256 of its sealed footer.
    pub packs: Vec<VerifiedPack>,
}

/// A pack, and what pins its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedPack(pub PackId, #[serde(with = "hex::serde")] pub [u8; 32]);

/// The JSON of the record: the text that is signed, and the signature.
#[derive(Debug, Serialize, Deserialize)]
pub struct Vouched {
    body: String,
    #[serde(with = "hex::serde")]
    signature: [u8; 64],
}

impl VerifiedPacks {
    /// The object's name.
    pub fn name(&self) -> ObjectName {
        let VerifiedPacks { source, snapshot, session, run, part, .. } = *self;
        ObjectName::Verified { domain: self.domain.clone(), source, snapshot, session, run, part }
    }

    /// What is sealed as the record.
    pub fn vouched(&self, voucher: &Voucher) -> Vouched {
        let body = serde_json::to_string(self).expect("the body has text keys only");
        let signature = voucher.sign(LABEL, body.as_bytes());
        Vouched { body, signature }
    }
}

impl Vouched {
    /// What a recipient vouches for under `name`.
    pub fn open(
        &self,
        voucher: &[u8; 32],
        repository: RepositoryId,
        name: &ObjectName,
    ) -> Result<VerifiedPacks, FormatError> {
        if !is_vouched(voucher, LABEL, self.body.as_bytes(), &self.signature) {
            return Err(FormatError::Unsealed { what: WHAT });
        }
        let packs: VerifiedPacks = read_json(WHAT, self.body.as_bytes())?;
        if (packs.repository, &packs.name()) != (repository, name) {
            return Err(FormatError::damaged(WHAT, "they lie under another name"));
        }
        if packs.packs.len() > PACKS_MAX || !packs.packs.is_sorted_by(|one, next| one.0 < next.0) {
            return Err(FormatError::damaged(WHAT, "they are too many, or not in order"));
        }
        Ok(packs)
    }
}

#[cfg(test)]
mod tests {
    use breakwater_crypto::Secret;

    use super::*;

    fn packs() -> VerifiedPacks {
        let session = SessionId::from_bytes([3; 16]);
        let pack = |number| VerifiedPack(PackId { session, number }, [9; 32]);
        VerifiedPacks {
            repository: RepositoryId::from_bytes([1; 16]),
            domain: DomainName::new("default").unwrap(),
            source: SourceUid::from_bytes([2; 16]),
            snapshot: SnapshotId::from_bytes([4; 16]),
            session,
            run: SessionId::from_bytes([5; 16]),
            part: 0,
            at: Timestamp(7),
            regions: vec![RegionId::from_bytes([6; 16])],
            packs: vec![pack(0), pack(4)],
        }
    }

    #[test]
    fn only_a_recipient_can_vouch_and_nothing_can_be_changed() {
        let voucher = Voucher::of_root(&Secret::from_bytes([1; 32]));
        let packs = packs();
        let (public, repository, name) = (voucher.public(), packs.repository, packs.name());
        let vouched = packs.vouched(&voucher);
        assert_eq!(vouched.open(&public, repository, &name).unwrap(), packs);

        let forger = Voucher::of_root(&Secret::from_bytes([2; 32]));
        let forged = packs.vouched(&forger);
        assert!(matches!(forged.open(&public, repository, &name), Err(FormatError::Unsealed { .. })));
        let body = vouched.body.replace("\",4]", "\",5]");
        assert_ne!(body, vouched.body);
        let changed = Vouched { body, ..vouched };
        assert!(matches!(changed.open(&public, repository, &name), Err(FormatError::Unsealed { .. })));
    }

    #[test]
    fn what_was_said_of_one_thing_says_nothing_of_another() {
        let voucher = Voucher::of_root(&Secret::from_bytes([1; 32]));
        let packs = packs();
        let vouched = packs.vouched(&voucher);
        let others = [
            VerifiedPacks { source: SourceUid::from_bytes([8; 16]), ..packs.clone() },
            VerifiedPacks { snapshot: SnapshotId::from_bytes([8; 16]), ..packs.clone() },
            VerifiedPacks { domain: DomainName::new("other").unwrap(), ..packs.clone() },
            VerifiedPacks { part: 1, ..packs.clone() },
        ];
        for other in others {
            assert!(vouched.open(&voucher.public(), packs.repository, &other.name()).is_err());
        }
        assert!(vouched.open(&voucher.public(), RepositoryId::from_bytes([9; 16]), &packs.name()).is_err());
        let backwards = VerifiedPacks { packs: packs.packs.iter().rev().copied().collect(), ..packs };
        assert!(backwards.vouched(&voucher).open(&voucher.public(), backwards.repository, &backwards.name()).is_err());
    }
}
