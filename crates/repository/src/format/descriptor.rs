//! The descriptor: what a repository is. In the clear, the same in every region, pinned by its fingerprint in every key.

use std::collections::BTreeSet;

use breakwater_core::{RegionId, RepositoryId, Timestamp};
use breakwater_crypto::{Fingerprint, HPKE_SUITE, Suite, sha256};
use serde::{Deserialize, Serialize};

use super::FormatError;
use super::record::read_json;

const WHAT: &str = "repository descriptor";
const FORMAT: &str = "breakwater-repository";

/// Snapshots may refer to packs of other sources of their domain, as far as a recipient has vouched for them
/// (docs/format.md, section 9).
const VERIFIED_CHUNKS: &str = "verified-chunks";

/// Features that a program may have to know.
const KNOWN_FEATURES: [&str; 1] = [VERIFIED_CHUNKS];

/// What a repository is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Always `breakwater-repository`.
    format: String,
    /// Always 1.
    version: u32,
    /// The repository.
    pub repository: RepositoryId,
    /// How it names and seals.
    pub suite: Suite,
    /// How it seals for recipients.
    hpke: String,
    /// Bytes of a file's extent.
    pub extent_size: u32,
    /// Bytes that packs aim at.
    pub pack_size: u32,
    /// When it was created.
    pub created: Timestamp,
    /// The commitment of the repository root: a root that any object delivers is the repository's only if it fits.
    #[serde(with = "hex::serde")]
    pub root: [u8; 32],
    /// What a program must know.
    pub features: Features,
    /// The public key of whoever vouches for chunks; none where no source may lean on another.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_or_none")]
    pub voucher: Option<[u8; 32]>,
}

/// Thirty-two bytes as hex, where they are there.
mod hex_or_none {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => hex::serde::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        let decode = |text: String| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).map(|()| bytes).map_err(serde::de::Error::custom)
        };
        text.map(decode).transpose()
    }
}

/// Names of features that a program must know before it may do a thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Before it reads.
    pub read: BTreeSet<String>,
    /// Before it writes.
    pub write: BTreeSet<String>,
    /// Before it deletes.
    pub delete: BTreeSet<String>,
}

/// What a program wants to do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read.
    Read,
    /// Add.
    Write,
    /// Delete.
    Delete,
}

impl Descriptor {
    /// The descriptor of a new repository.
    pub fn new(repository: RepositoryId, suite: Suite, sizes: (u32, u32), created: Timestamp, root: [u8; 32]) -> Self {
        Descriptor {
            format: FORMAT.to_owned(),
            version: 1,
            repository,
            suite,
            hpke: HPKE_SUITE.to_owned(),
            extent_size: sizes.0,
            pack_size: sizes.1,
            created,
            root,
            features: Features::default(),
            voucher: None,
        }
    }

    /// The same of a repository whose sources may lean on each other's chunks once the holder of `voucher` vouches for
    /// them. Programs that do not know of that must neither read, write nor delete.
    #[must_use]
    pub fn with_verified_chunks(mut self, voucher: [u8; 32]) -> Self {
        for needed in [&mut self.features.read, &mut self.features.write, &mut self.features.delete] {
            needed.insert(VERIFIED_CHUNKS.to_owned());
        }
        self.voucher = Some(voucher);
        self
    }

    /// The bytes of the object.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a descriptor has text keys only")
    }

    /// Reads the object; refuses what this version does not read.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        /// The two fields that say whether the others can be understood.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = read_json(WHAT, bytes)?;
        if head.format != FORMAT {
            return Err(FormatError::NotThis { what: WHAT });
        }
        let newer = |detail: String| FormatError::Newer { what: WHAT, detail };
        if head.version != 1 {
            return Err(newer(format!("version {}", head.version)));
        }
        let descriptor: Descriptor = read_json(WHAT, bytes)?;
        if descriptor.hpke != HPKE_SUITE {
            return Err(newer(format!("HPKE suite `{}`", descriptor.hpke)));
        }
        descriptor.check_use(Use::Read)?;
        let lean = descriptor.features.read.contains(VERIFIED_CHUNKS);
        if lean != descriptor.voucher.is_some() {
            return Err(FormatError::damaged(WHAT, "its features and its voucher do not fit"));
        }
        if descriptor.extent_size == 0 || descriptor.pack_size == 0 {
            return Err(FormatError::damaged(WHAT, "a size is zero"));
        }
        Ok(descriptor)
    }

    /// Refuses a use for which a feature would have to be known that is not.
    pub fn check_use(&self, wanted: Use) -> Result<(), FormatError> {
        let needed = match wanted {
            Use::Read => &self.features.read,
            Use::Write => &self.features.write,
            Use::Delete => &self.features.delete,
        };
        match needed.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
            None => Ok(()),
            Some(feature) => Err(FormatError::Newer { what: WHAT, detail: format!("feature `{feature}`") }),
        }
    }

    /// The fingerprint of a descriptor's bytes.
    pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
        Fingerprint(sha256(bytes))
    }
}

/// The object `repo/region`: which place of which repository this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// This place.
    pub region: RegionId,
    /// When it was joined.
    pub joined: Timestamp,
    /// What the place was found to offer then; none in records that are older than the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers: Option<Offers>,
}

/// What a place was found to offer beyond what every place does. For people and for comparing later; what counts is what the
/// place answers now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offers {
    /// Whether objects can be locked until a time.
    pub locks: bool,
    /// Whether objects can be held without an end.
    pub holds: bool,
    /// Whether older versions of objects stay.
    pub versions: bool,
    /// Whether the place compares what it receives with a checksum.
    pub checksums: bool,
    /// The words of its tiers; empty where there is but one.
    pub tiers: Vec<String>,
    /// The mode of a lock that was tried and found to bind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
}

impl RegionRecord {
    /// The bytes of the object.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a region record has text keys only")
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        read_json("region record", bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> Descriptor {
        let id = RepositoryId::from_bytes([1; 16]);
        Descriptor::new(id, Suite::Standard, (131_072, 64 << 20), Timestamp(5), [4; 32])
    }

    #[test]
    fn region_records_of_before_are_read() {
        let text = format!("{{\"repository\":\"{0}\",\"region\":\"{0}\",\"joined\":5}}", "01".repeat(16));
        let old = RegionRecord::decode(text.as_bytes()).unwrap();
        assert_eq!(old.offers, None);
        assert_eq!(String::from_utf8(old.encode()).unwrap(), text, "and written as they were");
        let tiers = vec!["hot".to_owned()];
        let offers = Offers { locks: true, holds: false, versions: true, checksums: false, tiers, bound: None };
        let new = RegionRecord { offers: Some(offers), ..old };
        assert_eq!(RegionRecord::decode(&new.encode()).unwrap(), new);
    }

    #[test]
    fn it_reads_back() {
        let bytes = descriptor().encode();
        assert_eq!(Descriptor::decode(&bytes).unwrap(), descriptor());
    }

    #[test]
    fn what_is_newer_is_refused_by_name() {
        let text = String::from_utf8(descriptor().encode()).unwrap();
        let refused = |from: &str, to: &str, word: &str| {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            let error = Descriptor::decode(changed.as_bytes()).unwrap_err();
            let shown = breakwater_core::Chain(&error).to_string();
            assert!(shown.contains(word), "{shown}");
        };
        refused("\"version\":1", "\"version\":2", "version 2");
        refused("\"read\":[]", "\"read\":[\"page-runs\"]", "page-runs");
        refused("\"standard\"", "\"gost\"", "gost");
        refused(HPKE_SUITE, "x-wing", "x-wing");
        refused(FORMAT, "restic", "not a repository descriptor");
        refused("131072", "0", "a size is zero");
        let write = text.replace("\"write\":[]", "\"write\":[\"holds\"]");
        let descriptor = Descriptor::decode(write.as_bytes()).unwrap();
        assert!(descriptor.check_use(Use::Write).unwrap_err().to_string().contains("holds"));
    }
}
