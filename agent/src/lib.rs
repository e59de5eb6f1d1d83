//! The agent: reads the sources of one host, streams their logs, restores them, and tells a controller how it goes.
//!
//! It holds the keys and moves the data; a controller says what is wanted and may be away for as long as it likes.
//!
//! Reading order: [`agent`] (starting and stopping), [`identity`] and [`session`] (the controller), [`assignment`],
//! [`supervisor`] and [`sources`] (what is looked after), [`jobs`] and [`questions`] (what is asked), [`restore_plan`] and
//! [`restore`] (which need no controller), [`contents`], [`repositories`], [`region_policy`] and [`keyring`] (where data goes), [`wiring`] (which
//! engines).

pub mod agent;
pub mod assignment;
pub mod config;
pub mod contents;
mod durable;
pub mod error;
pub mod identity;
pub mod jobs;
pub mod keyring;
mod limits;
mod patience;
pub mod questions;
pub mod region_policy;
pub mod repositories;
pub mod restore;
pub mod restore_plan;
pub mod session;
pub mod sources;
pub mod supervisor;
pub mod toolbox;
mod traffic;
pub mod wiring;

pub use agent::{Agent, Running};
pub use config::AgentConfig;
pub use error::AgentError;
