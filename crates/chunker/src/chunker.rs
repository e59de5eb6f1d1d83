//! A key and sizes: all that decides where files are cut.

use std::fmt;
use std::sync::Arc;

use breakwater_core::SourceUid;
use breakwater_crypto::{Secret, derive};

use crate::cipher::Cipher;
use crate::cutter::Cutter;
use crate::{Sizes, WINDOW};

/// Cuts files. Made once for a source, shared by threads; a clone is the same one.
#[derive(Clone)]
pub struct Chunker {
    cipher: Arc<Cipher>,
    sizes: Sizes,
}

impl Chunker {
    /// A chunker of this key, which should be used for nothing else. The same key and sizes cut the same content in the same
    /// places, now and in later versions.
    pub fn new(key: &Secret, sizes: Sizes) -> Chunker {
        Chunker { cipher: Arc::new(Cipher::new(key, sizes.threshold())), sizes }
    }

    /// The chunker of a source's files: its key is derived from the id key of the source's domain.
    pub fn of_source(id_key: &Secret, source: SourceUid) -> Chunker {
        Chunker::new(&derive(id_key, "chunker", &[source.as_bytes()]), Sizes::FILES)
    }

    /// The sizes of its chunks.
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The length of the chunk that `data` begins with. `None` when it may be longer than `data`: more content, or the file's
    /// end, must be seen. So it always answers where `data` has the greatest size.
    pub fn cut(&self, data: &[u8]) -> Option<usize> {
        let (least, greatest) = (self.sizes.least(), self.sizes.greatest());
        let end = data.len().min(greatest - 1);
        self.cipher.first_cut(data, least, end).or((data.len() >= greatest).then_some(greatest))
    }

    /// Cuts a file whose content comes in slices.
    pub fn cutter(&self) -> Cutter {
        Cutter::new(self.clone())
    }

    /// The ends of the chunks of a whole file; the last one is the file's.
    pub fn cut_points(&self, data: &[u8]) -> Vec<usize> {
        let (mut ends, mut start) = (Vec::new(), 0);
        while start < data.len() {
            let rest = data.get(start..).unwrap_or_default();
            start += self.cut(rest).unwrap_or(rest.len());
            ends.push(start);
        }
        ends
    }

    /// The first cut of a chunk of which `held` bytes are known, whose last [`WINDOW`] end with `tail`, in the bytes that
    /// follow. Answers how many of these belong to it.
    pub(crate) fn cut_in(&self, held: usize, tail: &[u8; WINDOW], data: &[u8]) -> Option<usize> {
        let (least, greatest) = (self.sizes.least(), self.sizes.greatest());
        // Positions of `data`; 0 was looked at with the bytes before.
        let from = least.saturating_sub(held).max(1);
        let to = data.len().min((greatest - 1).saturating_sub(held));
        let mut joint = [0; 2 * WINDOW];
        let near = data.len().min(WINDOW);
        joint[..WINDOW].copy_from_slice(tail);
        joint[WINDOW..WINDOW + near].copy_from_slice(data.get(..near).unwrap_or_default());
        // Windows that begin in the tail end up to WINDOW - 1 bytes into the data.
        let in_joint = self.cipher.first_cut(&joint, WINDOW + from, WINDOW + to.min(WINDOW - 1));
        let cut =
            in_joint.map(|position| position - WINDOW).or_else(|| self.cipher.first_cut(data, from.max(WINDOW), to));
        cut.or((held + data.len() >= greatest).then(|| greatest - held))
    }
}

impl fmt::Debug for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunker").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}
