//! The history of a branch: which branch it left, and where.

use serde::{Deserialize, Serialize};

use breakwater_core::Entropy;
use breakwater_storage::Payload;

use super::StreamError;
use super::keys::{StreamKeys, salt};
use crate::format::ObjectName;
use crate::format::record::RecordKind;

/// Where a branch left its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchHistory {
    /// The branch.
    pub branch: u32,
    /// The branch it left.
    pub parent: u32,
    /// The offset at which it did.
    pub offset: u64,
    /// The history as the source gives it (PostgreSQL: the timeline history file).
    #[serde(with = "hex::serde")]
    pub text: Vec<u8>,
}

impl BranchHistory {
    pub(super) fn name(&self, keys: &StreamKeys) -> ObjectName {
        ObjectName::History(keys.source, self.branch)
    }

    pub(super) fn seal(&self, keys: &StreamKeys, entropy: &dyn Entropy) -> Result<Payload, StreamError> {
        let name = self.name(keys);
        let record = keys.record().seal(keys.suite, RecordKind::History, salt(entropy), &name, self);
        Ok(Payload::from(record.map_err(StreamError::format(&name))?))
    }

    pub(super) fn open(keys: &StreamKeys, branch: u32, bytes: &[u8]) -> Result<BranchHistory, StreamError> {
        let name = ObjectName::History(keys.source, branch);
        keys.record().open(RecordKind::History, &name, bytes).map_err(StreamError::format(&name))
    }
}
