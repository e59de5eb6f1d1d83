//! What dead sessions of the source have left in the regions, so that nothing is uploaded twice.

use breakwater_core::{Chain, SessionId};
use breakwater_repository::format::Class;
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::session::RegionWriter;
use breakwater_repository::{BackupSession, RepositoryError};

use super::known::{Known, Whose, chunk};

/// Reads the footers of the packs of every session that `session` adopts, and makes their chunks known. What cannot be read is
/// stored again; packs that some region lacks become its debt.
pub(crate) async fn adopt(session: &BackupSession, writer: &RegionWriter, known: &Known) {
    let mut incomplete = false;
    for dead in &session.intent().adopts {
        if let Err(error) = adopt_one(session, *dead, known, &mut incomplete).await {
            tracing::warn!(session = %dead, error = %Chain(&error), "the packs of a dead session are not used again");
        }
    }
    if incomplete {
        let report = writer.set().audit(&[session.source()]).await;
        for silent in &report.silent {
            tracing::warn!(
                region = silent.region,
                "what a region lacks of a dead session is not known: {}",
                silent.failure
            );
        }
    }
}

async fn adopt_one(
    session: &BackupSession,
    dead: SessionId,
    known: &Known,
    incomplete: &mut bool,
) -> Result<(), RepositoryError> {
    let mut footers = session.repository().session_footers(session.source(), dead).await?;
    *incomplete |= !footers.silent.is_empty();
    while let Some(pack) = footers.next().await {
        let pack = match pack {
            Ok(pack) => pack,
            Err(error) => {
                tracing::warn!(session = %dead, error = %Chain(&error), "a pack of a dead session is not used again");
                continue;
            }
        };
        *incomplete |= !pack.missing.is_empty();
        // Leaves and trees are small and are written again; they differ as soon as anything does.
        if pack.kind != KeyKind::Content {
            continue;
        }
        let content = pack
            .footer
            .frames
            .iter()
            .filter(|frame| matches!(frame.class, Class::Extent | Class::Chunk | Class::PageRun));
        let chunks = content.map(|frame| chunk(&frame.location(pack.id))).collect();
        known.learn(Whose::DeadSession, chunks).await;
    }
    Ok(())
}
