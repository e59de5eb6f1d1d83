//! The bytes of a plan.
//!
//! Invariant: bytes are given out only after the digest of the whole piece they come from was checked; what the plan does
//! not hold is never made up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::StreamError;
use super::keys::{SecretSource, StreamKeys};
use super::path::{Extent, StoredPiece};
use super::piece::PieceFooter;
use super::plan::LogPlan;
use super::view::StreamView;
use crate::format::names::LogRange;
use crate::regions::{RegionError, RegionSet};

/// Pieces kept after they were opened: neighbours ask for the same one.
const KEPT: usize = 3;

type Opened = (String, Arc<Vec<u8>>);

/// Reads the log that a plan names.
#[derive(Debug)]
pub struct LogReader {
    regions: RegionSet,
    keys: StreamKeys,
    secrets: Arc<dyn SecretSource>,
    plan: LogPlan,
    opened: Mutex<VecDeque<Opened>>,
}

impl LogReader {
    /// A reader of `plan`.
    pub fn new(regions: &RegionSet, keys: &StreamKeys, secrets: Arc<dyn SecretSource>, plan: LogPlan) -> LogReader {
        LogReader { regions: regions.clone(), keys: keys.clone(), secrets, plan, opened: Mutex::default() }
    }

    /// The plan.
    pub fn plan(&self) -> &LogPlan {
        &self.plan
    }

    /// The bytes of `range`, all of which the plan must hold.
    pub async fn read(&self, range: LogRange) -> Result<Vec<u8>, StreamError> {
        let legs = self.plan.ranges.iter().filter(|leg| leg.range.branch == range.branch);
        let extents = legs.flat_map(|leg| leg.extents.iter().cloned()).collect::<Vec<_>>();
        match self.read_from(&extents, range).await {
            Err(StreamError::Region(RegionError::NotFound { .. })) => {
                // A tail of the plan went because its segment came: the same bytes lie there now.
                let view = StreamView::load(&self.regions, &self.keys).await?;
                self.read_from(view.extents(range.branch), range).await
            }
            result => result,
        }
    }

    async fn read_from(&self, extents: &[Extent], range: LogRange) -> Result<Vec<u8>, StreamError> {
        let mut bytes = Vec::new();
        let mut at = range.start;
        for extent in extents {
            if extent.start > at || extent.end <= at || at >= range.end {
                continue;
            }
            let end = extent.end.min(range.end);
            let piece = self.open(&extent.piece).await?;
            let index = |offset: u64| usize::try_from(offset - extent.piece.range.start).unwrap_or(usize::MAX);
            let missing = || StreamError::Missing { range: LogRange { start: at, end, ..range } };
            bytes.extend_from_slice(piece.get(index(at)..index(end)).ok_or_else(missing)?);
            at = end;
        }
        if at < range.end {
            return Err(StreamError::Missing { range: LogRange { start: at, ..range } });
        }
        Ok(bytes)
    }

    /// The segment file of `size` bytes that begins at `start`, zeros after the end of the plan. None when the plan proves
    /// that nothing of it belongs to the restore: it begins at or after the end of the plan on its branch, or its branch
    /// is not part of it.
    pub async fn segment_file(&self, branch: u32, start: u64, size: u64) -> Result<Option<Vec<u8>>, StreamError> {
        let Some(leg) = self.plan.ranges.iter().find(|leg| leg.range.branch == branch) else { return Ok(None) };
        if start >= leg.range.end {
            return Ok(None);
        }
        let end = start.saturating_add(size).min(leg.range.end);
        let mut bytes = self.read(LogRange { branch, start, end }).await?;
        bytes.resize(usize::try_from(size).unwrap_or(usize::MAX).max(bytes.len()), 0);
        Ok(Some(bytes))
    }

    async fn open(&self, piece: &StoredPiece) -> Result<Arc<Vec<u8>>, StreamError> {
        let opened = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let known = opened().iter().find(|(name, _)| *name == piece.name).map(|(_, bytes)| Arc::clone(bytes));
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let secret = self.secrets.secret(piece.writer.1).await?;
        let footer = Arc::new(PieceFooter::load(&self.regions, &self.keys, &piece.name).await?);
        let unseal = |object: bytes::Bytes| {
            let (footer, keys, secret) = (Arc::clone(&footer), self.keys.clone(), secret.clone());
            tokio::task::spawn_blocking(move || footer.open(&keys, &secret, &object))
        };
        let object = self.regions.get(&piece.name).await?;
        let mut result = unseal(object).await.map_err(|_| StreamError::Stopped)?;
        if result.is_err() {
            // Damage in one region does not spoil the others.
            for handle in self.regions.handles() {
                if let Ok(object) = handle.storage.get(&piece.name).await {
                    let other = unseal(object).await.map_err(|_| StreamError::Stopped)?;
                    if other.is_ok() {
                        tracing::warn!(region = %handle.name, object = %piece.name, "another region's copy is damaged");
                        result = other;
                        break;
                    }
                }
            }
        }
        let (log, _) = result.map_err(StreamError::format(&piece.name))?;
        let bytes = Arc::new(log);
        let mut kept = opened();
        kept.push_back((piece.name.clone(), Arc::clone(&bytes)));
        while kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(bytes)
    }
}
