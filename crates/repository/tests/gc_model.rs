//! An exhaustive model of deletion and garbage collection: a base snapshot, an old one of which only half is still needed,
//! a writer, a dead session that may come back, two workers, and two regions; and a second source that leans on the first.
//!
//! Every step is one operation on one region, or one listing of one region. Every process may stop at any step, for a while
//! or for good; a region that is away is one in which nothing happens for a while; a write may land long after it was sent.
//! All interleavings are visited.
//!
//! The steps mirror the code: `Look` is the end of `BackupSession::begin`; deletions and condemnations are
//! `Repository::bury`; `Tombs`, `Bury`, `Opens`, `Registers` are `gc::census`; `Copy`, `Record`, `Decide` are `gc::repack`;
//! `Delete` is `gc::deleting`; `Mark` is `session::leaning`, `Marks` is `gc::leaners`, `OtherTombs` the first step of
//! `census_of_leaner`. Open records of sessions that are committed in every region may be removed by anybody.

#[path = "gc_model/rules.rs"]
mod rules;
#[path = "gc_model/state.rs"]
mod state;

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use rules::{Mistake, Reached, Rules, Scene};

/// Two multiplications spread the packed states well enough.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only integers are hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn write_u128(&mut self, value: u128) {
        let halves = value.to_le_bytes();
        for half in halves.chunks_exact(8) {
            self.write_u64(half.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)));
        }
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Visits every state that can be reached; answers how many there are, or the way to one that breaks a promise.
fn explore(rules: &Rules) -> Result<(usize, Reached), String> {
    let mut seen: HashSet<(u128, u128), BuildHasherDefault<Spread>> = HashSet::default();
    let mut queue = VecDeque::new();
    let mut reached = Reached::default();
    let mut out = Vec::new();
    let start = rules.start();
    seen.insert(start.key());
    queue.push_back(start);
    while let Some(state) = queue.pop_front() {
        if let Some(broken) = rules.broken(&state) {
            return Err(format!("{broken} after {} states: {state:?}", seen.len()));
        }
        reached.note(&state);
        rules.next(&state, &mut out);
        for next in out.drain(..) {
            if seen.insert(next.key()) {
                queue.push_back(next);
            }
        }
    }
    Ok((seen.len(), reached))
}

/// All of a scene, with the time that it took.
fn holds(rules: Rules) -> Reached {
    let begun = Instant::now();
    let (states, reached) = explore(&rules).unwrap_or_else(|broken| panic!("{rules:?}: {broken}"));
    println!("{rules:?}: {states} states in {:.1?}", begun.elapsed());
    assert!(states > 1000, "{rules:?} has only {states} states");
    reached
}

fn fails(scene: Scene, mistake: Mistake) {
    for (workers, regions) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        if let Err(broken) = explore(&Rules { scene, workers, regions, mistake }) {
            println!("{mistake:?} is found with {workers} workers and {regions} regions: {broken}");
            return;
        }
    }
    panic!("{mistake:?} is not found");
}

fn correct(scene: Scene, workers: usize, regions: usize) -> Rules {
    Rules { scene, workers, regions, mistake: Mistake::None }
}

/// Whether the larger bounds are wanted too, which take minutes.
fn large() -> bool {
    std::env::var_os("BREAKWATER_GC_MODEL_LARGE").is_some()
}

#[test]
fn two_workers_delete_while_a_writer_refers() {
    let reached = holds(correct(Scene::Delete, 2, 1));
    assert!(reached.committed && reached.stopped && reached.base_gone && reached.own_gone, "{reached:?}");
}

#[test]
fn a_base_is_deleted_in_two_regions_while_a_writer_refers() {
    let reached = holds(correct(Scene::Delete, 1, 2));
    assert!(reached.committed && reached.stopped && reached.base_gone && reached.own_gone, "{reached:?}");
}

#[test]
fn two_workers_and_orphans_of_the_dead() {
    let reached = holds(correct(Scene::Adopt, 2, 1));
    assert!(reached.committed && reached.stopped && reached.orphan_gone && reached.came_back, "{reached:?}");
}

#[test]
fn orphans_of_the_dead_in_two_regions() {
    let reached = holds(correct(Scene::Adopt, 1, 2));
    assert!(reached.committed && reached.stopped && reached.orphan_gone && reached.came_back, "{reached:?}");
}

#[test]
fn two_workers_move_what_is_left() {
    let reached = holds(correct(Scene::Repack, 2, 1));
    assert!(reached.moved && reached.moved_gone && reached.killed, "{reached:?}");
}

#[test]
fn what_is_left_is_moved_in_two_regions() {
    if large() {
        let reached = holds(correct(Scene::Repack, 1, 2));
        assert!(reached.moved_gone && reached.killed, "{reached:?}");
    }
}

#[test]
fn another_source_leans_on_a_snapshot_that_is_deleted() {
    let reached = holds(correct(Scene::Lean, 2, 1));
    assert!(reached.committed && reached.stopped && reached.base_gone && reached.outlived, "{reached:?}");
}

#[test]
fn another_source_leans_on_a_snapshot_that_is_deleted_in_two_regions() {
    let reached = holds(correct(Scene::Lean, 1, 2));
    assert!(reached.committed && reached.stopped && reached.base_gone && reached.outlived, "{reached:?}");
}

#[test]
fn what_another_source_leans_on_is_deleted_after_its_own_snapshots() {
    let reached = holds(correct(Scene::LeanAgain, 2, 1));
    assert!(reached.committed && reached.stopped && reached.base_gone && reached.outlived, "{reached:?}");
}

#[test]
fn what_another_source_leans_on_is_deleted_in_two_regions_after_its_own_snapshots() {
    let reached = holds(correct(Scene::LeanAgain, 1, 2));
    assert!(reached.committed && reached.stopped && reached.base_gone && reached.outlived, "{reached:?}");
}

#[test]
fn what_only_another_source_needs_is_moved() {
    let reached = holds(correct(Scene::LeanRepack, 2, 1));
    assert!(reached.moved_gone && reached.killed, "{reached:?}");
}

#[test]
fn not_looking_at_open_records_of_other_sources_is_found() {
    fails(Scene::Lean, Mistake::OtherOpensIgnored);
}

#[test]
fn not_looking_again_at_manifests_of_other_sources_is_found() {
    fails(Scene::Lean, Mistake::OtherRegistersIgnored);
    fails(Scene::Lean, Mistake::NoRecheck);
}

#[test]
fn a_verified_set_that_outlives_its_snapshot_is_found() {
    fails(Scene::Lean, Mistake::NoLook);
    fails(Scene::Lean, Mistake::TombstonesInOneRegion);
}

#[test]
fn marks_listed_before_the_tombstones_are_everywhere_are_found() {
    fails(Scene::Lean, Mistake::MarksListedTooEarly);
}

#[test]
fn a_source_that_marks_after_it_has_looked_is_found() {
    fails(Scene::Lean, Mistake::MarkedTooLate);
}

#[test]
fn tombstones_of_another_source_in_one_region_only_are_found() {
    fails(Scene::LeanAgain, Mistake::OtherTombstonesInOneRegion);
}

#[test]
fn tombstones_of_another_source_that_came_after_its_open_records_were_listed_are_found() {
    fails(Scene::LeanAgain, Mistake::LateOtherTombstones);
}

#[test]
fn registers_listed_before_open_records_are_found() {
    fails(Scene::Delete, Mistake::NoRecheck);
}

#[test]
fn orphans_deleted_without_a_fence_everywhere_are_found() {
    fails(Scene::Adopt, Mistake::NoFence);
}

#[test]
fn ignoring_what_open_sessions_name_is_found() {
    fails(Scene::Delete, Mistake::NoPin);
}

#[test]
fn a_writer_that_does_not_look_for_tombstones_is_found() {
    fails(Scene::Delete, Mistake::NoLook);
    fails(Scene::Adopt, Mistake::NoLook);
}

#[test]
fn a_writer_that_looks_before_its_open_record_is_durable_is_found() {
    fails(Scene::Delete, Mistake::LooksTooEarly);
}

#[test]
fn deleting_packs_of_sessions_without_tombstone_is_found() {
    fails(Scene::Delete, Mistake::NoTombstone);
}

#[test]
fn tombstones_that_came_after_the_open_records_were_listed_are_found() {
    fails(Scene::Delete, Mistake::LateTombstones);
}

#[test]
fn tombstones_in_one_region_only_are_found() {
    fails(Scene::Delete, Mistake::TombstonesInOneRegion);
}

#[test]
fn a_region_that_is_left_out_is_found() {
    fails(Scene::Delete, Mistake::RegionLeftOut);
}

#[test]
fn deleting_a_pack_before_its_frames_moved_everywhere_is_found() {
    fails(Scene::Repack, Mistake::MovedTooLate);
}

#[test]
fn a_run_that_does_not_ask_whether_it_was_taken_for_dead_is_found() {
    fails(Scene::Repack, Mistake::NoDecision);
}
