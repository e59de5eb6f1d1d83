//! One segment or tail as an object: log bytes in frames, the transaction index, and a footer that says what it holds.

use breakwater_core::{Entropy, LogPosition, Timestamp};
use breakwater_crypto::{Secret, sha256};
use breakwater_storage::Payload;
use bytes::Bytes;

use super::StreamError;
use super::keys::{StreamKeys, salt};
use crate::format::log::{MarkKind, SegmentFooter, TransactionMark, chain, decode_marks, encode_marks};
use crate::format::names::LogRange;
use crate::format::pack::{
    Footer, FooterFrame, FrameContent, HEADER_LENGTH, KeyKind, PackKey, TRAILER_LENGTH, Trailer,
};
use crate::format::{Class, Codec, FormatError, ObjectName, PackId};
use crate::region::{READ_DEADLINE, within};
use crate::regions::RegionSet;

/// Log bytes in one frame.
const FRAME_BYTES: usize = 512 << 10;
/// Index lines in one frame.
const FRAME_MARKS: usize = 8192;
const LEVEL: i32 = 3;
/// Read at the end of an object at first; holds the footers of nearly all pieces.
const FOOTER_GUESS: u64 = 16 << 10;
/// Watermarks in one footer at most.
const MOST_WATERMARKS: usize = 64;

/// What is to become an object.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ObjectName,
    pub(super) pack: PackId,
    /// The log bytes in order.
    pub(super) bytes: Vec<Bytes>,
    pub(super) marks: Vec<TransactionMark>,
    pub(super) footer: SegmentFooter,
}

/// The footer of a piece: digest, chain, and the summary of its marks.
pub(super) fn describe(
    range: LogRange,
    digest: [u8; 32],
    previous: [u8; 32],
    watermarks: &[(Timestamp, u64)],
    marks: &[TransactionMark],
) -> SegmentFooter {
    let commits = marks.iter().filter(|mark| mark.kind == MarkKind::Commit);
    let times = commits.clone().map(|mark| mark.time);
    SegmentFooter {
        start: LogPosition::new(range.branch, range.start),
        end: LogPosition::new(range.branch, range.end),
        sha256: digest,
        previous,
        chain: chain(&previous, range, &digest),
        watermarks: thinned(watermarks),
        first_commit: times.clone().min(),
        last_commit: times.max(),
        commits: commits.count() as u64,
    }
}

/// At most [`MOST_WATERMARKS`] of them, the last one always.
fn thinned(watermarks: &[(Timestamp, u64)]) -> Vec<(Timestamp, u64)> {
    let step = watermarks.len().div_ceil(MOST_WATERMARKS).max(1);
    let mut kept = watermarks.iter().rev().step_by(step).copied().collect::<Vec<_>>();
    kept.reverse();
    kept
}

/// Compresses and seals a piece. Takes a moment: not for an async thread.
pub(super) fn seal(
    keys: &StreamKeys,
    secret: &Secret,
    draft: &Draft,
    entropy: &dyn Entropy,
) -> Result<Payload, FormatError> {
    let key = PackKey::new(keys.suite, KeyKind::Content, keys.repository, draft.pack, salt(entropy), secret);
    let mut parts = vec![Bytes::copy_from_slice(&key.header().encode())];
    let mut frames = Vec::new();
    let mut offset = HEADER_LENGTH;
    let mut put = |class: Class, plain: &[u8]| -> Result<(), FormatError> {
        let too_long = || FormatError::damaged("segment", "it would be too long");
        let (codec, payload) = Codec::encode(plain, LEVEL).map_err(|_| too_long())?;
        let id = keys.suite.chunk_id(&keys.id_key, class.byte(), plain);
        let number = u32::try_from(frames.len()).map_err(|_| too_long())?;
        let length = u32::try_from(plain.len()).map_err(|_| too_long())?;
        let content = FrameContent { class, codec, plain: length, id };
        let sealed = key.seal_frame(number, &content, &payload)?;
        let at = u32::try_from(offset).map_err(|_| too_long())?;
        let stored = u32::try_from(payload.len() + breakwater_crypto::suite::TAG_LENGTH).map_err(|_| too_long())?;
        frames.push(FooterFrame { id, origin: 0, number, offset: at, stored, plain: length, codec, class });
        offset += sealed.len();
        parts.push(Bytes::from(sealed));
        Ok(())
    };
    let mut buffer: Vec<u8> = Vec::with_capacity(FRAME_BYTES);
    for part in &draft.bytes {
        let mut rest = part.as_ref();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(FRAME_BYTES - buffer.len()));
            buffer.extend_from_slice(now);
            rest = later;
            if buffer.len() == FRAME_BYTES {
                put(Class::Log, &buffer)?;
                buffer.clear();
            }
        }
    }
    if !buffer.is_empty() {
        put(Class::Log, &buffer)?;
    }
    for marks in draft.marks.chunks(FRAME_MARKS) {
        put(Class::LogIndex, &encode_marks(marks))?;
    }
    let footer = Footer { origins: vec![key.origin()], frames, json: draft.footer.encode() };
    let end = offset as u64;
    let sealed = footer.seal(keys.suite, &keys.structure, salt(entropy), keys.repository, &draft.name, end)?;
    parts.push(Bytes::from(sealed.bytes));
    Ok(Payload::from(parts))
}

/// What the end of an object says of it.
#[derive(Clone, Debug)]
pub(crate) struct PieceFooter {
    pack: Footer,
    /// What it holds.
    pub(crate) log: SegmentFooter,
}

impl PieceFooter {
    /// Reads the end of the object `name` from the first region where it can be used.
    pub(crate) async fn load(regions: &RegionSet, keys: &StreamKeys, name: &str) -> Result<PieceFooter, StreamError> {
        let (mut tail, size) = regions.get_tail(name, FOOTER_GUESS).await?;
        let first = match Trailer::decode(&tail, size).map_err(StreamError::format(&name)) {
            Ok(trailer) => {
                let wanted = u64::from(trailer.length) + TRAILER_LENGTH as u64;
                if wanted > tail.len() as u64 {
                    tail = regions.get_tail(name, wanted).await?.0;
                }
                match PieceFooter::decode(keys, name, &tail, size) {
                    Ok(footer) => return Ok(footer),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        // Damage in one region is no answer while another one has the object whole.
        for handle in regions.handles() {
            let Ok(object) = within(READ_DEADLINE, handle.storage.get(name)).await else { continue };
            if let Ok(footer) = PieceFooter::decode(keys, name, &object, object.len() as u64) {
                tracing::warn!(object = name, region = %handle.name, "damaged in another region, taken from this one");
                return Ok(footer);
            }
        }
        Err(first)
    }

    /// Reads the footer at the end of `tail`, the last bytes of an object of `size` bytes.
    fn decode(keys: &StreamKeys, name: &str, tail: &[u8], size: u64) -> Result<PieceFooter, StreamError> {
        let fail = StreamError::format(&name);
        let parsed = || -> Result<PieceFooter, FormatError> {
            let trailer = Trailer::decode(tail, size)?;
            let object = ObjectName::parse(name).ok_or(FormatError::NotThis { what: "name of a log piece" })?;
            let footer_at = tail.len().checked_sub(TRAILER_LENGTH + trailer.length as usize);
            let sealed = footer_at.and_then(|at| tail.get(at..tail.len() - TRAILER_LENGTH)).unwrap_or_default();
            let pack = Footer::open(keys.suite, &keys.structure, keys.repository, &object, &trailer, sealed)?;
            let log = SegmentFooter::decode(&pack.json)?;
            let named = match object {
                ObjectName::Segment(_, _, _, range) | ObjectName::Tail(_, _, _, range) => range,
                ObjectName::IdleTail(_, _, _, mark) => {
                    LogRange { branch: mark.branch, start: mark.offset, end: mark.offset }
                }
                _ => return Err(FormatError::NotThis { what: "name of a log piece" }),
            };
            if named != log.range() {
                return Err(FormatError::damaged("segment footer", "it tells of another range than its name"));
            }
            Ok(PieceFooter { pack, log })
        };
        parsed().map_err(fail)
    }

    /// The log bytes of the object, whose whole content is `object`, and its transaction index.
    pub(crate) fn open(
        &self,
        keys: &StreamKeys,
        secret: &Secret,
        object: &[u8],
    ) -> Result<(Vec<u8>, Vec<TransactionMark>), FormatError> {
        let (mut log, mut marks) = (Vec::new(), Vec::new());
        for frame in &self.pack.frames {
            let plain = self.open_frame(keys, secret, frame, object)?;
            match frame.class {
                Class::Log => log.extend_from_slice(&plain),
                Class::LogIndex => marks.extend(decode_marks(&plain)?),
                _ => {}
            }
        }
        let length = self.log.end.offset - self.log.start.offset;
        if log.len() as u64 != length || sha256(&log) != self.log.sha256 {
            return Err(FormatError::WrongContent { what: "segment" });
        }
        Ok((log, marks))
    }

    fn open_frame(
        &self,
        keys: &StreamKeys,
        secret: &Secret,
        frame: &FooterFrame,
        object: &[u8],
    ) -> Result<Vec<u8>, FormatError> {
        let missing = || FormatError::damaged("segment", "a frame is missing");
        let origin = self.pack.origins.get(frame.origin as usize).ok_or_else(missing)?;
        let key = PackKey::open(origin.header(keys.repository), secret)?;
        let location = frame.location(origin.pack);
        let range = location.range();
        let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
        let bytes = start.ok().zip(end.ok()).and_then(|(start, end)| object.get(start..end)).ok_or_else(missing)?;
        let plain = key.open_frame(frame.class, &location, bytes)?;
        if keys.suite.chunk_id(&keys.id_key, frame.class.byte(), &plain) != frame.id {
            return Err(FormatError::WrongContent { what: "frame" });
        }
        Ok(plain)
    }

    /// The transaction index alone: reads only the frames that hold it.
    pub(crate) async fn marks(
        &self,
        regions: &RegionSet,
        keys: &StreamKeys,
        secret: &Secret,
        name: &str,
    ) -> Result<Vec<TransactionMark>, StreamError> {
        let mut marks = Vec::new();
        for frame in self.pack.frames.iter().filter(|frame| frame.class == Class::LogIndex) {
            let Some(origin) = self.pack.origins.get(frame.origin as usize) else { continue };
            let location = frame.location(origin.pack);
            let bytes = regions.get_range(name, location.range()).await?;
            let open = || {
                let key = PackKey::open(origin.header(keys.repository), secret)?;
                decode_marks(&key.open_frame(Class::LogIndex, &location, &bytes)?)
            };
            marks.extend(open().map_err(StreamError::format(&name))?);
        }
        Ok(marks)
    }
}
