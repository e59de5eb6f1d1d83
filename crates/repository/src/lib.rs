//! One encrypted, deduplicating, write-once store in one or more regions.
//!
//! Everything that was acknowledged can be read back from one region, one key file and this crate alone: no server, no
//! database beside it.
//!
//! Reading order: [`mod@format`] (what lies on disk, pure), [`repository`] and [`create`] (the opened handle), [`region`],
//! [`region_policy`] (tiers and locks), [`regions`] (several regions written as one), [`session`] (writing one snapshot), [`fetch`] and [`frames`] (reading),
//! [`snapshots`], [`content`], [`check`], [`deletion`], [`holds`], [`gc`], [`verified`], [`tiers`], [`thaw`].

pub mod check;
pub mod content;
pub mod create;
pub mod deletion;
pub mod error;
pub mod fetch;
pub mod format;
pub mod frames;
pub mod gc;
pub mod holds;
pub mod keys;
pub mod region;
pub mod region_policy;
pub mod regions;
pub mod relocation;
pub mod repair;
pub mod repository;
pub mod session;
pub mod snapshot_locks;
pub mod snapshots;
pub mod source;
pub mod stream;
pub mod thaw;
pub mod tiers;
pub mod verified;

pub use check::{CheckOptions, CheckReport, Verdict};
pub use content::ContentReader;
pub use create::{CreateOptions, Created};
pub use deletion::{Deletion, Tombstones};
pub use error::{Cause, RepositoryError, Trouble};
pub use fetch::{Names, ReadOrder};
pub use format::{Class, Codec, FormatError, FrameLocation, ObjectName, PackId};
pub use frames::FrameReader;
pub use gc::{GcOptions, GcOutcome, GcReport};
pub use holds::{Held, Holds};
pub use keys::{Holders, KeyChange, KeyChanged, OpenedGrant};
pub use region::{Place, Region, RegionState};
pub use region_policy::{LockPolicy, RegionPolicy, TierMove};
pub use relocation::Relocated;
pub use repair::{RepairOptions, RepairReport, RepairVerdict};
pub use repository::{Access, Repository};
pub use session::{BackupSession, CommitOutcome, FenceOutcome, ObjectWriter, RegionWriter, SessionIntent, SessionKey};
pub use snapshots::{ReferenceReader, Selector, SnapshotList, SnapshotStatus, SnapshotSummary, TreeReader};
