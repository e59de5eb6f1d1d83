//! The data path: from a source through chunks, ids, compression and seals into packs in several regions, and back.
//!
//! Nothing here knows a database or a kind of storage: sources come in as engines' sessions, places as a repository's
//! regions. Memory is bounded by one byte budget, whatever the size of the source.
//!
//! Reading order: [`backup`], [`restore`], [`read_ahead`] (the log after a restored base), [`index`] (where chunks lie), and
//! what they share: [`progress`], [`error`].

pub mod backup;
pub mod error;
mod frames;
pub mod index;
pub mod progress;
mod rate;
pub mod read_ahead;
pub mod restore;
mod room;
mod zeros;

pub use error::PipelineError;
pub use progress::{Progress, Totals};
pub use read_ahead::ReadAhead;
