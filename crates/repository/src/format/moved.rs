//! Where the frames of a pack are now: the pack was repacked because little of it was needed, or made anew because no
//! region had it whole.
//!
//! Readers look here when a pack is missing or damaged: `meta/<source>/moved/<data|meta>-<session>-<no>.` may list several
//! records, each of another mover; any that leads to whole frames will do. The footers of the packs in `to` name each
//! frame by its chunk id and say which origin it was sealed in. A pack in `to` may itself have moved.
//!
//! Invariant: by the time such a record shows in a region, everything of the pack that is still needed lies in `to` there.

use breakwater_core::{SessionId, Timestamp};
use serde::{Deserialize, Serialize};

use super::pack::{KeyKind, PackId};
use super::{FormatError, ObjectName};

/// The record of one pack and one mover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The pack that references name.
    pub pack: PackId,
    /// Whether it is one of content or of structure.
    pub kind: KeyKind,
    /// The session whose packs hold the frames now.
    pub mover: SessionId,
    /// These packs, of the same kind and source; empty when nothing of the pack was needed any more.
    pub to: Vec<PackId>,
    /// When.
    pub at: Timestamp,
}

impl Moved {
    /// Refuses a record that speaks of another pack or mover than its name.
    pub fn check(&self, name: &ObjectName) -> Result<(), FormatError> {
        match name {
            ObjectName::Moved { kind, pack, mover, .. }
                if (self.kind, self.pack, self.mover) == (*kind, *pack, *mover) =>
            {
                Ok(())
            }
            _ => Err(FormatError::damaged("moved record", "it speaks of another pack than its name")),
        }
    }
}

/// The JSON of the footer of a pack that a mover wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedFrames {
    /// For each frame of the footer, in its order: the pack and the offset that references name, however often the frame
    /// has moved since. Empty in packs whose frames never moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<(PackId, u32)>,
}

impl MovedFrames {
    /// What the footer's JSON says; refuses a list that does not fit `frames`.
    pub fn of_footer(json: &[u8], frames: usize) -> Result<MovedFrames, FormatError> {
        const WHAT: &str = "pack footer";
        let moved: MovedFrames = super::record::read_json(WHAT, json)?;
        if !moved.from.is_empty() && moved.from.len() != frames {
            return Err(FormatError::damaged(WHAT, "it does not say of each frame where it was"));
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_that_never_moved_say_nothing() {
        assert_eq!(MovedFrames::of_footer(b"{}", 5).unwrap(), MovedFrames::default());
        assert_eq!(serde_json::to_vec(&MovedFrames::default()).unwrap(), b"{}");
        let pack = PackId { session: SessionId::from_bytes([1; 16]), number: 2 };
        let moved = MovedFrames { from: vec![(pack, 128)] };
        let json = serde_json::to_vec(&moved).unwrap();
        assert_eq!(MovedFrames::of_footer(&json, 1).unwrap(), moved);
        assert!(MovedFrames::of_footer(&json, 2).is_err());
    }
}
