//! The chunks of other sources of the domain that a restorer vouches for, so that what hosts have in common is stored once.
//!
//! Invariant: only what the session has named when it began is learned. What cannot be read costs room in the repository,
//! never the backup.

use breakwater_core::Chain;
use breakwater_repository::format::leaning::LeanedOn;
use breakwater_repository::verified::VerifiedSet;
use breakwater_repository::{BackupSession, FrameReader, RepositoryError};

use super::known::{Known, Whose, chunk};

/// Packs whose footers one backup reads of other sources: a terabyte of content. The newest sets come first.
const PACKS_MAX: usize = 16 << 10;

/// Makes known what may be leaned on of `sets`, and tells `frames` where it lies.
pub(crate) async fn teach(session: &BackupSession, sets: &[VerifiedSet], frames: &FrameReader, known: &Known) {
    let mut left = PACKS_MAX;
    for set in sets.iter().filter(|set| session.intent().leans.contains(&set.lean)) {
        match teach_one(session, set, known, &mut left).await {
            Ok(leaned_on) => frames.lean_on(&[leaned_on]),
            Err(error) => {
                tracing::warn!(source = %set.lean.source, error = %Chain(&error), "nothing of another source is used again");
            }
        }
    }
}

async fn teach_one(
    session: &BackupSession,
    set: &VerifiedSet,
    known: &Known,
    left: &mut usize,
) -> Result<LeanedOn, RepositoryError> {
    let mut leaned_on = LeanedOn { source: set.lean.source, sessions: Vec::new() };
    let Some(mut chunks) = session.repository().leanable(set).await? else { return Ok(leaned_on) };
    while *left > 0 {
        let pack = match chunks.next().await {
            Ok(Some(pack)) => pack,
            Ok(None) => break,
            Err(error) => {
                // What was learned until here stands.
                tracing::warn!(source = %set.lean.source, error = %Chain(&error), "the rest of another source is not used again");
                break;
            }
        };
        *left -= 1;
        known.learn(Whose::Neighbour, pack.iter().map(chunk).collect()).await;
    }
    leaned_on.sessions = chunks.leaned_on().sessions;
    Ok(leaned_on)
}
