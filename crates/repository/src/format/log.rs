//! Streams on disk: the claim of a generation, the footer of a segment or tail, and the transaction index.

use breakwater_core::{Generation, LogPosition, SessionId, SourceUid, Timestamp};
use breakwater_crypto::{Suite, derive, sha256};
use serde::{Deserialize, Serialize};

use super::names::LogRange;
use super::record::{RecordKey, RecordKind, read_json};
use super::{FormatError, ObjectName};

/// The claim of a stream's generation by one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamClaim {
    /// The generation.
    pub generation: Generation,
    /// The session that writes it.
    pub session: SessionId,
    /// Where it continues another one; none for the first.
    pub continues: Option<Continues>,
    /// The engine's own facts (PostgreSQL: system id, segment size, version).
    pub facts: serde_json::Value,
    /// When it was claimed.
    pub at: Timestamp,
}

/// That a writer is over: another one has claimed the stream after it. Says nothing by itself, and has the same bytes whoever writes it; the claims
/// tell who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// The generation.
    pub generation: Generation,
    /// The session that wrote it.
    pub session: SessionId,
}

impl Over {
    /// The object that says so of a writer of `source`.
    pub const fn name(&self, source: SourceUid) -> ObjectName {
        ObjectName::Over(source, self.generation, self.session)
    }

    /// Its bytes as the object `name`. As with tombstones, the salt follows from what is sealed.
    pub fn seal(&self, suite: Suite, key: &RecordKey<'_>, name: &ObjectName) -> Result<Vec<u8>, FormatError> {
        let json = serde_json::to_vec(self).map_err(|source| FormatError::Json { what: "over", source })?;
        let salt = derive(key.structure, "over", &[&[suite.byte()], name.to_string().as_bytes(), &[0], &json]);
        Ok(key.seal_json(suite, RecordKind::Over, *salt.expose(), name, &json))
    }
}

/// The end of an older generation at which a newer one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continues {
    /// The older generation.
    pub generation: Generation,
    /// Its session.
    pub session: SessionId,
    /// The position from which the newer one counts.
    pub position: LogPosition,
    /// The chain value of the older one at that position.
    #[serde(with = "hex::serde")]
    pub chain: [u8; 32],
}

/// What the footer of a segment or tail says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFooter {
    /// The first byte.
    pub start: LogPosition,
    /// After the last byte; on the same branch as `start`.
    pub end: LogPosition,
    /// SHA-256 of the log bytes.
    #[serde(with = "hex::serde")]
    pub sha256: [u8; 32],
    /// The chain value before it.
    #[serde(with = "hex::serde")]
    pub previous: [u8; 32],
    /// The chain value after it.
    #[serde(with = "hex::serde")]
    pub chain: [u8; 32],
    /// Everything committed at the source up to the clock lies before the offset. Ascending.
    pub watermarks: Vec<(Timestamp, u64)>,
    /// Time of the first commit in it.
    pub first_commit: Option<Timestamp>,
    /// Time of the last commit in it.
    pub last_commit: Option<Timestamp>,
    /// How many commits it holds.
    pub commits: u64,
}

impl SegmentFooter {
    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a segment footer has text keys only")
    }

    /// Reads the JSON text; refuses one whose chain value does not follow from its fields.
    pub fn decode(json: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "segment footer";
        let footer: SegmentFooter = read_json(WHAT, json)?;
        if footer.start.branch != footer.end.branch || footer.start.offset > footer.end.offset {
            return Err(FormatError::damaged(WHAT, "its end is not after its start on one branch"));
        }
        if footer.chain != chain(&footer.previous, footer.range(), &footer.sha256) {
            return Err(FormatError::damaged(WHAT, "its chain value does not follow from its fields"));
        }
        Ok(footer)
    }

    /// The piece of log.
    pub const fn range(&self) -> LogRange {
        LogRange { branch: self.start.branch, start: self.start.offset, end: self.end.offset }
    }
}

/// The chain value after the piece `range`, whose bytes have the digest `sha256`.
pub fn chain(previous: &[u8; 32], range: LogRange, digest: &[u8; 32]) -> [u8; 32] {
    let mut bytes = previous.to_vec();
    bytes.extend_from_slice(&range.branch.to_be_bytes());
    bytes.extend_from_slice(&range.start.to_be_bytes());
    bytes.extend_from_slice(&range.end.to_be_bytes());
    bytes.extend_from_slice(digest);
    sha256(&bytes)
}

/// What a mark of the transaction index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkKind {
    /// A commit.
    #[serde(rename = "c")]
    Commit,
    /// A rollback.
    #[serde(rename = "a")]
    Abort,
    /// A named restore point.
    #[serde(rename = "p")]
    RestorePoint,
}

/// One line of the transaction index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionMark {
    /// What happened.
    #[serde(rename = "k")]
    pub kind: MarkKind,
    /// When, on the source's clock.
    #[serde(rename = "t")]
    pub time: Timestamp,
    /// The transaction; 0 for restore points.
    #[serde(rename = "x")]
    pub xid: u64,
    /// Where its record begins.
    #[serde(rename = "s")]
    pub start: u64,
    /// Where its record ends: a replay up to here includes it.
    #[serde(rename = "e")]
    pub end: u64,
    /// The name of a restore point.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The content of an index frame.
pub fn encode_marks(marks: &[TransactionMark]) -> Vec<u8> {
    let mut lines = Vec::new();
    for mark in marks {
        serde_json::to_writer(&mut lines, mark).expect("a mark has text keys only, and a Vec takes every write");
        lines.push(b'\n');
    }
    lines
}

/// The marks of an index frame, in log order.
pub fn decode_marks(content: &[u8]) -> Result<Vec<TransactionMark>, FormatError> {
    const WHAT: &str = "transaction index";
    let lines = match content.strip_suffix(b"\n") {
        Some(lines) => lines,
        None if content.is_empty() => return Ok(Vec::new()),
        None => return Err(FormatError::damaged(WHAT, "the last line has no end")),
    };
    lines.split(|byte| *byte == b'\n').map(|line| read_json(WHAT, line)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    use super::*;

    fn footer(start: u64, end: u64) -> SegmentFooter {
        let (previous, digest) = ([1; 32], [2; 32]);
        let (start, end) = (LogPosition::new(3, start), LogPosition::new(3, end));
        SegmentFooter {
            start,
            end,
            sha256: digest,
            previous,
            chain: chain(&previous, LogRange { branch: 3, start: start.offset, end: end.offset }, &digest),
            watermarks: vec![(Timestamp(5), end.offset)],
            first_commit: None,
            last_commit: Some(Timestamp(4)),
            commits: 1,
        }
    }

    #[test]
    fn a_footer_proves_its_place_in_the_chain() {
        let bytes = footer(16, 32).encode();
        assert_eq!(SegmentFooter::decode(&bytes).unwrap(), footer(16, 32));
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\"watermarks\":[[5,32]]"), "{text}");
        assert!(SegmentFooter::decode(text.replace("16", "17").as_bytes()).is_err());
        assert!(SegmentFooter::decode(footer(32, 16).encode().as_slice()).is_err());
        // SHA-256(previous ‖ branch ‖ start ‖ end ‖ digest), written out.
        let mut by_hand = vec![1; 32];
        by_hand.extend([0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 32]);
        by_hand.extend([2; 32]);
        assert_eq!(footer(16, 32).chain, sha256(&by_hand));
    }

    proptest! {
        #[test]
        fn indexes_round_trip(marks in prop::collection::vec(any::<(u8, i64, u64, u64, Option<String>)>().prop_map(|(kind, time, xid, at, name)| {
            let kind = [MarkKind::Commit, MarkKind::Abort, MarkKind::RestorePoint][usize::from(kind % 3)];
            TransactionMark { kind, time: Timestamp(time), xid, start: at, end: at.saturating_add(8), name }
        }), 0..20)) {
            prop_assert_eq!(decode_marks(&encode_marks(&marks)).unwrap(), marks);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode_marks(&bytes));
            drop(SegmentFooter::decode(&bytes));
        }
    }
}
