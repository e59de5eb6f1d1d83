//! A place on Google Cloud Storage, tried on a strict server of our own.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

mod accounts;
mod conformance;
mod model;
mod operations;
mod service;
