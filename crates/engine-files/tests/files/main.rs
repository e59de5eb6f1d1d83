//! The engine on real trees.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

mod bad_input;
mod conforming;
mod content;
mod exclusion;
mod kit;
mod listing;
mod stamps;
