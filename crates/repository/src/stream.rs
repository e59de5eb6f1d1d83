//! The continuous log of a source: received once, stored in every region as segments with short-lived tails before them,
//! read back as one path through generations and branches.
//!
//! Invariant: what [`StreamWriter::released`] says may be forgotten by the source is durable in enough regions or fsynced
//! in the spool, without a gap from where the stream began.
//!
//! Reading order: [`path`] (which pieces count, pure), [`piece`] (one object), [`keys`], [`view`] (what is stored),
//! [`plan`] and [`reader`] (getting it back), [`ledger`] (who holds what), [`claim`], [`writer`], [`upload`], [`spool`].

mod claim;
mod cut;
pub mod error;
mod history;
mod keys;
mod ledger;
mod options;
pub mod path;
mod piece;
pub mod plan;
pub mod reader;
mod resume;
mod spool;
mod status;
#[cfg(test)]
mod tests;
mod upload;
mod verify;
pub mod view;
mod writer;

pub use error::StreamError;
pub use history::BranchHistory;
pub use keys::{SecretSource, StreamKeys};
pub use options::StreamOptions;
pub use path::{Extent, StoredPiece, Writer};
pub use plan::{LogPlan, LogTarget, PlanBase, PlanError, PlannedRange, Stop};
pub use reader::LogReader;
pub use resume::ResumePoint;
pub use spool::SpoolOptions;
pub use status::{Begun, RegionPoint, SpoolState, StreamStatus};
pub use view::{Interval, StreamView};
pub use writer::StreamWriter;
