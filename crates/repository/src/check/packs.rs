//! Examining one pack, segment or tail by itself: header, footer, and if asked every byte.
//!
//! Invariant: after a deep examination without a fault every byte of the object is known to be what was written: the header
//! by its checksum and commitment, the frames by their seals (without a recipient's key: checksums), footer and trailer by
//! theirs, and what lies between by being zeros.

use std::ops::Range;
use std::sync::Arc;

use breakwater_crypto::{Secret, sha256};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::bytes::ObjectBytes;
use super::report::CheckError;
use crate::error::{RepositoryError, Trouble};
use crate::format::log::SegmentFooter;
use crate::format::names::LogRange;
use crate::format::pack::frame::looks_whole;
use crate::format::pack::{
    FRAME_ALIGNMENT, Footer, FooterFrame, HEADER_LENGTH, KeyKind, Origin, PackHeader, PackKey, TRAILER_LENGTH, Trailer,
};
use crate::format::{Class, FormatError, ObjectName, PackId};
use crate::frames::{FrameReader, open_header};
use crate::repository::Repository;

/// Bytes that are read from the end at first.
const TAIL_GUESS: u64 = 64 << 10;
/// What is read and opened in one go: bytes on disk and after opening, and frames.
const WINDOW_BYTES: u64 = 8 << 20;
const WINDOW_FRAMES: usize = 512;

/// How far an examination goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Header, footer and trailer.
    Ends,
    /// Every byte.
    Whole,
}

/// A frame that cannot be used, and why.
#[derive(Debug)]
pub(crate) struct BadFrame {
    pub(crate) frame: FooterFrame,
    pub(crate) why: FormatError,
}

/// What was found in one object.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) footer: Footer,
    /// Where the footer begins.
    pub(crate) footer_at: u64,
    /// SHA-256 of the footer as it lies there.
    pub(crate) footer_hash: [u8; 32],
    /// Bytes that were read to examine the frames.
    pub(crate) bytes: u64,
    /// Frames that were proven.
    pub(crate) proven: u64,
    /// Frames that are damaged for good.
    pub(crate) bad: Vec<BadFrame>,
    /// What else is wrong.
    pub(crate) flaws: Vec<CheckError>,
}

impl Examined {
    /// What is wrong with the object itself, in one line: not with the way to it.
    pub(crate) fn damage(&self) -> Option<String> {
        let unsteady = |flaw: &CheckError| matches!(flaw, CheckError::Unsteady(_));
        if self.bad.is_empty() && self.flaws.iter().all(unsteady) { None } else { self.summary() }
    }

    /// All that is wrong in one line; none when nothing is.
    pub(crate) fn summary(&self) -> Option<String> {
        let mut parts: Vec<String> = self.flaws.iter().map(ToString::to_string).collect();
        if let Some(first) = self.bad.first() {
            let (bad, all) = (self.bad.len(), self.footer.frames.len());
            let why = breakwater_core::Chain(&first.why);
            parts.push(format!("{bad} of {all} frames are damaged, the first at offset {}: {why}", first.frame.offset));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Whether `name` has the form of a pack.
pub(crate) const fn is_pack(name: &ObjectName) -> bool {
    matches!(
        name,
        ObjectName::ContentPack(..)
            | ObjectName::StructurePack(..)
            | ObjectName::Segment(..)
            | ObjectName::Tail(..)
            | ObjectName::IdleTail(..)
    )
}

/// Examines the object `name`, which has the form of a pack. `frames` gives the keys. An error means that not even its ends
/// can be used, or that somebody did not answer.
pub(crate) async fn examine(
    frames: &FrameReader,
    name: &ObjectName,
    bytes: &ObjectBytes<'_>,
    depth: Depth,
) -> Result<Examined, CheckError> {
    let repository = frames.repository();
    let (trailer, footer, footer_hash) = open_footer(repository, name, bytes).await?;
    let header = bytes.range(0..HEADER_LENGTH as u64).await?;
    let (kind, pack) = expected(name, &header)?;
    let described = check_log_footer(name, &footer)?;
    let keys = Keys::open(frames, kind, pack, &header, &footer).await?;
    let mut examined =
        Examined { footer, footer_at: trailer.offset, footer_hash, bytes: HEADER_LENGTH as u64, ..Examined::default() };
    if depth == Depth::Ends {
        return Ok(examined);
    }
    let mut reading = Reading {
        repository,
        id_key: repository.id_key_of(frames.source()).clone(),
        pack,
        keys: Arc::new(keys),
        object: bytes,
        log: described.is_some().then(Sha256::new),
        at: HEADER_LENGTH as u64,
    };
    let mut order = examined.footer.frames.clone();
    order.sort_by_key(|frame| frame.offset);
    for window in windows(&order) {
        reading.window(window, &mut examined).await?;
    }
    reading.zeros(trailer.offset, &mut examined).await?;
    if let (Some(log), Some(described)) = (reading.log, described)
        && examined.bad.is_empty()
        && repository.opens_content()
    {
        let digest: [u8; 32] = log.finalize().into();
        if digest != described.sha256 {
            let why = FormatError::damaged("segment", "its log bytes are not those that its footer describes");
            examined.flaws.push(why.into());
        }
    }
    Ok(examined)
}

/// Trailer and footer of the object, and the hash of the footer as it lies there.
async fn open_footer(
    repository: &Repository,
    name: &ObjectName,
    bytes: &ObjectBytes<'_>,
) -> Result<(Trailer, Footer, [u8; 32]), CheckError> {
    let (tail, size) = bytes.tail(TAIL_GUESS).await?;
    let trailer = Trailer::decode(&tail, size)?;
    let wanted = u64::from(trailer.length) + TRAILER_LENGTH as u64;
    let tail = if wanted > tail.len() as u64 { bytes.range(trailer.offset..size).await? } else { tail };
    let end = tail.len().saturating_sub(TRAILER_LENGTH);
    let sealed = tail.get(end.saturating_sub(trailer.length as usize)..end).unwrap_or_default();
    let source = name.source().ok_or_else(|| Trouble::Unusable(format!("`{name}` is not the name of a pack")))?;
    let structure = repository.structure_key(source);
    let footer = Footer::open(repository.suite(), &structure, repository.id(), name, &trailer, sealed)?;
    Ok((trailer, footer, sha256(sealed)))
}

/// The keys of the packs that the frames come from, by the footer's order; none where only a recipient has it.
struct Keys(Vec<Option<PackKey>>);

impl Keys {
    async fn open(
        frames: &FrameReader,
        kind: KeyKind,
        pack: PackId,
        header: &Bytes,
        footer: &Footer,
    ) -> Result<Keys, CheckError> {
        let repository = frames.repository();
        let opens = |kind: KeyKind| kind == KeyKind::Structure || repository.opens_content();
        // A pack of moved frames has a header of its own, under which nothing may be sealed.
        let own = footer.frames.is_empty() || footer.origins.iter().any(|origin| origin.pack == pack);
        if own && opens(kind) {
            let base = secret(frames, kind, pack).await?;
            open_header(repository, kind, pack, &base, header)?;
        }
        let mut keys = Vec::with_capacity(footer.origins.len());
        for origin in &footer.origins {
            keys.push(match opens(origin.key_kind) {
                true => Some(Self::of_origin(frames, origin).await?),
                false => None,
            });
        }
        Ok(Keys(keys))
    }

    async fn of_origin(frames: &FrameReader, origin: &Origin) -> Result<PackKey, CheckError> {
        let base = secret(frames, origin.key_kind, origin.pack).await?;
        Ok(PackKey::open(origin.header(frames.repository().id()), &base)?)
    }
}

async fn secret(frames: &FrameReader, kind: KeyKind, pack: PackId) -> Result<Secret, RepositoryError> {
    match kind {
        KeyKind::Structure => Ok(frames.structure().clone()),
        KeyKind::Content => frames.session_secret(pack.session).await,
    }
}

/// Reads a pack from its header to its footer.
struct Reading<'a> {
    repository: &'a Repository,
    id_key: Secret,
    pack: PackId,
    keys: Arc<Keys>,
    object: &'a ObjectBytes<'a>,
    /// Takes the log bytes of a segment or tail.
    log: Option<Sha256>,
    /// What lies before is examined.
    at: u64,
}

/// What became of one frame: its chunk, or nothing where only its checksums could be compared.
type Opened = Result<Option<Vec<u8>>, FormatError>;

impl Reading<'_> {
    /// Examines the frames of `window` and what lies before each of them.
    async fn window(&mut self, window: &[FooterFrame], examined: &mut Examined) -> Result<(), CheckError> {
        let Some((first, last)) = window.first().zip(window.last()) else { return Ok(()) };
        if u64::from(first.offset) > self.at {
            self.zeros(u64::from(first.offset), examined).await?;
        }
        let end = end_of(last).min(examined.footer_at);
        let range = self.at.min(u64::from(first.offset))..end;
        let bytes = self.object.range(range.clone()).await?;
        examined.bytes += bytes.len() as u64;
        let mut at = self.at;
        for frame in window {
            let (start, stop) = (u64::from(frame.offset), frame.location(self.pack).range().end);
            if start < at {
                let why = FormatError::damaged("pack footer", "two frames overlap");
                examined.bad.push(BadFrame { frame: *frame, why });
            }
            self.expect_zeros(part(&bytes, &range, at..start), at, examined);
            let padded = end_of(frame).min(examined.footer_at);
            self.expect_zeros(part(&bytes, &range, stop..padded), stop, examined);
            at = at.max(padded);
        }
        self.at = at;
        for (frame, opened) in self.open(window, bytes, &range).await {
            let opened = match opened {
                Ok(chunk) => Ok(chunk),
                Err(first) => self.again(&frame, first, examined).await?,
            };
            match opened {
                Ok(chunk) => {
                    examined.proven += u64::from(chunk.is_some());
                    if let (Some(log), Class::Log, Some(chunk)) = (&mut self.log, frame.class, chunk) {
                        log.update(&chunk);
                    }
                }
                Err(why) => examined.bad.push(BadFrame { frame, why }),
            }
        }
        Ok(())
    }

    /// Reads a damaged frame once more: what is whole the second time was damaged on the way.
    async fn again(
        &self,
        frame: &FooterFrame,
        first: FormatError,
        examined: &mut Examined,
    ) -> Result<Opened, CheckError> {
        let range = frame.location(self.pack).range();
        let bytes = self.object.range(range.clone()).await?;
        let second = self.open(std::slice::from_ref(frame), bytes, &range).await.pop().map(|(_, opened)| opened);
        Ok(match second {
            Some(Ok(chunk)) => {
                examined.flaws.push(CheckError::Unsteady(breakwater_core::Chain(&first).to_string()));
                Ok(chunk)
            }
            Some(Err(second)) => Err(second),
            None => Err(first),
        })
    }

    async fn open(&self, window: &[FooterFrame], bytes: Bytes, range: &Range<u64>) -> Vec<(FooterFrame, Opened)> {
        let (keys, pack) = (Arc::clone(&self.keys), self.pack);
        let (suite, id_key) = (self.repository.suite(), self.id_key.clone());
        let (window, range) = (window.to_vec(), range.clone());
        let large = bytes.len() > 64 << 10;
        let open = move || {
            let one = |frame: FooterFrame| {
                let location = frame.location(pack);
                let sealed = part(&bytes, &range, location.range());
                let Some(key) = keys.0.get(frame.origin as usize).and_then(Option::as_ref) else {
                    let whole = looks_whole(sealed, frame.stored);
                    let damaged = || FormatError::damaged("frame", "its checksum is wrong");
                    return (frame, if whole { Ok(None) } else { Err(damaged()) });
                };
                let opened = key.open_frame(frame.class, &location, sealed).and_then(|chunk| {
                    match suite.chunk_id(&id_key, frame.class.byte(), &chunk) == frame.id {
                        true => Ok(Some(chunk)),
                        false => Err(FormatError::WrongContent { what: "chunk" }),
                    }
                });
                (frame, opened)
            };
            window.into_iter().map(one).collect::<Vec<_>>()
        };
        if !large {
            return open();
        }
        tokio::task::spawn_blocking(open).await.unwrap_or_default()
    }

    /// Everything from here to `end` must be zeros.
    async fn zeros(&mut self, end: u64, examined: &mut Examined) -> Result<(), CheckError> {
        while self.at < end {
            let stop = end.min(self.at + WINDOW_BYTES);
            let bytes = self.object.range(self.at..stop).await?;
            examined.bytes += bytes.len() as u64;
            self.expect_zeros(&bytes, self.at, examined);
            self.at = stop;
        }
        Ok(())
    }

    fn expect_zeros(&self, bytes: &[u8], start: u64, examined: &mut Examined) {
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            let detail =
                format!("the padding at offset {} is not zeros; the frames are not touched by that", start + at as u64);
            examined.flaws.push(FormatError::damaged("pack", detail).into());
        }
    }
}

fn end_of(frame: &FooterFrame) -> u64 {
    let end = u64::from(frame.offset) + crate::format::pack::FRAME_HEAD as u64 + u64::from(frame.stored);
    end.next_multiple_of(FRAME_ALIGNMENT as u64)
}

/// The bytes of `wanted` out of those of `range`; fewer where they are not there.
fn part<'a>(bytes: &'a [u8], range: &Range<u64>, wanted: Range<u64>) -> &'a [u8] {
    let place = |offset: u64| usize::try_from(offset.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let (start, end) = (place(wanted.start), place(wanted.end).min(bytes.len()));
    bytes.get(start..end).unwrap_or_default()
}

/// Frames that follow each other, a few at a time.
fn windows(frames: &[FooterFrame]) -> Vec<&[FooterFrame]> {
    let mut windows = Vec::new();
    let mut rest = frames;
    while !rest.is_empty() {
        let (mut count, mut bytes) = (0, 0);
        for frame in rest.iter().take(WINDOW_FRAMES) {
            bytes += u64::from(frame.plain) + u64::from(frame.stored);
            if count > 0 && bytes > WINDOW_BYTES {
                break;
            }
            count += 1;
        }
        let (window, after) = rest.split_at(count);
        windows.push(window);
        rest = after;
    }
    windows
}

/// What kind of pack the name says it is, and which one. Segments and tails take their number from the session's
/// sequence, so only the header tells it.
pub(crate) fn expected(name: &ObjectName, header: &[u8]) -> Result<(KeyKind, PackId), FormatError> {
    let header = PackHeader::decode(header)?;
    let (kind, pack) = match name {
        ObjectName::StructurePack(_, pack) => (KeyKind::Structure, *pack),
        ObjectName::ContentPack(_, pack) => (KeyKind::Content, *pack),
        ObjectName::Segment(_, _, session, _)
        | ObjectName::Tail(_, _, session, _)
        | ObjectName::IdleTail(_, _, session, _)
            if header.pack.session == *session =>
        {
            (KeyKind::Content, header.pack)
        }
        _ => return Err(FormatError::damaged("pack header", "it is that of another session")),
    };
    if (header.pack, header.key_kind) != (pack, kind) {
        return Err(FormatError::damaged("pack header", "it is that of another pack"));
    }
    Ok((kind, pack))
}

/// The footer of a segment or tail must describe the piece that its name names.
fn check_log_footer(name: &ObjectName, footer: &Footer) -> Result<Option<SegmentFooter>, FormatError> {
    let range = match name {
        ObjectName::Segment(_, _, _, range) | ObjectName::Tail(_, _, _, range) => *range,
        ObjectName::IdleTail(_, _, _, mark) => LogRange { branch: mark.branch, start: mark.offset, end: mark.offset },
        _ => return Ok(None),
    };
    let described = SegmentFooter::decode(&footer.json)?;
    if described.range() != range {
        return Err(FormatError::damaged("segment footer", "it describes another piece than its name"));
    }
    Ok(Some(described))
}
