//! Holds: a snapshot that must stay, whatever retention says.
//!
//! Invariant: as long as any region shows a hold of a snapshot, nobody deletes the snapshot, and its packs stay also where
//! somebody did. The name alone holds; the record says why.

use breakwater_core::{SnapshotId, Timestamp, Uid};
use serde::{Deserialize, Serialize};

use super::{FormatError, ObjectName};

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Distinguishes it from other holds of the snapshot.
    pub hold: Uid,
    /// Why, in the words of who asked for it.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

impl Hold {
    /// Refuses a record that speaks of another snapshot or hold than its name.
    pub fn check(&self, name: &ObjectName) -> Result<(), FormatError> {
        match name {
            ObjectName::Hold { snapshot, hold, .. } if (self.snapshot, self.hold) == (*snapshot, *hold) => Ok(()),
            _ => Err(FormatError::damaged("hold", "it speaks of another snapshot than its name")),
        }
    }
}
