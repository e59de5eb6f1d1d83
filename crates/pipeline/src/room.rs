//! Room for packs, out of the program's byte budget.
//!
//! Invariant: a run that has begun can always go on. It holds room for one pack for its whole life, so it never waits for
//! what another run holds; room for more packs is taken only when it is free. The room of a pack returns when the last
//! reader of its bytes is gone, also when a slow region keeps them for a while.
//!
//! The memory of a pack is one piece. A piece that large comes straight from the kernel and goes straight back, whatever
//! threads wrote and read it, so that a program that backs up for weeks does not grow; a run keeps the piece that belongs to
//! its own room, and gives all others back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_runtime::{ByteBudget, Permit};
use breakwater_storage::Payload;
use bytes::{Bytes, BytesMut};

/// How often a waiter looks whether the budget has room again, or its run was stopped.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Room for the packs of one run.
#[derive(Debug)]
pub(crate) struct Room {
    budget: ByteBudget,
    pack: u64,
    reserve: Mutex<Reserve>,
    returned: Condvar,
}

/// The run's own room, while no pack has it, and memory that belongs to it.
#[derive(Debug)]
struct Reserve {
    permit: Option<Permit>,
    memory: BytesMut,
}

/// Room for one pack.
#[derive(Debug)]
pub(crate) struct Lease {
    permit: Option<Permit>,
    memory: BytesMut,
    /// Where the run's own room goes back to.
    home: Option<Arc<Room>>,
}

impl Room {
    /// `reserve` is the run's own room: as much as one pack takes.
    pub(crate) fn new(budget: ByteBudget, reserve: Permit) -> Arc<Room> {
        let pack = reserve.bytes();
        let reserve = Reserve { permit: Some(reserve), memory: BytesMut::new() };
        Arc::new(Room { budget, pack, reserve: Mutex::new(reserve), returned: Condvar::new() })
    }

    /// Waits for room for one pack; `None` once `stopped` says so. Blocks the thread.
    pub(crate) fn take(self: &Arc<Self>, stopped: impl Fn() -> bool) -> Option<Lease> {
        loop {
            if let Some(lease) = self.take_now_or_soon(Duration::ZERO) {
                return Some(lease);
            }
            if stopped() {
                return None;
            }
            if let Some(lease) = self.take_now_or_soon(LOOK) {
                return Some(lease);
            }
        }
    }

    /// Takes room for one pack when there is some now; otherwise waits up to `patience`, or until [`wake`](Self::wake), and
    /// looks again.
    pub(crate) fn take_now_or_soon(self: &Arc<Self>, patience: Duration) -> Option<Lease> {
        let mut reserve = self.reserve();
        if let Some(lease) = self.take_now(&mut reserve) {
            return Some(lease);
        }
        if patience.is_zero() {
            return None;
        }
        let mut reserve = self.returned.wait_timeout(reserve, patience).unwrap_or_else(PoisonError::into_inner).0;
        self.take_now(&mut reserve)
    }

    /// Wakes those who wait, because what they wait for may not be needed any more.
    pub(crate) fn wake(&self) {
        self.returned.notify_all();
    }

    fn take_now(self: &Arc<Self>, reserve: &mut Reserve) -> Option<Lease> {
        if let Some(permit) = reserve.permit.take() {
            let memory = std::mem::take(&mut reserve.memory);
            return Some(Lease { permit: Some(permit), memory, home: Some(Arc::clone(self)) });
        }
        let permit = self.budget.try_acquire(self.pack)?;
        Some(Lease { permit: Some(permit), memory: BytesMut::new(), home: None })
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Memory for a pack of `size` bytes: that of the pack before, if nobody reads that any more, or new.
    pub(crate) fn memory(&mut self, size: usize) -> BytesMut {
        let mut memory = std::mem::take(&mut self.memory);
        if memory.try_reclaim(size) { memory } else { BytesMut::with_capacity(size) }
    }

    /// Keeps what is left of the memory when all frames are cut off from it, so that it can be used again after them.
    pub(crate) fn keep(&mut self, rest: BytesMut) {
        self.memory = rest;
    }

    /// Ties the room to the bytes of a payload: it returns when the last of them is dropped.
    pub(crate) fn tie(self, payload: &Payload) -> Payload {
        let lease = Arc::new(self);
        let tied = |part: &Bytes| Bytes::from_owner(Part { bytes: part.clone(), _lease: Arc::clone(&lease) });
        Payload::from(payload.parts().iter().map(tied).collect::<Vec<_>>())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (Some(room), Some(permit)) = (self.home.take(), self.permit.take()) {
            *room.reserve() = Reserve { permit: Some(permit), memory: std::mem::take(&mut self.memory) };
            room.returned.notify_all();
        }
    }
}

/// Bytes that keep their room.
struct Part {
    bytes: Bytes,
    _lease: Arc<Lease>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(capacity: u64) -> (ByteBudget, Arc<Room>) {
        let budget = ByteBudget::new(capacity);
        let reserve = budget.try_acquire(10).unwrap();
        (budget.clone(), Room::new(budget, reserve))
    }

    #[test]
    fn its_own_room_first_then_what_is_free_then_it_waits() {
        let (budget, room) = room(20);
        let never = || false;
        let first = room.take(never).unwrap();
        assert_eq!(budget.in_use(), 10);
        let second = room.take(never).unwrap();
        assert_eq!(budget.in_use(), 20);
        assert!(room.take(|| true).is_none(), "stopped while nothing is free");
        let waiter = std::thread::spawn({
            let room = Arc::clone(&room);
            move || room.take(never).is_some()
        });
        drop(first);
        assert!(waiter.join().unwrap());
        drop(second);
        assert_eq!(budget.in_use(), 10);
    }

    #[test]
    fn another_run_cannot_starve_it() {
        let (budget, room) = room(20);
        let _other = budget.try_acquire(10).unwrap();
        drop(room.take(|| false).unwrap());
        drop(room.take(|| false).unwrap());
    }

    #[test]
    fn a_runs_own_memory_is_used_again_when_nobody_reads_it() {
        let (_budget, room) = room(10);
        let mut lease = room.take(|| false).unwrap();
        let mut memory = lease.memory(1000);
        memory.extend_from_slice(b"frame");
        let frame = memory.split().freeze();
        let place = frame.as_ptr();
        lease.keep(memory);
        let payload = lease.tie(&Payload::from(frame));
        assert!(room.take(|| true).is_none());
        drop(payload);
        let mut lease = room.take(|| false).unwrap();
        let mut again = lease.memory(1000);
        again.extend_from_slice(b"other");
        assert_eq!(again.as_ptr(), place);
        let held = again.split().freeze();
        lease.keep(again);
        assert!(lease.memory(1000).as_ptr() != place && &held[..] == b"other", "it is read still");
    }

    #[test]
    fn the_room_stays_taken_while_somebody_reads_the_bytes() {
        let (_budget, room) = room(10);
        let lease = room.take(|| false).unwrap();
        let payload = lease.tie(&Payload::from(vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")]));
        assert_eq!(&payload.to_bytes()[..], b"abc");
        let slow_reader = payload.parts()[1].clone();
        drop(payload);
        assert!(room.take(|| true).is_none());
        drop(slow_reader);
        assert!(room.take(|| true).is_some());
    }
}
