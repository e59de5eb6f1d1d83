//! Chunks that need not be stored again: those of this session, those that dead sessions have left, and those of the base.
//!
//! Invariant: a chunk is answered only where it lies in a pack of this session or in one that a region holds already, and
//! two threads never store the same chunk: the second waits for the first.
//! Memory is bounded: of this session's chunks the oldest are forgotten first, which costs room in a repository, never
//! truth. Chunks are told apart by 16 of their 32 keyed bytes; two of them meet by chance once in 2^64.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use breakwater_core::SessionId;
use breakwater_crypto::ChunkId;
use breakwater_repository::format::{Codec, FrameLocation, PackId};

/// Chunks of this session remembered in each of the two generations: 17 MiB and, at 128 KiB a chunk, 56 GiB of content.
const GENERATION: usize = (1 << 19) * 7 / 8;

/// Chunks of dead sessions, and of the base, remembered: 56 MiB and 256 GiB of content.
const EARLIER: usize = 1 << 21;

/// How often a thread that waits for another's chunk looks whether the run was stopped.
const LOOK: Duration = Duration::from_millis(50);

type Half = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Compact {
    pack: u32,
    offset: u32,
    /// Stored length and, in the top byte, codec: chunks are far smaller than 16 MiB.
    stored_and_codec: u32,
}

/// The chunks known to one backup. Shared by its threads.
#[derive(Debug)]
pub(crate) struct Known {
    own: Mutex<Own>,
    settled: Condvar,
    adopted: Earlier,
    base: OnceLock<Earlier>,
    session: SessionId,
}

#[derive(Debug, Default)]
struct Own {
    young: HashMap<Half, Compact>,
    old: HashMap<Half, Compact>,
    /// Chunks that a thread is storing now.
    claimed: HashSet<Half>,
    /// Threads that wait for another's chunk.
    waiting: usize,
}

/// What is known of a chunk.
#[derive(Debug)]
pub(crate) enum Standing<'a> {
    /// It is stored.
    Known {
        location: FrameLocation,
        /// The base has it too.
        in_base: bool,
    },
    /// The caller is to store it.
    New(ChunkClaim<'a>),
    /// The run was stopped while another thread was storing it.
    Stopped,
}

/// The right to store a chunk; dropping it unused lets another thread do it.
#[derive(Debug)]
pub(crate) struct ChunkClaim<'a> {
    known: &'a Known,
    half: Half,
}

/// Chunks that lie in packs of earlier sessions.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    chunks: Vec<(Half, Compact)>,
    packs: Vec<PackId>,
    forgotten: u64,
}

impl Earlier {
    /// Begins a pack; the chunks that follow lie in it.
    pub(crate) fn pack(&mut self, pack: PackId) {
        self.packs.push(pack);
    }

    /// Adds a chunk of the pack begun last.
    pub(crate) fn chunk(&mut self, id: ChunkId, offset: u32, stored: u32, codec: Codec) {
        let Some(pack) = self.packs.len().checked_sub(1).and_then(|last| u32::try_from(last).ok()) else { return };
        match compact(pack, offset, stored, codec) {
            Some(compact) if self.chunks.len() < EARLIER => self.chunks.push((half(id), compact)),
            _ => self.forgotten += 1,
        }
    }

    /// Chunks that there was no room to remember.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn sorted(mut self) -> Earlier {
        self.chunks.sort_unstable_by_key(|(half, _)| *half);
        self.chunks.dedup_by_key(|(half, _)| *half);
        self.chunks.shrink_to_fit();
        self
    }

    fn find(&self, half: Half, id: ChunkId, plain: u32) -> Option<FrameLocation> {
        let index = self.chunks.binary_search_by(|(known, _)| known.cmp(&half)).ok()?;
        let (_, compact) = self.chunks.get(index)?;
        let pack = self.packs.get(usize::try_from(compact.pack).ok()?)?;
        compact.location(*pack, id, plain)
    }
}

impl Known {
    pub(crate) fn new(session: SessionId, adopted: Earlier) -> Known {
        let adopted = adopted.sorted();
        Known { own: Mutex::default(), settled: Condvar::new(), adopted, base: OnceLock::new(), session }
    }

    /// From now on the chunks of the base are known too.
    pub(crate) fn learn(&self, base: Earlier) {
        // Nobody learns twice: who asks for it makes sure.
        drop(self.base.set(base.sorted()));
    }

    /// Where the chunk, of `plain` bytes, lies; where it lies nowhere, the caller gets the right to store it.
    pub(crate) fn claim(&self, id: ChunkId, plain: u32, stopped: impl Fn() -> bool) -> Standing<'_> {
        let half = half(id);
        if let Some(location) = self.base.get().and_then(|base| base.find(half, id, plain)) {
            return Standing::Known { location, in_base: true };
        }
        if let Some(location) = self.adopted.find(half, id, plain) {
            return Standing::Known { location, in_base: false };
        }
        let mut own = self.own();
        loop {
            if let Some(compact) = own.young.get(&half).or_else(|| own.old.get(&half))
                && let Some(location) =
                    compact.location(PackId { session: self.session, number: compact.pack }, id, plain)
            {
                return Standing::Known { location, in_base: false };
            }
            if own.claimed.insert(half) {
                return Standing::New(ChunkClaim { known: self, half });
            }
            if stopped() {
                return Standing::Stopped;
            }
            own.waiting += 1;
            own = self.settled.wait_timeout(own, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            own.waiting -= 1;
        }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkClaim<'_> {
    /// The chunk lies there now.
    pub(crate) fn placed(self, location: &FrameLocation) {
        let FrameLocation { pack, offset, stored, codec, .. } = *location;
        let Some(compact) = compact(pack.number, offset, stored, codec) else { return };
        let mut own = self.known.own();
        if own.young.len() >= GENERATION {
            own.old = std::mem::take(&mut own.young);
        }
        own.young.insert(self.half, compact);
    }
}

impl Drop for ChunkClaim<'_> {
    fn drop(&mut self) {
        let mut own = self.known.own();
        own.claimed.remove(&self.half);
        if own.waiting > 0 {
            self.known.settled.notify_all();
        }
    }
}

impl Compact {
    fn location(&self, pack: PackId, id: ChunkId, plain: u32) -> Option<FrameLocation> {
        let [codec, high, middle, low] = self.stored_and_codec.to_be_bytes();
        let stored = u32::from_be_bytes([0, high, middle, low]);
        let codec = Codec::from_byte(codec).ok()?;
        Some(FrameLocation { pack, offset: self.offset, stored, plain, codec, id })
    }
}

fn compact(pack: u32, offset: u32, stored: u32, codec: Codec) -> Option<Compact> {
    let [0, high, middle, low] = stored.to_be_bytes() else { return None };
    Some(Compact { pack, offset, stored_and_codec: u32::from_be_bytes([codec.byte(), high, middle, low]) })
}

fn half(id: ChunkId) -> Half {
    let mut half = [0; 16];
    half.copy_from_slice(&id.0[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: SessionId = SessionId::from_bytes([1; 16]);
    const DEAD: SessionId = SessionId::from_bytes([2; 16]);

    fn id(n: u32) -> ChunkId {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        ChunkId(id)
    }

    fn location(session: SessionId, number: u32, n: u32, stored: u32, codec: Codec) -> FrameLocation {
        FrameLocation { pack: PackId { session, number }, offset: n * 16, stored, plain: 9000, codec, id: id(n) }
    }

    fn add(known: &Known, location: &FrameLocation) {
        let Standing::New(claim) = known.claim(location.id, location.plain, || false) else { panic!("known before") };
        claim.placed(location);
    }

    fn find(known: &Known, n: u32) -> Option<FrameLocation> {
        match known.claim(id(n), 9000, || false) {
            Standing::Known { location, .. } => Some(location),
            Standing::New(_) | Standing::Stopped => None,
        }
    }

    #[test]
    fn chunks_are_found_where_they_were_put() {
        let mut adopted = Earlier::default();
        for number in [3, 9] {
            adopted.pack(PackId { session: DEAD, number });
            for n in number * 100..number * 100 + 10 {
                adopted.chunk(id(n), n * 16, 1000 + n, Codec::Zstd);
            }
        }
        let known = Known::new(OWN, adopted);
        let own = location(OWN, 4, 1, 0x00FF_FFFF, Codec::None);
        add(&known, &own);
        assert_eq!(find(&known, 1), Some(own));
        assert_eq!(find(&known, 905), Some(location(DEAD, 9, 905, 1905, Codec::Zstd)));
        assert_eq!(find(&known, 2), None);
    }

    #[test]
    fn what_does_not_fit_is_not_remembered_rather_than_remembered_wrongly() {
        let known = Known::new(OWN, Earlier::default());
        add(&known, &location(OWN, 0, 1, 0x0100_0000, Codec::Zstd));
        assert_eq!(find(&known, 1), None);
    }

    #[test]
    fn a_second_thread_waits_for_the_first_and_takes_over_when_that_fails() {
        let known = Known::new(OWN, Earlier::default());
        let Standing::New(first) = known.claim(id(1), 9000, || false) else { panic!("known before") };
        assert!(matches!(known.claim(id(1), 9000, || true), Standing::Stopped));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| find(&known, 1));
            first.placed(&location(OWN, 7, 1, 5, Codec::None));
            assert_eq!(second.join().unwrap(), Some(location(OWN, 7, 1, 5, Codec::None)));
        });
        let Standing::New(failing) = known.claim(id(2), 9000, || false) else { panic!("known before") };
        drop(failing);
        assert!(matches!(known.claim(id(2), 9000, || true), Standing::New(_)));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let known = Known::new(OWN, Earlier::default());
        let count = u32::try_from(GENERATION).unwrap() * 2 + 5;
        for n in 0..count {
            add(&known, &location(OWN, 0, n, 1, Codec::None));
        }
        let own = known.own();
        assert!(own.young.len() + own.old.len() <= 2 * GENERATION && own.claimed.is_empty());
        drop(own);
        assert!(find(&known, 0).is_none() && find(&known, count - 1).is_some());
    }
}
