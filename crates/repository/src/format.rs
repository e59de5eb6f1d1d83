//! What lies on disk, as pure functions: bytes in, values out, and back. The contract is `docs/format.md`.
//!
//! Nothing here waits, reads a clock or makes randomness: salts and keys are arguments. Decoding never panics and never
//! allocates more than its input justifies, whatever the bytes are.
//!
//! Reading order: [`names`], [`descriptor`], [`recipients`], [`domain`], [`erasure`], [`record`], [`pack`], [`leaf`], [`tree`],
//! [`references`], [`manifest`], [`open`], [`log`], what deletion leaves: [`tombstone`], [`moved`], [`gc_plan`]; [`hold`];
//! and how sources lean on each other: [`verified`], [`leaning`].

pub mod codec;
mod cursor;
pub mod descriptor;
pub mod domain;
pub mod erasure;
pub mod error;
pub mod gc_plan;
pub mod hold;
pub mod leaf;
pub mod leaning;
pub mod log;
pub mod lost;
pub mod manifest;
pub mod moved;
pub mod names;
pub mod open;
pub mod pack;
pub mod path;
pub mod recipients;
pub mod record;
pub mod references;
mod signed;
pub mod tombstone;
pub mod tree;
pub mod verified;

pub use codec::{Class, Codec, Compression};
pub use error::FormatError;
pub use names::ObjectName;
pub use pack::{FrameLocation, PackId};
