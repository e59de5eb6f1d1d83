//! Room for packs, out of the program's byte budget.
//!
//! Invariant: a run that has begun can always go on. It holds room for one pack for its whole life, so it never waits for
//! what another run holds; room for more packs it takes only where enough stays free for another run to begin. The room of
//! a pack returns when the last reader of its bytes is gone, also when a slow region keeps them for a while.
//!
//! The memory of a pack is one piece that belongs to its room. A piece that large comes straight from the kernel, is used
//! for one pack after the other, and goes straight back at the end, whatever threads wrote and read it, so that a program
//! that backs up for weeks does not grow.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_runtime::{ByteBudget, Permit};
use breakwater_storage::Payload;
use bytes::{Bytes, BytesMut};

/// How often a waiter looks whether the budget has room again, or its run was stopped.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Packs of one run at most: one is filled while two are on their way.
const PACKS: usize = 3;

/// Room for the packs of one run.
#[derive(Debug)]
pub(crate) struct Room {
    budget: ByteBudget,
    /// Bytes of the largest pack.
    pack: u64,
    /// Bytes of the budget that are left for others.
    spare: u64,
    places: Mutex<Places>,
    returned: Condvar,
}

#[derive(Debug)]
struct Places {
    idle: Vec<Place>,
    /// Idle or not.
    count: usize,
}

/// Room for one pack, and memory that was used for one before.
#[derive(Debug)]
struct Place {
    permit: Permit,
    memory: BytesMut,
}

/// Room that a pack has.
#[derive(Debug)]
pub(crate) struct Lease {
    place: Option<Place>,
    home: Arc<Room>,
}

impl Room {
    /// `own` is the run's own room: as much as one pack takes. `spare` bytes of the budget are left for others.
    pub(crate) fn new(budget: ByteBudget, own: Permit, spare: u64) -> Arc<Room> {
        let pack = own.bytes();
        let places = Places { idle: vec![Place { permit: own, memory: BytesMut::new() }], count: 1 };
        Arc::new(Room { budget, pack, spare, places: Mutex::new(places), returned: Condvar::new() })
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
        let mut places = self.places();
        if let Some(lease) = self.take_now(&mut places) {
            return Some(lease);
        }
        if patience.is_zero() {
            return None;
        }
        let mut places = self.returned.wait_timeout(places, patience).unwrap_or_else(PoisonError::into_inner).0;
        self.take_now(&mut places)
    }

    /// Wakes those who wait, because what they wait for may not be needed any more.
    pub(crate) fn wake(&self) {
        self.returned.notify_all();
    }

    fn take_now(self: &Arc<Self>, places: &mut Places) -> Option<Lease> {
        let place = match places.idle.pop() {
            Some(place) => place,
            None if places.count < PACKS => {
                let permit = self.more()?;
                places.count += 1;
                Place { permit, memory: BytesMut::new() }
            }
            None => return None,
        };
        Some(Lease { place: Some(place), home: Arc::clone(self) })
    }

    /// Room for one pack more, smaller than usual rather than none.
    fn more(&self) -> Option<Permit> {
        let free = self.budget.capacity().saturating_sub(self.budget.in_use()).saturating_sub(self.spare);
        let size = free.min(self.pack);
        if size < self.pack / 4 {
            return None;
        }
        let mut permit = self.budget.try_acquire(size + self.spare)?;
        permit.shrink_to(size);
        Some(permit)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Bytes that the pack may take.
    pub(crate) fn bytes(&self) -> u64 {
        self.place.as_ref().map_or(0, |place| place.permit.bytes())
    }

    /// Memory for a pack of `size` bytes: that of the pack before, if nobody reads that any more, or new.
    pub(crate) fn memory(&mut self, size: usize) -> BytesMut {
        let mut memory = self.place.as_mut().map(|place| std::mem::take(&mut place.memory)).unwrap_or_default();
        if memory.try_reclaim(size) { memory } else { BytesMut::with_capacity(size) }
    }

    /// Keeps what is left of the memory when all frames are cut off from it, so that it can be used again after them.
    pub(crate) fn keep(&mut self, rest: BytesMut) {
        if let Some(place) = &mut self.place {
            place.memory = rest;
        }
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
        self.home.places().idle.extend(self.place.take());
        self.home.returned.notify_all();
    }
}

/// Bytes that keep their room. They are dropped before it, in the order of the fields.
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

    fn room(capacity: u64, spare: u64) -> (ByteBudget, Arc<Room>) {
        let budget = ByteBudget::new(capacity);
        let own = budget.try_acquire(100).unwrap();
        (budget.clone(), Room::new(budget, own, spare))
    }

    #[test]
    fn its_own_room_first_then_what_is_free_then_it_waits() {
        let (budget, room) = room(200, 0);
        let never = || false;
        let first = room.take(never).unwrap();
        assert_eq!(budget.in_use(), 100);
        let second = room.take(never).unwrap();
        assert_eq!(budget.in_use(), 200);
        assert!(room.take(|| true).is_none(), "stopped while nothing is free");
        let waiter = std::thread::spawn({
            let room = Arc::clone(&room);
            move || room.take(never).is_some()
        });
        drop(first);
        assert!(waiter.join().unwrap());
        drop((second, room));
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn enough_is_left_for_another_run_and_a_small_pack_is_better_than_none() {
        let (budget, room) = room(220, 60);
        let _own = room.take(|| true).unwrap();
        assert_eq!(room.take(|| true).unwrap().bytes(), 60);
        assert_eq!(budget.in_use(), 160);
        let (budget, room) = self::room(180, 60);
        let _own = room.take(|| true).unwrap();
        assert!(room.take(|| true).is_none(), "less than a quarter of a pack would be left");
        assert_eq!(budget.in_use(), 100);
    }

    #[test]
    fn another_run_cannot_starve_it() {
        let (budget, room) = room(200, 0);
        let _other = budget.try_acquire(100).unwrap();
        drop(room.take(|| false).unwrap());
        drop(room.take(|| false).unwrap());
    }

    #[test]
    fn memory_is_used_again_when_nobody_reads_it() {
        let (_budget, room) = room(100, 0);
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
        let (_budget, room) = room(100, 0);
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
