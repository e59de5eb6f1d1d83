//! The whole story in one process and one directory: a real database into two regions and back.
//!
//! Invariant: the end of the story is good only when every step was checked against the database itself; whatever
//! happens, nothing that it started is left running, and nothing it made is left unless it is to be kept.

mod cluster;
mod narrator;
mod postgres;
mod regions;
mod sqlite;
mod story;

pub(crate) use story::tell;
