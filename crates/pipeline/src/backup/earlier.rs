//! The chunks of the base, so that a file that was moved, renamed or changed is found by its content.
//!
//! They come from the footers of the packs that the base refers to, and only those count that it refers to itself: nothing
//! else is kept for it. Invariant: what cannot be read costs room in the repository, never the backup.

use breakwater_core::Chain;
use breakwater_repository::format::Class;
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::{FrameReader, ReferenceReader};

use super::known::{Known, Whose, chunk};

/// Where the base's chunks are to be read.
pub(crate) struct BaseChunks {
    base: Option<(FrameReader, Box<Manifest>)>,
}

impl BaseChunks {
    pub(crate) fn new(frames: &FrameReader, base: Option<&Manifest>) -> BaseChunks {
        BaseChunks { base: base.map(|base| (frames.clone(), Box::new(base.clone()))) }
    }

    /// Makes all chunks known that the base refers to.
    pub(crate) async fn teach(&self, known: &Known) {
        let Some((frames, base)) = &self.base else { return };
        let mut references = ReferenceReader::new(frames.clone(), base);
        loop {
            let packs = match references.next().await {
                Ok(Some(packs)) => packs,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "chunks of the last snapshot are not found again");
                    break;
                }
            };
            for pack in packs.into_iter().filter(|pack| pack.kind == KeyKind::Content) {
                let name = frames.pack_name(pack.kind, pack.pack);
                let footer = match frames.repository().fetch_footer(frames.order(), &name).await {
                    Ok((footer, _)) => footer,
                    Err(error) => {
                        tracing::warn!(object = %name, error = %Chain(&error), "chunks of the last snapshot are not found again");
                        continue;
                    }
                };
                let chunks = footer.frames.iter().filter(|frame| frame.class == Class::Chunk);
                let places = chunks.map(|frame| frame.location(pack.pack)).filter(|place| pack.covers(place));
                known.learn(Whose::Base, places.map(|place| chunk(&place)).collect()).await;
            }
        }
    }
}
