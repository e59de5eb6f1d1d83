//! The index of chunks against a map, with many threads, on a bad disk, and at a size that its memory does not hold.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]
#![allow(clippy::cast_possible_truncation, reason = "made-up entries")]

use std::collections::HashMap;

use breakwater_core::SessionId;
use breakwater_pipeline::index::{Half, Index, IndexError, Place};
use breakwater_repository::format::{Codec, PackId};
use peak_alloc::PeakAlloc;
use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole program, so the tests of this file take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

const SMALL: usize = 1 << 20;

/// Entries that a small index gathers before it writes a run.
const TABLE: u64 = 7168;

fn place(n: u64) -> Place {
    let session = SessionId::from_bytes([(n % 5) as u8; 16]);
    let pack = PackId { session, number: (n >> 10) as u32 };
    let codec = if n.is_multiple_of(3) { Codec::None } else { Codec::Xz };
    Place { pack, offset: (n as u32).wrapping_mul(16), stored: n as u32 & 0xff_ffff, codec }
}

/// A half as random as those of ids are.
fn half(n: u64) -> Half {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let (high, low) = (mix(n + 1), mix(n ^ 0x5555_5555_5555));
    let mut half = [0; 16];
    half[..8].copy_from_slice(&high.to_be_bytes());
    half[8..].copy_from_slice(&low.to_be_bytes());
    half
}

#[test]
fn what_is_inserted_is_found_after_many_runs_and_merges() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let index = Index::new(dir.path(), SMALL);
    let count = TABLE * 22 + 5;
    for n in 0..count {
        index.insert(half(n), place(n));
        if n % 1000 == 0 {
            assert_eq!(index.get(&half(n / 2)), Some(place(n / 2)), "{n}");
        }
    }
    assert!((1..8).contains(&index.runs()), "{} runs", index.runs());
    for n in (0..count).step_by(7) {
        assert_eq!(index.get(&half(n)), Some(place(n)), "{n}");
        assert_eq!(index.get(&half(n + count)), None);
    }
    assert_eq!(index.trouble(), None);
    // What is inserted again is what counts.
    for n in 0..TABLE + 10 {
        index.insert(half(n), place(n + 1));
    }
    assert_eq!(index.get(&half(3)), Some(place(4)));
    drop(index);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn threads_insert_and_look_at_once() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let index = Index::new(dir.path(), SMALL);
    let each = TABLE * 3;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let index = &index;
            scope.spawn(move || {
                for n in thread * each..(thread + 1) * each {
                    index.insert(half(n), place(n));
                    assert_eq!(index.get(&half(n)), Some(place(n)));
                }
            });
        }
    });
    assert!((0..4 * each).step_by(11).all(|n| index.get(&half(n)) == Some(place(n))));
    assert_eq!(index.trouble(), None);
}

#[test]
fn a_sorted_run_is_newer_than_what_was_before_and_an_unsorted_one_is_refused() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let index = Index::new(dir.path(), SMALL);
    for n in 0..100 {
        index.insert(half(n), place(0));
    }
    let mut run: Vec<(Half, Place)> = (50..40_000).map(|n| (half(n), place(n))).collect();
    run.sort_unstable_by_key(|(half, _)| *half);
    assert_eq!(index.add_run(run.iter().copied()).unwrap(), 39_950);
    assert_eq!(index.get(&half(49)), Some(place(0)));
    assert!((50..40_000).step_by(3).all(|n| index.get(&half(n)) == Some(place(n))));
    run.reverse();
    assert!(matches!(index.add_run(run), Err(IndexError::Unsorted)));
    assert_eq!(index.add_run([]).unwrap(), 0);
}

#[test]
fn without_a_scratch_directory_it_forgets_and_says_so() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let index = Index::new(&dir.path().join("not there"), SMALL);
    for n in 0..TABLE + 100 {
        index.insert(half(n), place(n));
    }
    assert_eq!(index.get(&half(0)), None);
    assert_eq!(index.get(&half(TABLE + 50)), Some(place(TABLE + 50)));
    let (why, forgotten) = index.trouble().unwrap();
    assert!(why.starts_with("writing a run of the index: "), "{why}");
    assert_eq!(forgotten, TABLE);
    assert!(matches!(index.add_run([(half(1), place(1))]), Err(IndexError::Io(_))));
}

#[test]
fn memory_stays_flat_whatever_is_inserted() {
    let _turn = TURN.lock();
    // The campaign inserts twenty million into 16 MiB; here as many tables are filled, smaller ones.
    let wanted: Option<u64> = std::env::var("BREAKWATER_INDEX_ENTRIES").ok().map(|text| text.parse().unwrap());
    let (memory, count) = wanted.map_or((SMALL, TABLE * 60), |count| (16 << 20, count));
    let dir = tempfile::tempdir().unwrap();
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let index = Index::new(dir.path(), memory);
    let mut peak_early = 0;
    for n in 0..count {
        index.insert(half(n), place(n));
        if n % 64 == 0 {
            assert_eq!(index.get(&half(n / 3)), Some(place(n / 3)));
            assert_eq!(index.get(&half(n + count)), None);
        }
        if n == count / 4 {
            peak_early = HEAP.peak_usage() - before;
        }
    }
    let peak = HEAP.peak_usage() - before;
    println!("{count} entries, {memory} bytes given, {peak_early} taken by the first quarter, {peak} in all");
    assert!(peak <= memory + (2 << 20), "{peak}");
    assert!(peak <= peak_early + peak_early / 8 + (1 << 20), "{peak_early} grew to {peak}");
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u64),
    Many(u16, u16),
    Run(Vec<(u16, u64)>),
    Get(u16),
}

/// Halves that are close to each other and far from random: correctness must not lean on the ids being good.
fn poor(n: u16) -> Half {
    let mut half = [0; 16];
    half[7] = (n >> 8) as u8;
    half[15] = n as u8;
    half
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<u16>(), any::<u64>()).prop_map(|(n, value)| Step::Insert(n % 3000, value)),
        1 => (any::<u16>(), 0..9000_u16).prop_map(|(from, count)| Step::Many(from, count)),
        1 => prop::collection::vec((any::<u16>(), any::<u64>()), 0..400).prop_map(Step::Run),
        6 => any::<u16>().prop_map(Step::Get),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(Config::with_cases(24))]
    #[test]
    fn it_answers_like_a_map(steps in steps()) {
        let _turn = TURN.lock();
        let dir = tempfile::tempdir().unwrap();
        let index = Index::new(dir.path(), SMALL);
        let mut map: HashMap<Half, Place> = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(n, value) => {
                    index.insert(poor(n), place(value));
                    map.insert(poor(n), place(value));
                }
                Step::Many(from, count) => {
                    for n in 0..count {
                        let (half, place) = (poor(from.wrapping_add(n)), place(u64::from(n)));
                        index.insert(half, place);
                        map.insert(half, place);
                    }
                }
                Step::Run(mut list) => {
                    list.sort_by_key(|(n, _)| *n);
                    list.dedup_by_key(|(n, _)| *n);
                    index.add_run(list.iter().map(|(n, value)| (poor(*n), place(*value)))).unwrap();
                    map.extend(list.iter().map(|(n, value)| (poor(*n), place(*value))));
                }
                Step::Get(n) => prop_assert_eq!(index.get(&poor(n)), map.get(&poor(n)).copied()),
            }
        }
        for n in (0..=u16::MAX).step_by(17) {
            prop_assert_eq!(index.get(&poor(n)), map.get(&poor(n)).copied());
        }
        prop_assert_eq!(index.trouble(), None);
    }
}
