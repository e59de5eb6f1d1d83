//! Real servers and programs for tests: started on free ports in directories of their own, stopped by their process ids,
//! gone when the value is dropped. A dev-dependency only.
//!
//! Whatever a test needs and the machine lacks is an error that says what installs it; nothing here skips quietly.
//!
//! Reading order: [`dirs`], [`wait`], [`port`], [`user`], then [`postgres`] and the rest.

pub mod dirs;
pub mod port;
pub mod postgres;
pub mod user;
pub mod wait;
