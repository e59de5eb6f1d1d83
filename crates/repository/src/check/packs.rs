//! Checking one pack, segment or tail by itself: header, footer, and if asked every frame.

use sha2::{Digest, Sha256};

use super::{CheckOptions, RegionReport};
use crate::error::{RepositoryError, Trouble};
use crate::format::log::SegmentFooter;
use crate::format::names::LogRange;
use crate::format::pack::{Footer, FooterFrame, HEADER_LENGTH, KeyKind, PackHeader};
use crate::format::{Class, FormatError, ObjectName, PackId};
use crate::frames::{FrameReader, open_header};
use crate::region::Region;
use crate::repository::Repository;

/// Frames that are opened at a time.
const BATCH_FRAMES: usize = 256;
const BATCH_BYTES: u64 = 8 << 20;

/// Checks the object `name`, which has the form of a pack.
pub(super) async fn check_pack(
    repository: &Repository,
    region: &Region,
    frames: &FrameReader,
    name: &ObjectName,
    options: &CheckOptions,
    report: &mut RegionReport,
) {
    let key = name.to_string();
    let footer = match repository.footer_of(region, name, &key).await {
        Ok((footer, _)) => footer,
        // A tail goes away once the segment that covers it is there.
        Err(trouble) if trouble.is_not_found() && is_tail(name) => return,
        Err(trouble) => return report.note_trouble(name, &trouble),
    };
    report.packs += 1;
    report.frames += footer.frames.len() as u64;
    let header = match repository.range_of(region, &key, 0..HEADER_LENGTH as u64).await {
        Ok(bytes) => bytes,
        Err(trouble) => return report.note_trouble(name, &trouble),
    };
    let (kind, pack) = match expected(name, &header) {
        Ok(expected) => expected,
        Err(error) => return report.note_trouble(name, &Trouble::Format(error)),
    };
    if let Err(error) = check_origins(&footer, pack) {
        return report.note_trouble(name, &Trouble::Format(error));
    }
    // Content is sealed under the session secret, which a writer's key does not open.
    if kind == KeyKind::Structure || repository.opens_content() {
        let base = match kind {
            KeyKind::Structure => frames.structure().clone(),
            KeyKind::Content => match frames.session_secret(pack.session).await {
                Ok(secret) => secret,
                Err(error) => return report.note(name, &error),
            },
        };
        if let Err(error) = open_header(repository, kind, pack, &base, &header) {
            return report.note_trouble(name, &Trouble::Format(error));
        }
    }
    let described = match check_log_footer(name, &footer) {
        Ok(described) => described,
        Err(error) => return report.note_trouble(name, &Trouble::Format(error)),
    };
    if !options.read_data {
        return;
    }
    let mut log = Sha256::new();
    for batch in batches(&footer.frames) {
        let Some(class) = batch.first().map(|frame| frame.class) else { continue };
        let locations: Vec<_> = batch.iter().map(|frame| frame.location(pack)).collect();
        match frames.read_named(name, kind, class, pack, &locations).await {
            Ok(chunks) => {
                report.frames_read += chunks.len() as u64;
                if described.is_some() && class == Class::Log {
                    chunks.iter().for_each(|chunk| log.update(chunk));
                }
            }
            Err(RepositoryError::NotFound { .. }) if is_tail(name) => return,
            Err(error) => return report.note(name, &error),
        }
    }
    let digest: [u8; 32] = log.finalize().into();
    if described.is_some_and(|described| digest != described.sha256) {
        report.find(name, "its log bytes are not those that its footer describes");
    }
}

const fn is_tail(name: &ObjectName) -> bool {
    matches!(name, ObjectName::Tail(..) | ObjectName::IdleTail(..))
}

/// What kind of pack the name says it is, and which one. Segments and tails take their number from the session's
/// sequence, so only the header tells it.
fn expected(name: &ObjectName, header: &[u8]) -> Result<(KeyKind, PackId), FormatError> {
    let header = PackHeader::decode(header)?;
    match name {
        ObjectName::StructurePack(_, pack) => Ok((KeyKind::Structure, *pack)),
        ObjectName::ContentPack(_, pack) => Ok((KeyKind::Content, *pack)),
        ObjectName::Segment(_, _, session, _)
        | ObjectName::Tail(_, _, session, _)
        | ObjectName::IdleTail(_, _, session, _)
            if header.pack.session == *session =>
        {
            Ok((KeyKind::Content, header.pack))
        }
        _ => Err(FormatError::damaged("pack header", "it is that of another session")),
    }
}

fn check_origins(footer: &Footer, pack: PackId) -> Result<(), FormatError> {
    if footer.origins.iter().any(|origin| origin.pack != pack) {
        let detail = "frames that were moved between packs".to_owned();
        return Err(FormatError::Newer { what: "pack footer", detail });
    }
    Ok(())
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

/// Frames of one class that follow each other, a few at a time.
fn batches(frames: &[FooterFrame]) -> Vec<&[FooterFrame]> {
    let mut batches = Vec::new();
    let mut rest = frames;
    while let Some(first) = rest.first() {
        let (mut count, mut bytes) = (0, 0);
        for frame in rest.iter().take(BATCH_FRAMES) {
            bytes += u64::from(frame.plain) + u64::from(frame.stored);
            if frame.class != first.class || (count > 0 && bytes > BATCH_BYTES) {
                break;
            }
            count += 1;
        }
        let (batch, after) = rest.split_at(count);
        batches.push(batch);
        rest = after;
    }
    batches
}
