//! Backups into regions in memory, and restores from them, with a source that follows the engine contract.

mod cancel;
mod engine;
mod hostile;
mod lab;
mod memory;
mod regions;
mod resume;
mod round_trip;
mod tree;
