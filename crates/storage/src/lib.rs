//! One handle over every place that can hold a region.
//!
//! Everything that Breakwater stores is written once, so the contract is small: create a name that must be free, read,
//! list, delete. There is no overwrite, no append and no rename, and a reader sees a whole object or none.
//!
//! Retries, traces, recordings and faults are decorators: each is a [`Backend`] over a [`Backend`], and none is inside one.
//! A new kind of place is one implementation of [`Backend`] that passes [`conformance::run`].
//!
//! Reading order: [`storage`], [`key`], [`payload`], [`error`], [`backend`], [`placement`], [`retention`], [`tier`],
//! [`features`], [`places`], [`memory`], [`file_system`], then the [`decorator`]s in the order of the [`stack`]: [`retry`], [`bandwidth`],
//! [`adaptive`], [`hedged`], [`traced`], [`meter`], [`timed`], and those for tests, [`record`] and [`fault`]; and what checks a place:
//! [`probe`](mod@probe) and [`conformance`].

pub mod adaptive;
mod apart;
pub mod backend;
pub mod bandwidth;
pub mod conformance;
pub mod decorator;
pub mod error;
pub mod fault;
pub mod features;
pub mod file_system;
pub mod hedged;
pub mod key;
pub mod memory;
pub mod meter;
pub mod payload;
pub mod placement;
pub mod places;
pub mod probe;
pub mod record;
pub mod retention;
pub mod retry;
mod share;
pub mod stack;
pub mod storage;
pub mod tier;
pub mod timed;
pub mod traced;

pub use adaptive::Adaptive;
pub use apart::Apart;
pub use backend::{Backend, Listing, ObjectMeta, Operation};
pub use bandwidth::Bandwidth;
pub use decorator::Decorator;
pub use error::{StorageError, StorageErrorKind};
pub use fault::{Effect, Fault, Rule, RuleHandle};
pub use features::Features;
pub use file_system::FileSystem;
pub use hedged::Hedged;
pub use memory::Memory;
pub use meter::Meter;
pub use payload::Payload;
pub use placement::{Placement, Placing};
pub use places::{Places, Provider};
pub use probe::{BrokenPromise, Capabilities, probe, probe_placement};
pub use record::{Record, Recorded};
pub use retention::{LockMode, Protection, Retention};
pub use retry::Retry;
pub use stack::{Limits, Stack, assemble};
pub use storage::Storage;
pub use tier::{Availability, Thaw, ThawSpeed, Tier};
pub use timed::{Timed, Timeouts};
pub use traced::Traced;
