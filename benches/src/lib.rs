//! What the benchmarks share: content to work on, the bare primitives to compare with, and how to measure.
//!
//! Each benchmark is a program in `src/bin`; `benches/run NAME [--small]` runs it. A benchmark ends with one line of JSON:
//! its name, its ratios, its figures, and whether its bars hold.

pub mod bare;
pub mod content;
pub mod endless;
pub mod files;
pub mod lines;
pub mod measure;
pub mod ours;
pub mod source;
mod wiring;
