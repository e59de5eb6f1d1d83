//! What a snapshot needs of packs, a frame of the list at a time.

use bytes::Bytes;

use crate::error::RepositoryError;
use crate::format::Class;
use crate::format::manifest::Manifest;
use crate::format::pack::{FrameLocation, KeyKind};
use crate::format::references::{PackRanges, ReferenceDecoder, collect};
use crate::frames::FrameReader;

/// Reads the references of one snapshot, packs ascending. Structure only: a writer's key is enough.
#[derive(Debug)]
pub struct ReferenceReader {
    frames: FrameReader,
    decoder: ReferenceDecoder,
    rest: std::vec::IntoIter<FrameLocation>,
    list: Vec<PackRanges>,
}

impl ReferenceReader {
    /// A reader of the references of `manifest`, which belongs to the source of `frames`.
    pub fn new(frames: FrameReader, manifest: &Manifest) -> Self {
        frames.lean_on(&manifest.leans);
        let frames_of_list = manifest.references.iter().map(|frame| (KeyKind::Structure, *frame));
        ReferenceReader {
            frames,
            decoder: ReferenceDecoder::default(),
            list: collect(frames_of_list),
            rest: manifest.references.clone().into_iter(),
        }
    }

    /// The packs of the next frame, at most 1 MiB of them; `None` after the last frame.
    pub async fn next(&mut self) -> Result<Option<Vec<PackRanges>>, RepositoryError> {
        let Some(location) = self.rest.next() else { return Ok(None) };
        let read = self.frames.read(KeyKind::Structure, Class::References, location.pack, &[location]).await?;
        let content: Bytes = read.into_iter().next().unwrap_or_default();
        let packs = self.decoder.frame(&content);
        packs.map(Some).map_err(|source| RepositoryError::format(format!("references {}", location.id), source))
    }

    /// What the list itself takes: its frames stand in no list, and the snapshot needs them too.
    pub fn of_the_list(&self) -> &[PackRanges] {
        &self.list
    }
}
