//! The controller: keeps what people declared, hands work to agents, knows how exposed every source is.
//!
//! It never sees data, holds no storage credential and no key that opens anything. What exists stands in the buckets;
//! here is intent and what was last heard. Reading order: [`objects`] (what people write), [`catalogue`] (where it is
//! kept), [`jobs`] and [`dispatcher`] (work), [`link`] and [`fleet`] (agents), [`overview`], [`regions`] and [`metrics`] (figures), [`operator`]
//! (the API), [`enrolment`], [`auth`] and [`pki`] (who is who), [`wiring`] (which store).

pub mod assign;
pub mod auth;
pub mod book;
pub mod catalogue;
pub mod config;
pub mod dispatcher;
pub mod enrolment;
pub mod error;
pub mod fleet;
pub mod jobs;
pub mod link;
pub mod metrics;
pub mod objects;
pub mod operator;
pub mod overview;
pub mod pki;
pub mod records;
pub mod regions;
pub mod server;
pub mod summary;
pub mod wiring;
pub mod work;

pub use config::ControllerConfig;
pub use server::{Running, StartError, start};
