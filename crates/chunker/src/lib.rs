//! Content-defined chunks: where to cut a file so that an insertion moves the cuts near it and no others, and so that the
//! sizes of the chunks tell nobody what the file holds.
//!
//! Whether a chunk ends at a position depends on the 64 bytes before it and on a secret key: a universal hash takes the
//! window into 128 bits ([`digest`]), AES-128 encrypts these, and the position is a cut where the first eight bytes of the
//! ciphertext, as a little-endian number, are below a threshold ([`cipher`]). No chunk is shorter than the least size, none
//! longer than the greatest. The reasons, and the bound on what an observer can learn, are in `docs/decisions/0010-codecs.md`.
//!
//! Invariant: nothing but the ciphertext decides. A cheaper test in front of AES would be an equation about the key that every
//! published cut satisfies, which is how keyed rolling hashes are broken.
//!
//! Pure: no input, no randomness. Reading order: [`Sizes`], [`Chunker`], [`Cutter`].

mod chunker;
mod cipher;
mod cutter;
mod digest;
mod sizes;

pub use chunker::Chunker;
pub use cutter::Cutter;
pub use sizes::Sizes;

/// Bytes that decide whether a chunk ends behind them.
pub const WINDOW: usize = 64;
