//! The agent against a real controller: enrolment, jobs, restarts of either side, and real databases.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod enrolment;
mod lab;
mod postgres;
mod restarts;
mod sqlite;
