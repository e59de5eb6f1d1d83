//! Cutting a file whose content comes in slices of any length. Invariant: the cuts are those of the whole content in one piece.

use crate::{Chunker, WINDOW};

/// Where in a file one is.
#[derive(Clone, Debug)]
pub struct Cutter {
    chunker: Chunker,
    /// Bytes of the chunk that has begun.
    held: usize,
    /// Its last bytes; only as many as it has count.
    tail: [u8; WINDOW],
}

impl Cutter {
    pub(crate) const fn new(chunker: Chunker) -> Cutter {
        Cutter { chunker, held: 0, tail: [0; WINDOW] }
    }

    /// Takes the next bytes. `Some(n)`: the chunk ends behind the first `n` (at least 1) of them, and the next call must begin
    /// with what is behind these. `None`: all of them belong to the chunk, which goes on. Where the content ends, so does the
    /// last chunk.
    pub fn next_cut(&mut self, data: &[u8]) -> Option<usize> {
        let cut =
            if self.held == 0 { self.chunker.cut(data) } else { self.chunker.cut_in(self.held, &self.tail, data) };
        if cut.is_some() {
            self.held = 0;
            return cut;
        }
        self.held += data.len();
        match data.last_chunk::<WINDOW>() {
            Some(last) => self.tail = *last,
            None => {
                self.tail.rotate_left(data.len());
                let (_, end) = self.tail.split_at_mut(WINDOW - data.len());
                end.copy_from_slice(data);
            }
        }
        None
    }

    /// Bytes of the chunk that has begun.
    pub const fn held(&self) -> usize {
        self.held
    }
}
