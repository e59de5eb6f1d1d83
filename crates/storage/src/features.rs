//! What a place offers beyond the promises that every place keeps.

use crate::Tier;

/// What can be asked of a place as it is set up now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Whether objects can be locked until a time.
    pub locks: bool,
    /// Whether objects can be held without an end.
    pub holds: bool,
    /// Whether what is deleted or written over stays as an older version until that version is deleted.
    pub versions: bool,
    /// The tiers that objects can be put into and moved between; empty where there is but one.
    pub tiers: Vec<Tier>,
    /// Whether the place itself compares what it received with a checksum that was sent along.
    pub checksums: bool,
}
