//! Chunks that no region has whole any more. As long as such a record is there, backups of the source compare with no base,
//! so that they store what the source still has anew, under the same ids; then the pack gets a `moved` record.
//!
//! Invariants: the record goes only once a record of where its chunks lie now is durable in every region; the mark that there are such
//! records is durable in every region before the first of them, and stays for ever, so that its absence says that there are none.

use breakwater_core::{SessionId, SourceUid, Timestamp};
use breakwater_crypto::ChunkId;
use serde::{Deserialize, Serialize};

use super::pack::PackId;
use super::{FormatError, ObjectName};

/// The mark that something of a source is or was on record as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// The source.
    pub source: SourceUid,
}

/// What is lost of one pack of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The pack.
    pub pack: PackId,
    /// The repair that found it.
    pub run: SessionId,
    /// The chunks.
    pub chunks: Vec<LostChunk>,
    /// When.
    pub at: Timestamp,
}

/// A chunk that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LostChunk {
    /// The byte of its class.
    pub class: u8,
    /// The chunk.
    pub id: ChunkId,
}

impl Lost {
    /// Refuses a record that speaks of another pack or repair than its name.
    pub fn check(&self, name: &ObjectName) -> Result<(), FormatError> {
        match name {
            ObjectName::Lost { pack, run, .. } if (self.pack, self.run) == (*pack, *run) => Ok(()),
            _ => Err(FormatError::damaged("record of a loss", "it speaks of another pack than its name")),
        }
    }
}
