//! One encrypted, deduplicating, write-once store in one or more regions.

pub mod format;
pub mod regions;
