//! Reading content for a restore. Needs a recipient's key.

use breakwater_core::{SessionId, SourceUid};
use bytes::Bytes;

use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::leaf::Extent;
use crate::format::pack::KeyKind;
use crate::format::tree::LeafRef;
use crate::format::{Class, FrameLocation, PackId};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots;

/// Opens the content of one source's sessions. A clone shares the keys.
#[derive(Clone, Debug)]
pub struct ContentReader {
    frames: FrameReader,
}

impl ContentReader {
    /// A reader of the content of `source`, from the regions in `order`. Opens the secrets of `sessions` at once, so that
    /// a key that does not fit is found before anything is written.
    pub async fn open(
        repository: &Repository,
        source: SourceUid,
        sessions: &[SessionId],
        order: ReadOrder,
    ) -> Result<ContentReader, RepositoryError> {
        repository.needs_content("opening content")?;
        let frames = FrameReader::new(repository, source, order);
        for session in sessions {
            frames.session_secret(*session).await?;
        }
        Ok(ContentReader { frames })
    }

    /// The extents of a file that one leaf lists.
    pub async fn leaf_extents(&self, leaf: &LeafRef) -> Result<Vec<Extent>, RepositoryError> {
        snapshots::leaf_extents(&self.frames, leaf).await
    }

    /// Reads extents that lie in the pack `pack`; the answers are in the order of `locations`, decompressed and proven.
    pub async fn read_frames(&self, pack: PackId, locations: &[FrameLocation]) -> Result<Vec<Bytes>, RepositoryError> {
        self.frames.read(KeyKind::Content, Class::Extent, pack, locations).await
    }

    /// The reader underneath, for segments and tails.
    pub const fn frames(&self) -> &FrameReader {
        &self.frames
    }
}
