//! A repository in memory, used as the pipeline uses it: created, written, read back, damaged, resumed, fenced.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod campaign;
mod create;
mod damage;
mod keeping;
mod keys;
mod lab;
mod packs;
mod places;
mod resume;
mod sessions;
mod snapshots;
