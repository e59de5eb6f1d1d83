//! Backups into regions in memory, and restores from them, with a source that follows the engine contract.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on ends")]

mod archived;
mod cancel;
mod changes;
mod delta;
mod engine;
mod hostile;
mod kinds;
mod lab;
mod memory;
mod metadata;
mod moved;
mod neighbours;
mod regions;
mod requests;
mod resume;
mod round_trip;
mod shelf;
mod supply;
mod tree;
