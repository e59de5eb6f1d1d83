//! Chunks that need not be stored again: those of this session, those that dead sessions have left, those of the base, and
//! those of other sources that a restorer vouches for.
//!
//! Invariant: a chunk is answered only where it lies in a pack of this session or in one that a region holds already, and
//! two threads never store the same chunk: the second waits for the first.
//! Nothing is forgotten, however much there is, and memory is flat: what does not fit into tables in memory lies in scratch
//! ([`Index`]), which a backup whose chunks do fit never touches. Scratch that fails costs room in a repository, never truth,
//! and becomes a warning of the backup. Chunks are told apart by 16 of their 32 keyed bytes; two of them meet by chance once
//! in 2^64.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_crypto::ChunkId;
use breakwater_repository::format::FrameLocation;

use crate::index::{Half, Index, Place, half};

/// How often a thread that waits for another's chunk looks whether the run was stopped.
const LOOK: Duration = Duration::from_millis(50);

/// The chunks known to one backup. Shared by its threads. What it does may read and write scratch, so, but for
/// [`learn`](Known::learn), it is not for an async thread.
#[derive(Debug)]
pub(crate) struct Known {
    claims: Mutex<Claims>,
    settled: Condvar,
    /// Those of this session, of dead ones and of other sources.
    stored: Arc<Index>,
    base: Arc<Index>,
}

#[derive(Debug, Default)]
struct Claims {
    /// Chunks that a thread is storing now.
    held: HashSet<Half>,
    /// Threads that wait for another's chunk.
    waiting: usize,
}

/// Where chunks lie that this session has not stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose {
    /// In packs of a session that died.
    DeadSession,
    /// In packs of another source of the domain, which a restorer vouches for.
    Neighbour,
    /// In packs of the base, which refers to them.
    Base,
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

impl Known {
    /// Nothing is known yet. Two thirds of `memory` bytes are for chunks of this session, of dead ones and of other
    /// sources, the rest is for those of the base; what does not fit goes to `scratch`.
    pub(crate) fn new(scratch: &Path, memory: u64) -> Known {
        let third = usize::try_from(memory / 3).unwrap_or(usize::MAX / 2);
        Known {
            claims: Mutex::default(),
            settled: Condvar::new(),
            stored: Arc::new(Index::new(scratch, 2 * third)),
            base: Arc::new(Index::new(scratch, third)),
        }
    }

    /// From now on these chunks are known too.
    pub(crate) async fn learn(&self, whose: Whose, chunks: Vec<(Half, Place)>) {
        let index = Arc::clone(match whose {
            Whose::DeadSession | Whose::Neighbour => &self.stored,
            Whose::Base => &self.base,
        });
        let inserting = move || chunks.into_iter().for_each(|(half, place)| index.insert(half, place));
        if let Err(error) = tokio::task::spawn_blocking(inserting).await {
            tracing::warn!(%error, "chunks of an earlier session are not found again");
        }
    }

    /// Where the chunk, of `plain` bytes, lies; where it lies nowhere, the caller gets the right to store it.
    pub(crate) fn claim(&self, id: ChunkId, plain: u32, stopped: impl Fn() -> bool) -> Standing<'_> {
        let half = half(&id);
        loop {
            if let Some(known) = self.find(half, id, plain) {
                return known;
            }
            let mut claims = self.claims();
            if claims.held.insert(half) {
                drop(claims);
                let claim = ChunkClaim { known: self, half };
                // Another thread may have stored it since the look above; from here on none does.
                return match self.find(half, id, plain) {
                    Some(known) => known,
                    None => Standing::New(claim),
                };
            }
            if stopped() {
                return Standing::Stopped;
            }
            claims.waiting += 1;
            claims = self.settled.wait_timeout(claims, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            claims.waiting -= 1;
        }
    }

    /// What a person should know of scratch that failed.
    pub(crate) fn warning(&self) -> Option<String> {
        let troubles: Vec<(String, u64)> =
            [&self.stored, &self.base].iter().filter_map(|index| index.trouble()).collect();
        let (why, _) = troubles.first()?;
        let chunks: u64 = troubles.iter().map(|(_, forgotten)| forgotten).sum();
        Some(format!(
            "the scratch directory failed, so {chunks} chunks were forgotten, and more may be stored than needed: {why} (hint: \
             look at the disk of the agent's data directory, and at the room on it)"
        ))
    }

    fn find(&self, half: Half, id: ChunkId, plain: u32) -> Option<Standing<'_>> {
        let (place, in_base) = match self.base.get(&half) {
            Some(place) => (place, true),
            None => (self.stored.get(&half)?, false),
        };
        let Place { pack, offset, stored, codec } = place;
        Some(Standing::Known { location: FrameLocation { pack, offset, stored, plain, codec, id }, in_base })
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkClaim<'_> {
    /// The chunk lies there now.
    pub(crate) fn placed(self, location: &FrameLocation) {
        // Known first, free after that: whoever waits for it finds it.
        self.known.stored.insert(self.half, place(location));
    }
}

impl Drop for ChunkClaim<'_> {
    fn drop(&mut self) {
        let mut claims = self.known.claims();
        claims.held.remove(&self.half);
        if claims.waiting > 0 {
            self.known.settled.notify_all();
        }
    }
}

/// A chunk as it is learned.
pub(crate) fn chunk(location: &FrameLocation) -> (Half, Place) {
    (half(&location.id), place(location))
}

fn place(location: &FrameLocation) -> Place {
    let FrameLocation { pack, offset, stored, codec, .. } = *location;
    Place { pack, offset, stored, codec }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use breakwater_core::SessionId;
    use breakwater_repository::format::{Codec, PackId};
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::test_runner::Config;

    use super::*;

    const OWN: SessionId = SessionId::from_bytes([1; 16]);
    const DEAD: SessionId = SessionId::from_bytes([2; 16]);
    const BASE: SessionId = SessionId::from_bytes([3; 16]);

    /// More chunks than the smallest tables take.
    const MANY: u32 = 20_000;

    fn id(n: u32) -> ChunkId {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
        id[8..12].copy_from_slice(&n.to_be_bytes());
        ChunkId(id)
    }

    fn location(session: SessionId, number: u32, n: u32, stored: u32, codec: Codec) -> FrameLocation {
        FrameLocation { pack: PackId { session, number }, offset: n * 16, stored, plain: 9000, codec, id: id(n) }
    }

    fn add(known: &Known, location: &FrameLocation) {
        let Standing::New(claim) = known.claim(location.id, location.plain, || false) else { panic!("known before") };
        claim.placed(location);
    }

    fn find(known: &Known, n: u32) -> Option<(FrameLocation, bool)> {
        match known.claim(id(n), 9000, || false) {
            Standing::Known { location, in_base } => Some((location, in_base)),
            Standing::New(_) | Standing::Stopped => None,
        }
    }

    fn small(scratch: &Path) -> Known {
        Known::new(scratch, 0)
    }

    #[tokio::test]
    async fn chunks_are_found_where_they_were_put_and_the_base_is_asked_first() {
        let scratch = tempfile::tempdir().unwrap();
        let known = small(scratch.path());
        for number in [3, 9] {
            let chunks = number * 100..number * 100 + 10;
            let chunks = chunks.map(|n| chunk(&location(DEAD, number, n, 1000 + n, Codec::Zstd))).collect();
            known.learn(Whose::DeadSession, chunks).await;
        }
        let own = location(OWN, 4, 1, 0x0FFF_FFFF, Codec::None);
        add(&known, &own);
        assert_eq!(find(&known, 1), Some((own, false)));
        assert_eq!(find(&known, 905), Some((location(DEAD, 9, 905, 1905, Codec::Zstd), false)));
        assert_eq!(find(&known, 2), None);
        let base = |n| location(BASE, 6, n, 12, Codec::Lz4);
        known.learn(Whose::Base, [1, 2, 905].map(|n| chunk(&base(n))).into()).await;
        for n in [1, 2, 905] {
            assert_eq!(find(&known, n), Some((base(n), true)));
        }
        assert_eq!(find(&known, 906).map(|(_, in_base)| in_base), Some(false));
    }

    #[test]
    fn what_does_not_fit_is_not_remembered_rather_than_remembered_wrongly() {
        let scratch = tempfile::tempdir().unwrap();
        let known = small(scratch.path());
        add(&known, &location(OWN, 0, 1, 0x1000_0000, Codec::Zstd));
        assert_eq!(find(&known, 1), None);
        assert_eq!(known.warning(), None, "scratch did nothing wrong");
    }

    #[test]
    fn a_second_thread_waits_for_the_first_and_takes_over_when_that_fails() {
        let scratch = tempfile::tempdir().unwrap();
        let known = small(scratch.path());
        let Standing::New(first) = known.claim(id(1), 9000, || false) else { panic!("known before") };
        assert!(matches!(known.claim(id(1), 9000, || true), Standing::Stopped));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| find(&known, 1));
            first.placed(&location(OWN, 7, 1, 5, Codec::None));
            assert_eq!(second.join().unwrap(), Some((location(OWN, 7, 1, 5, Codec::None), false)));
        });
        let Standing::New(failing) = known.claim(id(2), 9000, || false) else { panic!("known before") };
        drop(failing);
        assert!(matches!(known.claim(id(2), 9000, || true), Standing::New(_)));
        assert!(known.claims().held.is_empty());
    }

    #[test]
    fn of_many_threads_one_stores_each_chunk_also_while_runs_are_written() {
        let scratch = tempfile::tempdir().unwrap();
        let known = small(scratch.path());
        let stored: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..MANY).filter(|n| stores(&known, *n)).count())).collect();
            threads.into_iter().map(|thread| u32::try_from(thread.join().unwrap()).unwrap()).sum()
        });
        assert_eq!(stored, MANY);
        assert!(known.stored.runs() > 0 && known.claims().held.is_empty());
    }

    /// Stores the chunk if nobody else does.
    fn stores(known: &Known, n: u32) -> bool {
        let place = location(OWN, 0, n, 1, Codec::None);
        match known.claim(id(n), 9000, || false) {
            Standing::New(claim) => {
                claim.placed(&place);
                true
            }
            Standing::Known { location, in_base } => {
                assert_eq!((location, in_base), (place, false));
                false
            }
            Standing::Stopped => panic!("nobody stopped it"),
        }
    }

    #[tokio::test]
    async fn nothing_is_forgotten_however_much_there_is() {
        let scratch = tempfile::tempdir().unwrap();
        let known = small(scratch.path());
        for n in 0..MANY {
            add(&known, &location(OWN, n / 100, n, 1, Codec::None));
        }
        let earlier = |whose, session, from: u32| {
            let chunks = (from..from + MANY).map(|n| chunk(&location(session, 5, n, 2, Codec::Zstd))).collect();
            known.learn(whose, chunks)
        };
        earlier(Whose::DeadSession, DEAD, MANY).await;
        earlier(Whose::Base, BASE, 2 * MANY).await;
        assert!(known.stored.runs() > 0 && known.base.runs() > 0, "the tables would have held it all");
        for n in 0..MANY {
            assert_eq!(find(&known, n), Some((location(OWN, n / 100, n, 1, Codec::None), false)), "{n}");
            let dead = location(DEAD, 5, MANY + n, 2, Codec::Zstd);
            assert_eq!(find(&known, MANY + n), Some((dead, false)), "{n}");
            let base = location(BASE, 5, 2 * MANY + n, 2, Codec::Zstd);
            assert_eq!(find(&known, 2 * MANY + n), Some((base, true)), "{n}");
        }
        assert_eq!((find(&known, 3 * MANY), known.warning()), (None, None));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "its files have names");
    }

    #[test]
    fn what_fits_never_touches_scratch_and_scratch_that_fails_becomes_a_warning() {
        let scratch = tempfile::tempdir().unwrap();
        let known = small(&scratch.path().join("not there"));
        let own = |n| location(OWN, 0, n, 1, Codec::None);
        (0..2000).for_each(|n| add(&known, &own(n)));
        assert!((0..2000).all(|n| find(&known, n) == Some((own(n), false))));
        assert_eq!(known.warning(), None);
        (2000..MANY).for_each(|n| add(&known, &own(n)));
        assert_eq!(find(&known, 0), None, "forgotten, and stored once more");
        assert_eq!(find(&known, MANY - 1), Some((own(MANY - 1), false)));
        let warning = known.warning().unwrap();
        assert!(
            warning.contains(" chunks were forgotten") && warning.contains("writing a run of the index: "),
            "{warning}"
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Store { from: u16, count: u16, fails: bool },
        Learn { whose: Whose, from: u16, count: u16 },
        Find(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let whose = || prop_oneof![Just(Whose::DeadSession), Just(Whose::Neighbour), Just(Whose::Base)];
        let step = prop_oneof![
            (any::<u16>(), 0..6000_u16, any::<bool>()).prop_map(|(from, count, fails)| Step::Store {
                from,
                count,
                fails
            }),
            (whose(), any::<u16>(), 0..6000_u16).prop_map(|(whose, from, count)| Step::Learn { whose, from, count }),
            any::<u16>().prop_map(Step::Find),
        ];
        prop::collection::vec(step, 1..24)
    }

    proptest! {
        #![proptest_config(Config::with_cases(16))]
        #[test]
        fn it_knows_what_two_maps_know(steps in steps()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let scratch = tempfile::tempdir().unwrap();
            let known = small(scratch.path());
            let (mut stored, mut base) = (HashMap::new(), HashMap::new());
            let expected = |stored: &HashMap<u32, FrameLocation>, base: &HashMap<u32, FrameLocation>, n: u32| {
                base.get(&n).map(|place| (*place, true)).or_else(|| stored.get(&n).map(|place| (*place, false)))
            };
            for (number, step) in (0..).zip(steps) {
                let numbers = |from: u16, count: u16| (0..count).map(move |n| u32::from(from.wrapping_add(n)));
                match step {
                    Step::Store { from, count, fails } => for n in numbers(from, count) {
                        match known.claim(id(n), 9000, || false) {
                            Standing::New(claim) if fails => drop(claim),
                            Standing::New(claim) => {
                                prop_assert!(expected(&stored, &base, n).is_none());
                                let place = location(OWN, number, n, number, Codec::Zstd);
                                claim.placed(&place);
                                stored.insert(n, place);
                            }
                            Standing::Known { location, in_base } => {
                                prop_assert_eq!(Some((location, in_base)), expected(&stored, &base, n));
                            }
                            Standing::Stopped => prop_assert!(false, "nobody stopped it"),
                        }
                    },
                    Step::Learn { whose, from, count } => {
                        let (session, map) = match whose {
                            Whose::DeadSession | Whose::Neighbour => (DEAD, &mut stored),
                            Whose::Base => (BASE, &mut base),
                        };
                        let places = numbers(from, count).map(|n| location(session, number, n, 3, Codec::None));
                        map.extend(numbers(from, count).zip(places.clone()));
                        runtime.block_on(known.learn(whose, places.map(|place| chunk(&place)).collect()));
                    }
                    Step::Find(n) => {
                        prop_assert_eq!(find(&known, n.into()), expected(&stored, &base, n.into()));
                    }
                }
            }
            for n in (0..=u32::from(u16::MAX)).step_by(13) {
                prop_assert_eq!(find(&known, n), expected(&stored, &base, n));
            }
            prop_assert_eq!(known.warning(), None);
            prop_assert!(known.claims().held.is_empty());
        }
    }
}
