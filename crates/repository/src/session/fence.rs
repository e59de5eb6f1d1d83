//! Giving up a dead session: a fence is put into its register, so that it can never commit.
//!
//! Invariant: a fence is established only when every region's register holds one and no region holds the manifest. One
//! region that does not answer leaves it open, because that region may hold the manifest.

use breakwater_core::{SessionId, SnapshotId, SourceUid};
use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;

use super::commit::{RegisterValue, read_register, write_committed};
use super::writer::ObjectWriter;
use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::manifest::{Fence, Manifest};
use crate::format::record::RecordKind;
use crate::region::{READ_DEADLINE, Region, within};
use crate::repository::Repository;

/// Characters of a fence's reason.
const REASON_MAX: usize = 100;

/// How an attempt at fencing ended.
#[derive(Debug)]
pub enum FenceOutcome {
    /// The session can never commit.
    Established,
    /// The session is committed; the fence came too late.
    Committed(Box<Manifest>),
    /// Some regions hold the fence, but these did not answer, so the session may still turn out to be committed.
    Open(Vec<Cause>),
}

impl Repository {
    /// Fences the session that was to commit `snapshot`. `writer` is used to tell regions with a fence that the session
    /// is committed after all.
    pub async fn fence(
        &self,
        writer: &dyn ObjectWriter,
        source: SourceUid,
        (snapshot, session): (SnapshotId, SessionId),
        reason: &str,
    ) -> Result<FenceOutcome, RepositoryError> {
        self.check_writable()?;
        let name = ObjectName::Register(source, snapshot, session);
        let fence = Fence { snapshot, session, reason: short(reason), at: self.now() };
        let mut bytes = Bytes::from(self.seal_record(source, RecordKind::Fence, &name, &fence)?);
        let mut committed = None;
        let mut silent = Vec::new();
        let mut fenced = false;
        for region in self.regions() {
            match self.fence_in(region, &name, bytes.clone()).await {
                Ok(Placed::Mine) => fenced = true,
                Ok(Placed::Other(RegisterValue::Fence(_), found)) => {
                    // The same name holds the same bytes everywhere.
                    if !fenced {
                        bytes = found;
                    }
                    fenced = true;
                }
                Ok(Placed::Other(RegisterValue::Manifest(manifest), _)) => {
                    committed = Some(manifest);
                    break;
                }
                Err(trouble) => silent.push(region.cause(trouble)),
            }
        }
        // A region whose fence lost keeps its manifest under the second name.
        if committed.is_none() {
            let name = ObjectName::Committed(source, snapshot, session);
            let found = self.fetch(&self.read_order(), &name, |bytes| read_register(self, &name, bytes)).await;
            if let Ok((RegisterValue::Manifest(manifest), _)) = found {
                committed = Some(manifest);
            }
        }
        if let Some(manifest) = committed {
            if fenced {
                write_committed(self, writer, &manifest).await?;
            }
            return Ok(FenceOutcome::Committed(manifest));
        }
        Ok(if silent.is_empty() { FenceOutcome::Established } else { FenceOutcome::Open(silent) })
    }

    async fn fence_in(&self, region: &Region, name: &ObjectName, bytes: Bytes) -> Result<Placed, Trouble> {
        let key = name.to_string();
        // A fence in an empty mount would stop nobody.
        let storage = region.ask().await?;
        match within(READ_DEADLINE, storage.create(&key, Payload::from(bytes.clone()))).await {
            Ok(()) => Ok(Placed::Mine),
            Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
                let found = within(READ_DEADLINE, storage.get(&key)).await?;
                if found == bytes {
                    return Ok(Placed::Mine);
                }
                Ok(Placed::Other(read_register(self, name, &found)?, found))
            }
            Err(trouble) => Err(trouble),
        }
    }
}

/// A reason that keeps every fence shorter than any manifest, so that the length of a register tells which of the two it
/// is without reading it in every region.
fn short(reason: &str) -> String {
    let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    reason.chars().take(REASON_MAX).map(printable).collect()
}

/// What a region's register holds after an attempt to put the fence there.
enum Placed {
    Mine,
    Other(RegisterValue, Bytes),
}
