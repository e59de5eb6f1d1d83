//! Room for chunks that are larger than an extent.
//!
//! Invariant: a run owns room for one, so it can always go on; for a second one it takes what the budget has free, and never
//! waits for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_runtime::{ByteBudget, Permit};

/// A chunk of the largest size, and what becomes of it.
pub(crate) const CHUNK_ROOM: u64 = 8 << 20;

/// How often a thread that waits looks whether the run was stopped.
const LOOK: Duration = Duration::from_millis(50);

/// Who may hold a large chunk now.
#[derive(Debug)]
pub(crate) struct ChunkRooms {
    budget: ByteBudget,
    /// Bytes of the budget that are left for others.
    spare: u64,
    rooms: Mutex<Rooms>,
    returned: Condvar,
}

#[derive(Debug)]
struct Rooms {
    free: usize,
    second: Option<Permit>,
}

/// The right to hold one.
#[derive(Debug)]
pub(crate) struct ChunkRoom<'a>(&'a ChunkRooms);

impl ChunkRooms {
    /// One room, which the run has taken already, and perhaps another.
    pub(crate) fn new(budget: ByteBudget, spare: u64) -> ChunkRooms {
        let rooms = Mutex::new(Rooms { free: 1, second: None });
        ChunkRooms { budget, spare, rooms, returned: Condvar::new() }
    }

    /// Waits for room; `None` once `stopped` says so. Blocks the thread.
    pub(crate) fn take(&self, stopped: impl Fn() -> bool) -> Option<ChunkRoom<'_>> {
        let mut rooms = self.rooms();
        loop {
            if rooms.free == 0 && rooms.second.is_none() {
                rooms.second = self.second();
                rooms.free += usize::from(rooms.second.is_some());
            }
            if rooms.free > 0 {
                rooms.free -= 1;
                return Some(ChunkRoom(self));
            }
            if stopped() {
                return None;
            }
            rooms = self.returned.wait_timeout(rooms, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn second(&self) -> Option<Permit> {
        let mut permit = self.budget.try_acquire(CHUNK_ROOM + self.spare)?;
        permit.shrink_to(CHUNK_ROOM);
        Some(permit)
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ChunkRoom<'_> {
    fn drop(&mut self) {
        self.0.rooms().free += 1;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_comes_out_of_what_is_free() {
        let budget = ByteBudget::new(2 * CHUNK_ROOM);
        let rooms = ChunkRooms::new(budget.clone(), CHUNK_ROOM);
        let first = rooms.take(|| true).unwrap();
        let second = rooms.take(|| true).unwrap();
        assert!(budget.in_use() == CHUNK_ROOM && rooms.take(|| true).is_none());
        drop(first);
        let again = rooms.take(|| true).unwrap();
        drop((second, again));
        let tight = ChunkRooms::new(budget.clone(), 2 * CHUNK_ROOM);
        let only = tight.take(|| true).unwrap();
        assert!(tight.take(|| true).is_none());
        drop(only);
        assert!(tight.take(|| true).is_some());
    }
}
