//! The packs that a run fills with frames from other packs. Nothing is sealed in them; each frame says in which pack it was.

use breakwater_core::SessionId;
use breakwater_storage::Payload;
use bytes::Bytes;

use super::Figure;
use super::everywhere::{Everywhere, Stop};
use super::repack::Places;
use crate::error::RepositoryError;
use crate::format::ObjectName;
use crate::format::moved::MovedFrames;
use crate::format::pack::padding::{padme, zeros};
use crate::format::pack::{
    FRAME_ALIGNMENT, FRAMES_MAX, Footer, FooterFrame, HEADER_LENGTH, KeyKind, Origin, PackId, PackKey,
};

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct Movable {
    pub(super) frame: FooterFrame,
    pub(super) origin: Origin,
    /// The place that references name.
    pub(super) from: (PackId, u32),
    /// Header and ciphertext.
    pub(super) bytes: Bytes,
}

/// A pack that is being filled.
#[derive(Debug, Default)]
struct Filling {
    footer: Footer,
    from: Vec<(PackId, u32)>,
    parts: Vec<Bytes>,
    end: usize,
}

/// Packs of both kinds.
#[derive(Debug)]
pub(super) struct MovedPacks<'a> {
    all: &'a Everywhere<'a>,
    run: SessionId,
    filling: [Filling; 2],
    next: [u32; 2],
    places: Places,
    written: Figure,
}

const fn slot(kind: KeyKind) -> usize {
    match kind {
        KeyKind::Content => 0,
        KeyKind::Structure => 1,
    }
}

impl<'a> MovedPacks<'a> {
    pub(super) fn new(all: &'a Everywhere<'a>, run: SessionId) -> Self {
        let places = Places::new();
        MovedPacks { all, run, filling: Default::default(), next: [0; 2], places, written: Figure::default() }
    }

    /// Adds a frame; a pack that is full is durable in every region when this answers.
    pub(super) async fn add(&mut self, kind: KeyKind, moved: Movable) -> Result<(), Stop> {
        let limit = self.all.repository.descriptor().pack_size as usize;
        let length = moved.bytes.len().next_multiple_of(FRAME_ALIGNMENT);
        let [content, structure] = &self.filling;
        let filling = if slot(kind) == 0 { content } else { structure };
        let full = filling.end + length > limit || filling.footer.frames.len() >= FRAMES_MAX as usize;
        if full && !filling.parts.is_empty() {
            self.write(kind).await?;
        }
        let Some(filling) = self.filling.get_mut(slot(kind)) else { return Ok(()) };
        if filling.end == 0 {
            filling.end = HEADER_LENGTH;
        }
        let known = filling.footer.origins.iter().position(|origin| *origin == moved.origin);
        let origin = known.unwrap_or_else(|| {
            filling.footer.origins.push(moved.origin);
            filling.footer.origins.len() - 1
        });
        let place = |number: usize| u32::try_from(number).map_err(std::io::Error::other);
        let frame = FooterFrame { origin: place(origin)?, offset: place(filling.end)?, ..moved.frame };
        filling.footer.frames.push(frame);
        filling.from.push(moved.from);
        filling.end += length;
        let padding = length - moved.bytes.len();
        filling.parts.push(moved.bytes);
        if padding > 0 {
            filling.parts.push(Bytes::from_static(&[0; FRAME_ALIGNMENT]).slice(..padding));
        }
        Ok(())
    }

    /// Writes what is left; answers where everything went, and how much it was.
    pub(super) async fn finish(mut self) -> Result<(Places, Figure), Stop> {
        self.write(KeyKind::Content).await?;
        self.write(KeyKind::Structure).await?;
        Ok((self.places, self.written))
    }

    async fn write(&mut self, kind: KeyKind) -> Result<(), Stop> {
        let (Some(filling), Some(next)) = (self.filling.get_mut(slot(kind)), self.next.get_mut(slot(kind))) else {
            return Ok(());
        };
        let Filling { mut footer, from, parts, end } = std::mem::take(filling);
        if parts.is_empty() {
            return Ok(());
        }
        let pack = PackId { session: self.run, number: *next };
        *next += 1;
        let repository = self.all.repository;
        let structure = repository.structure_key(self.all.source);
        let key = PackKey::new(repository.suite(), kind, repository.id(), pack, repository.salt(), &structure);
        let name = ObjectName::of_pack(self.all.source, kind, pack);
        for (place, _) in &from {
            self.places.entry((kind, *place)).or_default().insert(pack);
        }
        let format = |error| RepositoryError::format(&name, error);
        footer.json = serde_json::to_vec(&MovedFrames { from }).map_err(std::io::Error::from)?;
        let length = end as u64 + Footer::sealed_length(footer.origins.len(), footer.frames.len(), footer.json.len());
        let padding = padme(length) - length;
        let sealed = footer
            .seal(repository.suite(), &structure, repository.salt(), repository.id(), &name, end as u64 + padding)
            .map_err(format)?;
        let mut bytes = vec![Bytes::copy_from_slice(&key.header().encode())];
        bytes.extend(parts);
        bytes.extend(zeros(padding));
        bytes.push(sealed.bytes.into());
        let payload = Payload::from(bytes);
        self.all.create_own(&name, &payload).await?;
        self.written.add(payload.len());
        Ok(())
    }
}
