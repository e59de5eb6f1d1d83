//! Regions on S3, against servers that play it.
//!
//! Vocabulary: a [`lab`] is one server with credentials in a file; a bucket has a [`Kind`](lab::Kind); a store is a fresh prefix in a
//! bucket, so that stores of one bucket also show that none sees the other.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test may panic anywhere")]

mod credentials;
mod lab;
mod large;
mod lies;
mod model;
mod policy;
mod requests;
mod servers;
mod tls;
mod troubles;
mod versions;
