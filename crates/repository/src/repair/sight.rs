//! One name as a region shows it.
//!
//! Invariant: an object is called damaged only after two reads that both found it so; a region that does not answer says
//! nothing about it.

use breakwater_core::{SessionId, SourceUid};
use bytes::Bytes;

use super::Side;
use crate::check::bytes::ObjectBytes;
use crate::check::packs::{self, Depth};
use crate::check::{CheckError, record};
use crate::format::ObjectName;
use crate::frames::FrameReader;
use crate::region::{self, READ_DEADLINE, Region, within};
use crate::regions::merge::Row;
use crate::repository::Repository;

/// What a region shows under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// What was written, as far as it was read.
    Whole,
    /// Something else, and what.
    Damaged(String),
    /// Nothing.
    Missing,
    /// No answer, or none that can be used.
    Silent(String),
}

/// What one region shows.
#[derive(Debug)]
pub(crate) struct Sighted {
    /// The region's place among the sides.
    pub(crate) side: usize,
    pub(crate) sight: Sight,
}

/// Looks at `name` in `region`, twice where it seems damaged.
pub(crate) async fn look(
    repository: &Repository,
    region: &Region,
    name: &ObjectName,
    frames: Option<&FrameReader>,
    read_data: bool,
) -> Sight {
    match once(repository, region, name, frames, read_data).await {
        Sight::Damaged(_) => once(repository, region, name, frames, read_data).await,
        sight => sight,
    }
}

async fn once(
    repository: &Repository,
    region: &Region,
    name: &ObjectName,
    frames: Option<&FrameReader>,
    read_data: bool,
) -> Sight {
    let key = name.to_string();
    match frames {
        Some(frames) if packs::is_pack(name) => {
            let whole = read_data || matches!(name, ObjectName::StructurePack(..));
            let depth = if whole { Depth::Whole } else { Depth::Ends };
            match packs::examine(frames, name, &ObjectBytes::Region { region, key: &key }, depth).await {
                Ok(examined) => match examined.damage() {
                    Some(damage) => Sight::Damaged(damage),
                    None => Sight::Whole,
                },
                Err(error) => judged(&error),
            }
        }
        _ => match within(READ_DEADLINE, region.place().get(&key)).await {
            Ok(bytes) => match record::read(repository, name, &bytes, region.id()) {
                Ok(_) => Sight::Whole,
                Err(error) => judged(&error),
            },
            Err(trouble) => judged(&CheckError::Trouble(trouble)),
        },
    }
}

/// What seems of a newer format counts as damaged: equal names hold equal bytes, so where another region's are understood,
/// these are not what was written; and where none are, nothing is done.
fn judged(error: &CheckError) -> Sight {
    if error.is_gone() {
        Sight::Missing
    } else if error.is_silence() {
        Sight::Silent(error.to_string())
    } else {
        Sight::Damaged(error.to_string())
    }
}

/// Whether `bytes` are what was written under `name`, every byte of them.
pub(crate) async fn prove(
    repository: &Repository,
    name: &ObjectName,
    frames: Option<&FrameReader>,
    bytes: &Bytes,
) -> Result<(), String> {
    match frames {
        Some(frames) if packs::is_pack(name) => {
            let examined = packs::examine(frames, name, &ObjectBytes::Held(bytes), Depth::Whole).await;
            match examined.map(|examined| examined.damage()) {
                Ok(None) => Ok(()),
                Ok(Some(damage)) => Err(damage),
                Err(error) => Err(error.to_string()),
            }
        }
        _ => record::read(repository, name, bytes, None).map(drop).map_err(|error| error.to_string()),
    }
}

/// Whether a tail that some region lacks is covered by a segment, or a key record replaced by a newer one of its session: then
/// it was deleted, not lost.
pub(super) async fn is_superseded(
    repository: &Repository,
    name: &ObjectName,
    row: &Row,
    sighted: &[Sighted],
    sides: &[Side],
) -> bool {
    let (source, writer, range) = match name {
        ObjectName::SessionKeys(source, session) => {
            return is_replaced(repository, (*source, *session), 0, sighted, sides).await;
        }
        ObjectName::ResealedKeys(source, session, epoch) => {
            return is_replaced(repository, (*source, *session), *epoch, sighted, sides).await;
        }
        ObjectName::Tail(source, generation, session, range) => (*source, (*generation, *session), *range),
        ObjectName::IdleTail(source, generation, session, mark) => {
            let range = crate::format::names::LogRange { branch: mark.branch, start: mark.offset, end: mark.offset };
            (*source, (*generation, *session), range)
        }
        _ => return false,
    };
    let only_missing = sighted.iter().all(|one| matches!(one.sight, Sight::Whole | Sight::Missing));
    if !only_missing || row.holders.is_empty() {
        return false;
    }
    for side in sides.iter().filter(|side| side.usable) {
        let Ok(names) = side.region.names(&ObjectName::data_prefix(source, "log")).await else { continue };
        let covers = |key: &str| match ObjectName::parse(key) {
            Some(ObjectName::Segment(_, generation, session, segment)) => {
                let inside = segment.start <= range.start && range.end <= segment.end && range.start < segment.end;
                inside && segment.branch == range.branch && (generation, session) >= writer
            }
            _ => false,
        };
        if names.iter().any(|(key, _)| covers(key)) {
            return true;
        }
    }
    false
}

/// Whether the session has a whole key record of a newer epoch than `epoch`. A region that was away while sessions were sealed
/// again still holds the old one, which must not come back to the others.
async fn is_replaced(
    repository: &Repository,
    (source, session): (SourceUid, SessionId),
    epoch: u32,
    sighted: &[Sighted],
    sides: &[Side],
) -> bool {
    if !sighted.iter().all(|one| matches!(one.sight, Sight::Whole | Sight::Missing)) {
        return false;
    }
    let prefix = format!("{}{session}.", ObjectName::meta_prefix(source, "keys"));
    for side in sides.iter().filter(|side| side.usable) {
        let Ok(names) = side.region.names(&prefix).await else { continue };
        for (key, _) in names {
            let newer = match ObjectName::parse(&key) {
                Some(name @ ObjectName::ResealedKeys(_, _, other)) if other > epoch => name,
                _ => continue,
            };
            // What nobody proved may be anybody's.
            if let Ok(bytes) = region::get(side.region.place(), &newer).await
                && prove(repository, &newer, None, &bytes).await.is_ok()
            {
                return true;
            }
        }
    }
    false
}
