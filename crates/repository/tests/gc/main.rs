//! Deletion and garbage collection on real repositories in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "another program's tests use the rest")]
#[path = "../repository/lab.rs"]
mod lab;

mod calendar;
mod campaign;
mod deletion;
mod holds;
mod kills;
mod leaning;
mod locks;
mod renewal;
mod tiers;
mod world;
