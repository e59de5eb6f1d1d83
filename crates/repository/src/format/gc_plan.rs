//! What a run of the garbage collection is about to do, and the register that decides whether what it moved counts.
//!
//! Invariant: the frames that a run moved count only when every region's register of the run holds the decision; a fence in
//! any region's register kills the run for good. So a worker that was taken for dead can come back at any time.

use breakwater_core::{SessionId, SourceUid, Timestamp};
use serde::{Deserialize, Serialize};

/// Both the plan (`gc/<run>`) and the decision (`gc/<run>.decided`) of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcPlan {
    /// The run; also the session whose packs hold what it moves.
    pub run: SessionId,
    /// The source.
    pub source: SourceUid,
    /// When the run began.
    pub at: Timestamp,
    /// Packs that are to be deleted because nothing of them is needed.
    pub delete_packs: u64,
    /// Their bytes in one region.
    pub delete_bytes: u64,
    /// Packs of which little is needed: that is moved, then they are deleted.
    pub repack_packs: u64,
    /// Their bytes in one region.
    pub repack_bytes: u64,
}

/// Why a run will never count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcFence {
    /// The run.
    pub run: SessionId,
    /// For people.
    pub reason: String,
    /// When it was fenced.
    pub at: Timestamp,
}
