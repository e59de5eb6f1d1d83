//! Records: small sealed JSON objects. A record opens only under its own kind and name, in its own repository.

use breakwater_core::RepositoryId;
use breakwater_crypto::{Secret, Suite, commitment, derive};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cursor::Cursor;
use super::{FormatError, ObjectName};

const WHAT: &str = "record";
const MAGIC: &[u8; 4] = b"BWRC";
const HEAD: usize = 72;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Name, engine and identity of a source.
    Source,
    /// A sealed session secret.
    SessionKeys,
    /// A session's intent.
    Open,
    /// A snapshot.
    Manifest,
    /// The end of a session that did not commit.
    Fence,
    /// The claim of a stream's generation.
    StreamClaim,
    /// The history of a branch.
    History,
    /// The end of a snapshot, or of a session that was fenced.
    Tombstone,
    /// Where the frames of a pack are now.
    Moved,
    /// What a run of the garbage collection does.
    GcPlan,
    /// Packs that were read back and found whole.
    Verified,
    /// Why a snapshot must not be deleted.
    Hold,
    /// Proof of something that was done to the repository as a whole.
    Audit,
    /// Chunks that no region has whole.
    Lost,
    /// That a source may refer to packs of another one.
    Leaning,
    /// That another writer took a stream over.
    Over,
}

impl RecordKind {
    /// The byte on disk.
    pub const fn byte(self) -> u8 {
        match self {
            RecordKind::Source => 1,
            RecordKind::SessionKeys => 2,
            RecordKind::Open => 3,
            RecordKind::Manifest => 4,
            RecordKind::Fence => 5,
            RecordKind::StreamClaim => 6,
            RecordKind::History => 7,
            RecordKind::Tombstone => 8,
            RecordKind::Moved => 9,
            RecordKind::GcPlan => 10,
            RecordKind::Verified => 11,
            RecordKind::Hold => 12,
            RecordKind::Audit => 13,
            RecordKind::Lost => 14,
            RecordKind::Leaning => 15,
            RecordKind::Over => 16,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, FormatError> {
        Ok(match byte {
            1 => RecordKind::Source,
            2 => RecordKind::SessionKeys,
            3 => RecordKind::Open,
            4 => RecordKind::Manifest,
            5 => RecordKind::Fence,
            6 => RecordKind::StreamClaim,
            7 => RecordKind::History,
            8 => RecordKind::Tombstone,
            9 => RecordKind::Moved,
            10 => RecordKind::GcPlan,
            11 => RecordKind::Verified,
            12 => RecordKind::Hold,
            13 => RecordKind::Audit,
            14 => RecordKind::Lost,
            15 => RecordKind::Leaning,
            16 => RecordKind::Over,
            _ => return Err(FormatError::Newer { what: WHAT, detail: format!("kind {byte}") }),
        })
    }
}

/// What a record is sealed with and bound to.
#[derive(Clone, Copy, Debug)]
pub struct RecordKey<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// The source's structure key.
    pub structure: &'a Secret,
}

impl RecordKey<'_> {
    /// Seals `value` as the object `name`. `salt` must be random.
    pub fn seal<T: Serialize>(
        &self,
        suite: Suite,
        kind: RecordKind,
        salt: [u8; 32],
        name: &ObjectName,
        value: &T,
    ) -> Result<Vec<u8>, FormatError> {
        let json = serde_json::to_vec(value).map_err(|source| FormatError::Json { what: WHAT, source })?;
        Ok(self.seal_json(suite, kind, salt, name, &json))
    }

    /// Seals the text `json` as the object `name`. `salt` must be random.
    pub fn seal_json(&self, suite: Suite, kind: RecordKind, salt: [u8; 32], name: &ObjectName, json: &[u8]) -> Vec<u8> {
        let key = self.record_key(&salt);
        let mut record = Vec::with_capacity(HEAD + json.len() + 16);
        record.extend_from_slice(MAGIC);
        record.extend_from_slice(&[1, suite.byte(), kind.byte(), 0]);
        let aad = self.aad(&record, name);
        record.extend_from_slice(&salt);
        record.extend_from_slice(&commitment(&key));
        record.extend_from_slice(json);
        let body = record.get_mut(HEAD..).expect("the head was written just now");
        let tag = suite.seal_detached(&key, [0; 12], &aad, body);
        record.extend_from_slice(&tag);
        record
    }

    /// Opens the object `name` whatever its kind, and answers kind and text.
    pub fn open_any(&self, name: &ObjectName, bytes: &[u8]) -> Result<(RecordKind, Vec<u8>), FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        if cursor.take(4)? != MAGIC {
            return Err(FormatError::NotThis { what: WHAT });
        }
        let version = cursor.u8()?;
        if version != 1 {
            return Err(FormatError::Newer { what: WHAT, detail: format!("version {version}") });
        }
        let suite = Suite::from_byte(cursor.u8()?).map_err(|source| FormatError::Suite { what: WHAT, source })?;
        let kind = RecordKind::from_byte(cursor.u8()?)?;
        cursor.zeros(1)?;
        let salt: [u8; 32] = cursor.array()?;
        let committed: [u8; 32] = cursor.array()?;
        let key = self.record_key(&salt);
        if commitment(&key) != committed {
            return Err(FormatError::WrongKey { what: WHAT });
        }
        let head = bytes.get(..8).unwrap_or_default();
        let mut body = bytes.get(HEAD..).unwrap_or_default().to_vec();
        suite
            .open(&key, [0; 12], &self.aad(head, name), &mut body)
            .map_err(|_| FormatError::Unsealed { what: WHAT })?;
        Ok((kind, body))
    }

    /// Opens the object `name`, which must be of `kind`.
    pub fn open<T: DeserializeOwned>(
        &self,
        kind: RecordKind,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<T, FormatError> {
        let (found, json) = self.open_any(name, bytes)?;
        if found != kind {
            return Err(FormatError::damaged(WHAT, format!("it is of kind {found:?}, not {kind:?}")));
        }
        read_json(WHAT, &json)
    }

    fn record_key(&self, salt: &[u8; 32]) -> Secret {
        derive(self.structure, "record", &[salt])
    }

    fn aad(&self, head: &[u8], name: &ObjectName) -> Vec<u8> {
        let mut aad = head.to_vec();
        aad.extend_from_slice(self.repository.as_bytes());
        aad.extend_from_slice(name.to_string().as_bytes());
        aad
    }
}

/// The value that `json` says.
pub fn read_json<T: DeserializeOwned>(what: &'static str, json: &[u8]) -> Result<T, FormatError> {
    serde_json::from_slice(json).map_err(|source| FormatError::Json { what, source })
}

#[cfg(test)]
mod tests {
    use breakwater_core::{SessionId, SourceUid};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn name(session: u8) -> ObjectName {
        ObjectName::Open(SourceUid::from_bytes([1; 16]), SessionId::from_bytes([session; 16]))
    }

    fn key(structure: &Secret, repository: u8) -> RecordKey<'_> {
        RecordKey { repository: RepositoryId::from_bytes([repository; 16]), structure }
    }

    #[test]
    fn a_record_opens_only_where_it_belongs() {
        let (mine, other) = (Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32]));
        let value = serde_json::json!({"a": [1, 2]});
        let bytes = key(&mine, 1).seal(Suite::Standard, RecordKind::Open, [7; 32], &name(1), &value).unwrap();
        let open = |k: &Secret, repository, name: &ObjectName| {
            key(k, repository).open::<serde_json::Value>(RecordKind::Open, name, &bytes)
        };
        assert_eq!(open(&mine, 1, &name(1)).unwrap(), value);
        assert!(matches!(open(&other, 1, &name(1)), Err(FormatError::WrongKey { .. })));
        assert!(matches!(open(&mine, 2, &name(1)), Err(FormatError::Unsealed { .. })));
        assert!(matches!(open(&mine, 1, &name(2)), Err(FormatError::Unsealed { .. })));
        assert!(key(&mine, 1).open::<serde_json::Value>(RecordKind::Fence, &name(1), &bytes).is_err());
        assert!(!bytes.windows(3).any(|window| window == b"\"a\""));
    }

    proptest! {
        #[test]
        fn any_flip_or_cut_is_found(json in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0..8u8) {
            let mine = Secret::from_bytes([1; 32]);
            let bytes = key(&mine, 1).seal_json(Suite::Standard, RecordKind::Fence, [7; 32], &name(1), &json);
            prop_assert_eq!(key(&mine, 1).open_any(&name(1), &bytes).unwrap(), (RecordKind::Fence, json));
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(key(&mine, 1).open_any(&name(1), &flipped).is_err());
            prop_assert!(key(&mine, 1).open_any(&name(1), &bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_not_open(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mine = Secret::from_bytes([1; 32]);
            prop_assert!(key(&mine, 1).open_any(&name(1), &bytes).is_err());
        }
    }
}
