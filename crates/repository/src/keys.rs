//! The keys of a repository: which ones a caller's key gives, and how they are changed.
//!
//! Reading order: [`ring`] (what an opened handle can do), [`opening`] (how a recipient's key becomes one),
//! [`sessions`] (the secrets of sessions).

pub mod opening;
pub mod ring;
pub mod sessions;
