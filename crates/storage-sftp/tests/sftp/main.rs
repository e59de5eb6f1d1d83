//! Regions over SFTP against a real sshd.
//!
//! Vocabulary: a *server* is an sshd of the test's own; a *root* is the directory of a region on it, seen here too, because
//! the server runs on this machine.
#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

mod access;
mod conformance;
mod faults;
mod model;
mod place;
mod unfit;
