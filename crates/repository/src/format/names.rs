//! The names of objects. Every object of a repository has exactly one of these forms; what has none is not ours.

use std::fmt;

use breakwater_core::{DomainName, Generation, SessionId, SnapshotId, SourceUid, Uid};

use super::PackId;
use super::pack::KeyKind;

/// The name of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// `repo/descriptor`
    Descriptor,
    /// `repo/region`
    Region,
    /// `repo/domain/<domain>/<epoch>`
    Domain {
        /// The domain.
        domain: DomainName,
        /// The epoch of its keys.
        epoch: u32,
    },
    /// `repo/recipients/<n>`: the recipients as they are since change number `n`; the highest counts.
    Recipients(u32),
    /// `repo/audit/erased/<domain>`
    Erased(DomainName),
    /// `repo/audit/<id>`: proof of something that was done to the repository as a whole.
    Audit(Uid),
    /// `repo/verified/<domain>/<source>.<snapshot>.<session>.<run>-<no>`: packs of a snapshot that a recipient vouches for.
    Verified {
        /// The domain.
        domain: DomainName,
        /// The source of the snapshot and of the packs.
        source: SourceUid,
        /// The snapshot.
        snapshot: SnapshotId,
        /// The session that committed it.
        session: SessionId,
        /// The run that read them.
        run: SessionId,
        /// Which part of what it found.
        part: u32,
    },
    /// `meta/<source>/source`
    Source(SourceUid),
    /// `meta/<source>/leans/<other source>`
    Leaning(SourceUid, SourceUid),
    /// `meta/<source>/keys/<session>`
    SessionKeys(SourceUid, SessionId),
    /// `meta/<source>/keys/<session>.<epoch>`: the session secret, sealed again for a later epoch of the domain.
    ResealedKeys(SourceUid, SessionId, u32),
    /// `meta/<source>/open/<session>`
    Open(SourceUid, SessionId),
    /// `meta/<source>/snap/<snapshot>.<session>`
    Register(SourceUid, SnapshotId, SessionId),
    /// `meta/<source>/snap/<snapshot>.<session>.committed`
    Committed(SourceUid, SnapshotId, SessionId),
    /// `meta/<source>/snap/<snapshot>.<session>.deleted`: the session's tombstone.
    Tombstone(SourceUid, SnapshotId, SessionId),
    /// `meta/<source>/hold/<snapshot>.<id>`: why the snapshot must not be deleted.
    Hold {
        /// The source.
        source: SourceUid,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Distinguishes several holds on one snapshot.
        hold: Uid,
    },
    /// `meta/<source>/losses`: something is or was on record as lost.
    Losses(SourceUid),
    /// `meta/<source>/lost/<session>-<no>.<run>`: chunks of a pack that no region has whole.
    Lost {
        /// The source.
        source: SourceUid,
        /// The pack of content.
        pack: PackId,
        /// The repair that found it.
        run: SessionId,
    },
    /// `meta/<source>/moved/<data|meta>-<session>-<no>.<mover>`: where the frames of a pack are now.
    Moved {
        /// The source.
        source: SourceUid,
        /// Whether the pack is one of content or of structure, which are numbered apart.
        kind: KeyKind,
        /// The pack whose frames were moved.
        pack: PackId,
        /// The session that moved them.
        mover: SessionId,
    },
    /// `meta/<source>/gc/<run>`: what a run of the garbage collection is about to do.
    GcPlan(SourceUid, SessionId),
    /// `meta/<source>/gc/<run>.decided`: the register that decides whether what a run moved counts.
    GcDecision(SourceUid, SessionId),
    /// `meta/<source>/pack/<session>-<no>`
    StructurePack(SourceUid, PackId),
    /// `data/<source>/pack/<session>-<no>`
    ContentPack(SourceUid, PackId),
    /// `meta/<source>/stream/<generation>.<session>`
    StreamClaim(SourceUid, Generation, SessionId),
    /// `meta/<source>/over/<generation>.<session>`: another writer took over from this one.
    Over(SourceUid, Generation, SessionId),
    /// `data/<source>/log/<generation>.<session>/<branch>-<start>-<end>`
    Segment(SourceUid, Generation, SessionId, LogRange),
    /// `meta/<source>/tail/<generation>.<session>/<branch>-<start>-<end>`
    Tail(SourceUid, Generation, SessionId, LogRange),
    /// `meta/<source>/tail/<generation>.<session>/<branch>-<offset>-<offset>-<clock>`
    IdleTail(SourceUid, Generation, SessionId, IdleMark),
    /// `meta/<source>/history/<branch>`
    History(SourceUid, u32),
}

/// Where an idle source stood at a moment. The clock is in the name because many such moments have one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdleMark {
    /// The branch.
    pub branch: u32,
    /// The source's flush position.
    pub offset: u64,
    /// The source's clock, microseconds since the Unix epoch.
    pub clock: u64,
}

/// A piece of one branch of a log; the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogRange {
    /// The branch.
    pub branch: u32,
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte; never less than `start`.
    pub end: u64,
}

impl ObjectName {
    /// The name that `key` is, or `None` when it is none.
    pub fn parse(key: &str) -> Option<Self> {
        let parts: Vec<&str> = key.split('/').collect();
        match *parts.as_slice() {
            ["repo", "descriptor"] => Some(ObjectName::Descriptor),
            ["repo", "region"] => Some(ObjectName::Region),
            ["repo", "domain", domain, epoch] => {
                Some(ObjectName::Domain { domain: DomainName::new(domain).ok()?, epoch: decimal(epoch)? })
            }
            ["repo", "audit", "erased", domain] => Some(ObjectName::Erased(DomainName::new(domain).ok()?)),
            ["repo", "recipients", number] => Some(ObjectName::Recipients(decimal(number)?)),
            ["repo", "audit", audit] => Some(ObjectName::Audit(id(audit)?)),
            ["repo", "verified", domain, name] => verified(DomainName::new(domain).ok()?, name),
            ["meta", source, "source"] => Some(ObjectName::Source(id(source)?)),
            ["meta", source, "leans", other] => Some(ObjectName::Leaning(id(source)?, id(other)?)),
            ["meta", source, "keys", keys] => match keys.split_once('.') {
                None => Some(ObjectName::SessionKeys(id(source)?, id(keys)?)),
                Some((session, epoch)) => Some(ObjectName::ResealedKeys(id(source)?, id(session)?, decimal(epoch)?)),
            },
            ["meta", source, "open", session] => Some(ObjectName::Open(id(source)?, id(session)?)),
            ["meta", source, "snap", register] => {
                let (snapshot, rest) = register.split_once('.')?;
                let (source, snapshot) = (id(source)?, id(snapshot)?);
                match rest.split_once('.') {
                    None => Some(ObjectName::Register(source, snapshot, id(rest)?)),
                    Some((session, "committed")) => Some(ObjectName::Committed(source, snapshot, id(session)?)),
                    Some((session, "deleted")) => Some(ObjectName::Tombstone(source, snapshot, id(session)?)),
                    Some(_) => None,
                }
            }
            ["meta", source, "moved", name] => {
                let (what, mover) = name.split_once('.')?;
                let (kind, name) = what.split_once('-')?;
                let kind = match kind {
                    "data" => KeyKind::Content,
                    "meta" => KeyKind::Structure,
                    _ => return None,
                };
                Some(ObjectName::Moved { source: id(source)?, kind, pack: pack(name)?, mover: id(mover)? })
            }
            ["meta", source, "hold", name] => {
                let (snapshot, hold) = name.split_once('.')?;
                Some(ObjectName::Hold { source: id(source)?, snapshot: id(snapshot)?, hold: id(hold)? })
            }
            ["meta", source, "losses"] => Some(ObjectName::Losses(id(source)?)),
            ["meta", source, "lost", name] => {
                let (what, run) = name.split_once('.')?;
                Some(ObjectName::Lost { source: id(source)?, pack: pack(what)?, run: id(run)? })
            }
            ["meta", source, "gc", name] => match name.split_once('.') {
                None => Some(ObjectName::GcPlan(id(source)?, id(name)?)),
                Some((run, "decided")) => Some(ObjectName::GcDecision(id(source)?, id(run)?)),
                Some(_) => None,
            },
            ["meta", source, "pack", name] => Some(ObjectName::StructurePack(id(source)?, pack(name)?)),
            ["data", source, "pack", name] => Some(ObjectName::ContentPack(id(source)?, pack(name)?)),
            ["meta", source, "stream", name] => {
                let (generation, session) = stream(name)?;
                Some(ObjectName::StreamClaim(id(source)?, generation, session))
            }
            ["meta", source, "over", name] => {
                let (generation, session) = stream(name)?;
                Some(ObjectName::Over(id(source)?, generation, session))
            }
            ["data", source, "log", name, piece] => {
                let (generation, session) = stream(name)?;
                Some(ObjectName::Segment(id(source)?, generation, session, range(piece)?))
            }
            ["meta", source, "tail", name, piece] => {
                let (generation, session) = stream(name)?;
                match idle(piece) {
                    Some(mark) => Some(ObjectName::IdleTail(id(source)?, generation, session, mark)),
                    None => Some(ObjectName::Tail(id(source)?, generation, session, range(piece)?)),
                }
            }
            ["meta", source, "history", branch] => Some(ObjectName::History(id(source)?, hex32(branch)?)),
            _ => None,
        }
    }

    /// The source that the object belongs to; `None` for those of the repository itself.
    pub fn source(&self) -> Option<SourceUid> {
        match self {
            ObjectName::Descriptor
            | ObjectName::Region
            | ObjectName::Domain { .. }
            | ObjectName::Recipients(_)
            | ObjectName::Erased(_)
            | ObjectName::Audit(_) => None,
            ObjectName::Verified { source, .. }
            | ObjectName::Source(source)
            | ObjectName::Leaning(source, _)
            | ObjectName::SessionKeys(source, _)
            | ObjectName::ResealedKeys(source, ..)
            | ObjectName::Open(source, _)
            | ObjectName::Register(source, ..)
            | ObjectName::Committed(source, ..)
            | ObjectName::Tombstone(source, ..)
            | ObjectName::Hold { source, .. }
            | ObjectName::Losses(source)
            | ObjectName::Lost { source, .. }
            | ObjectName::Moved { source, .. }
            | ObjectName::GcPlan(source, _)
            | ObjectName::GcDecision(source, _)
            | ObjectName::StructurePack(source, _)
            | ObjectName::ContentPack(source, _)
            | ObjectName::StreamClaim(source, ..)
            | ObjectName::Over(source, ..)
            | ObjectName::Segment(source, ..)
            | ObjectName::Tail(source, ..)
            | ObjectName::IdleTail(source, ..)
            | ObjectName::History(source, _) => Some(*source),
        }
    }

    /// The name of the pack `pack` of `source`.
    pub const fn of_pack(source: SourceUid, kind: KeyKind, pack: PackId) -> Self {
        match kind {
            KeyKind::Content => ObjectName::ContentPack(source, pack),
            KeyKind::Structure => ObjectName::StructurePack(source, pack),
        }
    }

    /// The prefix of the names of all records of what became of the pack `pack` of `source`.
    pub fn moved_prefix(source: SourceUid, kind: KeyKind, pack: PackId) -> String {
        format!("meta/{source}/moved/{}-{pack}.", word(kind))
    }

    /// The prefix of all that recipients vouch for in `domain`.
    pub fn verified_prefix(domain: &DomainName) -> String {
        format!("repo/verified/{domain}/")
    }

    /// The prefix of everything that `source` has under `meta/`, with the folder `folder` (`snap`, `open`, …).
    pub fn meta_prefix(source: SourceUid, folder: &str) -> String {
        format!("meta/{source}/{folder}/")
    }

    /// The prefix of everything that `source` has under `data/`, with the folder `folder` (`pack`, `log`).
    pub fn data_prefix(source: SourceUid, folder: &str) -> String {
        format!("data/{source}/{folder}/")
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectName::Descriptor => f.write_str("repo/descriptor"),
            ObjectName::Region => f.write_str("repo/region"),
            ObjectName::Domain { domain, epoch } => write!(f, "repo/domain/{domain}/{epoch}"),
            ObjectName::Erased(domain) => write!(f, "repo/audit/erased/{domain}"),
            ObjectName::Recipients(number) => write!(f, "repo/recipients/{number}"),
            ObjectName::Audit(audit) => write!(f, "repo/audit/{audit}"),
            ObjectName::Verified { domain, source, snapshot, session, run, part } => {
                write!(f, "repo/verified/{domain}/{source}.{snapshot}.{session}.{run}-{part:08x}")
            }
            ObjectName::Source(source) => write!(f, "meta/{source}/source"),
            ObjectName::Leaning(source, other) => write!(f, "meta/{source}/leans/{other}"),
            ObjectName::SessionKeys(source, session) => write!(f, "meta/{source}/keys/{session}"),
            ObjectName::ResealedKeys(source, session, epoch) => write!(f, "meta/{source}/keys/{session}.{epoch}"),
            ObjectName::Open(source, session) => write!(f, "meta/{source}/open/{session}"),
            ObjectName::Register(source, snapshot, session) => write!(f, "meta/{source}/snap/{snapshot}.{session}"),
            ObjectName::Committed(source, snapshot, session) => {
                write!(f, "meta/{source}/snap/{snapshot}.{session}.committed")
            }
            ObjectName::Tombstone(source, snapshot, session) => {
                write!(f, "meta/{source}/snap/{snapshot}.{session}.deleted")
            }
            ObjectName::Hold { source, snapshot, hold } => write!(f, "meta/{source}/hold/{snapshot}.{hold}"),
            ObjectName::Losses(source) => write!(f, "meta/{source}/losses"),
            ObjectName::Lost { source, pack, run } => write!(f, "meta/{source}/lost/{pack}.{run}"),
            ObjectName::Moved { source, kind, pack, mover } => {
                write!(f, "meta/{source}/moved/{}-{pack}.{mover}", word(*kind))
            }
            ObjectName::GcPlan(source, run) => write!(f, "meta/{source}/gc/{run}"),
            ObjectName::GcDecision(source, run) => write!(f, "meta/{source}/gc/{run}.decided"),
            ObjectName::StructurePack(source, pack) => write!(f, "meta/{source}/pack/{pack}"),
            ObjectName::ContentPack(source, pack) => write!(f, "data/{source}/pack/{pack}"),
            ObjectName::StreamClaim(source, generation, session) => {
                write!(f, "meta/{source}/stream/{generation}.{session}")
            }
            ObjectName::Over(source, generation, session) => write!(f, "meta/{source}/over/{generation}.{session}"),
            ObjectName::Segment(source, generation, session, range) => {
                write!(f, "data/{source}/log/{generation}.{session}/{range}")
            }
            ObjectName::Tail(source, generation, session, range) => {
                write!(f, "meta/{source}/tail/{generation}.{session}/{range}")
            }
            ObjectName::IdleTail(source, generation, session, mark) => {
                write!(f, "meta/{source}/tail/{generation}.{session}/{mark}")
            }
            ObjectName::History(source, branch) => write!(f, "meta/{source}/history/{branch:08x}"),
        }
    }
}

impl fmt::Display for LogRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:016x}-{:016x}", self.branch, self.start, self.end)
    }
}

impl fmt::Display for IdleMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IdleMark { branch, offset, clock } = self;
        write!(f, "{branch:08x}-{offset:016x}-{offset:016x}-{clock:016x}")
    }
}

/// The first part of the names of packs of this kind.
const fn word(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Content => "data",
        KeyKind::Structure => "meta",
    }
}

/// Exactly the digits that are written: other spellings of the same number are other names, and so not ours.
fn hex_digits(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn id<T: std::str::FromStr>(text: &str) -> Option<T> {
    if hex_digits(text, 32) { text.parse().ok() } else { None }
}

fn hex32(text: &str) -> Option<u32> {
    if hex_digits(text, 8) { u32::from_str_radix(text, 16).ok() } else { None }
}

fn hex64(text: &str) -> Option<u64> {
    if hex_digits(text, 16) { u64::from_str_radix(text, 16).ok() } else { None }
}

fn decimal(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn pack(text: &str) -> Option<PackId> {
    let (session, number) = text.split_once('-')?;
    Some(PackId { session: id(session)?, number: hex32(number)? })
}

fn verified(domain: DomainName, text: &str) -> Option<ObjectName> {
    let mut parts = text.split('.');
    let (source, snapshot) = (id(parts.next()?)?, id(parts.next()?)?);
    let (session, PackId { session: run, number: part }) = (id(parts.next()?)?, pack(parts.next()?)?);
    let name = ObjectName::Verified { domain, source, snapshot, session, run, part };
    parts.next().is_none().then_some(name)
}

fn stream(text: &str) -> Option<(Generation, SessionId)> {
    let (generation, session) = text.split_once('.')?;
    Some((Generation(hex32(generation)?), id(session)?))
}

fn range(text: &str) -> Option<LogRange> {
    let mut parts = text.split('-');
    let range = LogRange { branch: hex32(parts.next()?)?, start: hex64(parts.next()?)?, end: hex64(parts.next()?)? };
    (parts.next().is_none() && range.start <= range.end).then_some(range)
}

fn idle(text: &str) -> Option<IdleMark> {
    let (range_text, clock) = text.rsplit_once('-')?;
    let LogRange { branch, start, end } = range(range_text)?;
    let mark = IdleMark { branch, offset: start, clock: hex64(clock)? };
    (start == end).then_some(mark)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn all(a: [u8; 16], b: [u8; 16], n: u32, start: u64, end: u64) -> Vec<ObjectName> {
        let (source, session) = (SourceUid::from_bytes(a), SessionId::from_bytes(b));
        let snapshot = SnapshotId::from_bytes(b);
        let range = LogRange { branch: n, start: start.min(end), end: start.max(end) };
        let pack = PackId { session, number: n };
        vec![
            ObjectName::Descriptor,
            ObjectName::Region,
            ObjectName::Domain { domain: DomainName::new("default").unwrap(), epoch: n },
            ObjectName::Source(source),
            ObjectName::Leaning(source, SourceUid::from_bytes(b)),
            ObjectName::Verified {
                domain: DomainName::new("default").unwrap(),
                source,
                snapshot,
                session,
                run: SessionId::from_bytes(a),
                part: n,
            },
            ObjectName::Recipients(n),
            ObjectName::Erased(DomainName::new("default").unwrap()),
            ObjectName::SessionKeys(source, session),
            ObjectName::ResealedKeys(source, session, n),
            ObjectName::Open(source, session),
            ObjectName::Register(source, snapshot, session),
            ObjectName::Committed(source, snapshot, session),
            ObjectName::Audit(Uid(b)),
            ObjectName::Tombstone(source, snapshot, session),
            ObjectName::Hold { source, snapshot, hold: Uid(b) },
            ObjectName::Losses(source),
            ObjectName::Lost { source, pack, run: session },
            ObjectName::Moved { source, kind: KeyKind::Content, pack, mover: session },
            ObjectName::Moved { source, kind: KeyKind::Structure, pack, mover: session },
            ObjectName::GcPlan(source, session),
            ObjectName::GcDecision(source, session),
            ObjectName::StructurePack(source, pack),
            ObjectName::ContentPack(source, pack),
            ObjectName::StreamClaim(source, Generation(n), session),
            ObjectName::Over(source, Generation(n), session),
            ObjectName::Segment(source, Generation(n), session, range),
            ObjectName::Tail(source, Generation(n), session, range),
            ObjectName::IdleTail(source, Generation(n), session, IdleMark { branch: n, offset: start, clock: end }),
            ObjectName::History(source, n),
        ]
    }

    proptest! {
        #[test]
        fn names_parse_to_themselves(a: [u8; 16], b: [u8; 16], n: u32, start: u64, end: u64) {
            for name in all(a, b, n, start, end) {
                prop_assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
            }
        }

        #[test]
        fn what_parses_is_what_would_be_written(text in any::<String>(), part in "(meta|data|repo)/[0-9a-f./-]{0,80}") {
            for text in [text, part] {
                if let Some(name) = ObjectName::parse(&text) {
                    prop_assert_eq!(name.to_string(), text);
                }
            }
        }
    }

    #[test]
    fn near_misses_are_not_names() {
        for name in all([0xab; 16], [0xcd; 16], 10, 5, 7) {
            let text = name.to_string();
            // A domain may be called anything, so what ends with one is a name with a letter more.
            if !matches!(name, ObjectName::Erased(_)) {
                assert_eq!(ObjectName::parse(&format!("{text}x")), None, "{text}");
            }
            assert_eq!(ObjectName::parse(&format!("{text}/x")), None, "{text}");
            assert_eq!(ObjectName::parse(&text.to_uppercase()), None, "{text}");
        }
        let source = "ab".repeat(16);
        assert_eq!(ObjectName::parse(&format!("meta/{source}/history/1")), None);
        assert_eq!(ObjectName::parse("repo/domain/default/01"), None);
        let backwards = format!("data/{source}/log/00000001.{source}/00000001-0000000000000002-0000000000000001");
        assert_eq!(ObjectName::parse(&backwards), None);
    }
}
