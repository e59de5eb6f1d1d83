//! What one backup takes of the byte budget.
//!
//! Invariant: all that a run cannot do without is taken at once, so that two runs never wait for each other's rest. A run
//! that finds no room for what it would like takes a smaller share rather than wait for hours, and every run leaves that
//! much free.

use std::time::Duration;

use breakwater_repository::format::codec::Compression;
use breakwater_runtime::{ByteBudget, Permit};

use super::chunk_room::CHUNK_ROOM;
use super::structure::STRUCTURE_ROOM;
use crate::PipelineError;

/// What a pack takes beyond the size it is cut at: header, footer, and the ropes' own bookkeeping.
pub(crate) const PACK_EXTRA: u64 = 1 << 20;

/// Room for the tree while it is written.
const TREE_ROOM: u64 = 4 << 20;

/// The index of known chunks has so much at most: its tables hold 114,688 chunks of the session, 14 GiB of a database, and
/// 57,344 of the base before it writes to scratch.
const INDEX: u64 = 25 << 20;

/// The index of a run with a small share.
const MODEST_INDEX: u64 = 4 << 20;

/// The packs of a run with a small share.
const MODEST_PACK: u64 = 16 << 20;

/// The threads of a run with a small share.
const MODEST_THREADS: usize = 1;

/// How long a run waits for the share that it would like.
const PATIENCE: Duration = Duration::from_secs(10);

/// A run's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) threads: usize,
    /// Bytes of a pack.
    pub(crate) pack: u64,
    /// Bytes of the index of known chunks.
    pub(crate) index: u64,
    extent: u64,
    /// What a compressor keeps for itself.
    compressor: u64,
}

impl Needs {
    /// What a run with `threads` threads would like: never so many threads that they alone take more than a fifth of the
    /// budget.
    pub(crate) fn full(
        threads: usize,
        extent_size: u32,
        pack_size: u32,
        compression: Compression,
        budget: &ByteBudget,
    ) -> Needs {
        let compressor = compression.memory(extent_size as usize);
        let index = (budget.capacity() / 7).clamp(MODEST_INDEX, INDEX);
        let needs = Needs { threads: 1, pack: u64::from(pack_size), index, extent: u64::from(extent_size), compressor };
        let most = usize::try_from((budget.capacity() / 5).saturating_sub(CHUNK_ROOM) / needs.per_thread())
            .unwrap_or(usize::MAX);
        Needs { threads: threads.min(most).max(1), ..needs }
    }

    /// The smaller share.
    pub(crate) fn modest(self) -> Needs {
        let (threads, pack) = (self.threads.min(MODEST_THREADS), self.pack.min(MODEST_PACK));
        Needs { threads, pack, index: self.index.min(MODEST_INDEX), ..self }
    }

    fn per_thread(&self) -> u64 {
        4 * self.extent + self.compressor
    }

    /// Room for one pack.
    pub(crate) fn pack_room(&self) -> u64 {
        self.pack + PACK_EXTRA
    }

    /// All that the run cannot do without.
    pub(crate) fn total(&self) -> u64 {
        self.threads as u64 * self.per_thread()
            + self.index
            + CHUNK_ROOM
            + TREE_ROOM
            + STRUCTURE_ROOM
            + self.pack_room()
    }

    /// Takes the full share, or, when it does not get free in time, the smaller one.
    pub(crate) async fn take(self, budget: &ByteBudget) -> Result<(Needs, Permit), PipelineError> {
        let modest = self.modest();
        if modest.total() > budget.capacity() {
            return Err(PipelineError::Budget { needed: modest.total(), capacity: budget.capacity() });
        }
        if self.total() <= budget.capacity()
            && let Ok(permit) = tokio::time::timeout(PATIENCE, budget.acquire(self.total())).await
        {
            return Ok((self, permit));
        }
        tracing::info!(bytes = modest.total(), "the memory budget is in use; this backup takes a small share of it");
        Ok((modest, budget.acquire(modest.total()).await))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_agents_budget_holds_a_full_run_with_two_packs_and_a_modest_one() {
        let budget = ByteBudget::new(192 * MIB);
        for threads in [1, 2, 8, 64] {
            let full = Needs::full(threads, 128 << 10, 64 << 20, Compression::default(), &budget);
            let both = full.total() + full.modest().total();
            assert!(both + full.pack / 4 <= budget.capacity(), "{threads} threads: {both}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_finds_no_room_takes_less() {
        let budget = ByteBudget::new(192 * MIB);
        let full = Needs::full(2, 128 << 10, 64 << 20, Compression::default(), &budget);
        let (first, held) = full.take(&budget).await.unwrap();
        assert_eq!((first, held.bytes()), (full, full.total()));
        let _packs = budget.try_acquire(30 * MIB).unwrap();
        let (second, held) = full.take(&budget).await.unwrap();
        assert_eq!((second, held.bytes()), (full.modest(), full.modest().total()));
        let small = ByteBudget::new(MIB);
        assert!(matches!(full.take(&small).await, Err(PipelineError::Budget { .. })));
    }
}
