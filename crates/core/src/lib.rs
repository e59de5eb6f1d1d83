//! The vocabulary that every other crate shares: ids, units, points in a stream, error classes, clocks.
//!
//! Nothing here does I/O, reads a clock or draws randomness: time and entropy come in through [`Clock`] and
//! [`Entropy`], which the programs implement once.
//!
//! Reading order: [`error`](mod@error), [`id`], [`unit`](mod@unit), [`place`], [`point`], [`clock`], [`attributes`].

pub mod attributes;
pub mod clock;
pub mod error;
pub mod id;
pub mod place;
pub mod point;
pub mod unit;

pub use attributes::{Attributes, DeviceNumber, Xattrs};
pub use clock::{Clock, Entropy};
pub use error::{Chain, ErrorClass};
pub use id::{
    Attempt, DomainName, Generation, JobId, Name, RegionId, RepositoryId, SessionId, SnapshotId, SourceUid, Uid,
};
pub use place::{PlaceUrl, PlaceUrlError};
pub use point::{LogPosition, Lsn, TimelineId, Watermark};
pub use unit::{BadByteCount, ByteCount, Timestamp};
