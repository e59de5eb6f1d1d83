//! The engine for file trees: directories with everything in them, read while their programs go on writing.
//!
//! Each root is shown under a name; below it every entry is listed in the order of the tree, by `openat` beneath the root's
//! descriptor, never through a symbolic link. What is left out is left out by a rule that has a name and a line, or for a
//! reason that the report states; what cannot be read makes the backup partial, never silently smaller.
//!
//! Invariant: an entry whose stamp equals the one of the last backup has not been written since. The stamp is made of device,
//! inode, size, modification and change time, and is withheld where the file system's own clock cannot tell a change from
//! no change (`marker`).
//!
//! Reading order: [`settings`], `rules` and `judge` (what is left out), `beneath` (opening), `look` (one entry), `marker`
//! (whom to trust), `level` and `walk` (the listing), `reader` (the bytes), [`engine`] and `session`, [`mod@explain`],
//! [`restore`].

mod beneath;
pub mod engine;
pub mod explain;
mod facts;
mod judge;
mod level;
mod look;
mod marker;
mod names;
mod probe;
mod reader;
pub mod restore;
mod roots;
mod rules;
mod session;
pub mod settings;
mod walk;
mod xattrs;

pub use engine::FilesEngine;
pub use explain::{Explanation, explain};
pub use restore::FilesRestorer;
pub use settings::{FilesSettings, Root};

/// The word for this engine in YAML, proto and on disk.
pub const KIND: &str = "files";
