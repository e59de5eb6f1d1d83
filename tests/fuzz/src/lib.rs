//! Fuzz targets of every parser that reads what others may have written or damaged.
//!
//! A target gets good inputs as seeds and bytes made of them by [`Edit`]s, or bytes out of nothing. Invariants that
//! [`Bound::hold`] adds to "does not panic": memory is bounded by the input, and so is time.
//!
//! `cargo test -p breakwater-fuzz` is a short run; `BREAKWATER_FUZZ_ITERATIONS` makes it longer (`tests/nightly fuzz`). A failure
//! prints the smallest input and `BOLERO_RANDOM_SEED`, which repeats it. `cargo bolero test NAME` runs the same targets under libFuzzer
//! where a compiler with sanitizers is installed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bolero::TypeGenerator;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Targets are run one at a time, from their seeds to their last input: the allocator counts what the whole process holds.
static ALONE: Mutex<()> = Mutex::new(());

/// Waits until no other target runs.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No input of a few hundred KiB may keep a parser busy for longer, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Inputs of one short run.
const ITERATIONS: usize = 4000;

/// How many inputs a run makes.
pub fn iterations() -> usize {
    std::env::var("BREAKWATER_FUZZ_ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(ITERATIONS)
}

/// One change of good bytes. Places are taken modulo the length.
#[derive(Clone, Debug, TypeGenerator)]
pub enum Edit {
    /// One bit is another.
    Flip(u32, u8),
    /// One byte is another.
    Set(u32, u8),
    /// Four bytes become a number that parsers like to trip over.
    Number(u32, u8),
    /// Bytes come in between.
    Insert(u32, Vec<u8>),
    /// Some bytes are gone.
    Remove(u32, u8),
    /// Some bytes are there many times.
    Repeat(u32, u8, u8),
    /// The rest is gone.
    Truncate(u32),
    /// A piece of another seed comes in between.
    Splice(u32, u8, u32, u16),
}

/// One input: a seed and what is done to it, or bytes out of nothing.
#[derive(Clone, Debug, TypeGenerator)]
pub struct Input {
    seed: u8,
    edits: Vec<Edit>,
    bytes: Vec<u8>,
}

impl Input {
    /// The bytes that a parser gets.
    pub fn bytes(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let Some(mut bytes) = seeds.get(usize::from(self.seed) % (seeds.len() + 1)).cloned() else {
            return self.bytes.clone();
        };
        for edit in self.edits.iter().take(8) {
            edit.apply(&mut bytes, seeds);
        }
        bytes
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = |place: u32, length: usize| if length == 0 { 0 } else { place as usize % length };
        match self {
            Edit::Flip(place, bit) => {
                let at = at(*place, bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Edit::Set(place, value) => {
                let at = at(*place, bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = *value;
                }
            }
            Edit::Number(place, which) => {
                const EDGES: [u32; 8] = [0, 1, u32::MAX, i32::MAX as u32, 1 << 31, 0xFFFF, 1 << 28, 1 << 20];
                let at = at(*place, bytes.len());
                let edge = EDGES[usize::from(*which) % EDGES.len()].to_le_bytes();
                if let Some(room) = bytes.get_mut(at..at + 4) {
                    room.copy_from_slice(&edge);
                }
            }
            Edit::Insert(place, new) => {
                let at = at(*place, bytes.len() + 1);
                bytes.splice(at..at, new.iter().copied());
            }
            Edit::Remove(place, count) => {
                let start = at(*place, bytes.len());
                let end = (start + usize::from(*count)).min(bytes.len());
                bytes.drain(start..end);
            }
            Edit::Repeat(place, count, times) => {
                let start = at(*place, bytes.len());
                let end = (start + usize::from(*count)).min(bytes.len());
                let piece = bytes.get(start..end).unwrap_or_default().repeat(usize::from(*times));
                bytes.splice(end..end, piece);
            }
            Edit::Truncate(place) => bytes.truncate(at(*place, bytes.len() + 1)),
            Edit::Splice(place, seed, from, count) => {
                let Some(other) = seeds.get(usize::from(*seed) % seeds.len().max(1)) else { return };
                let start = at(*from, other.len());
                let end = (start + usize::from(*count)).min(other.len());
                let piece = other.get(start..end).unwrap_or_default().to_vec();
                let at = at(*place, bytes.len() + 1);
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// What a parser may take.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Bytes whatever the input is.
    pub base: usize,
    /// Bytes for each byte of input.
    pub per_byte: usize,
}

impl Bound {
    /// Room for an error's text and a few tables.
    pub const SMALL: Bound = Bound { base: 256 << 10, per_byte: 32 };

    /// For JSON and YAML, whose trees are larger than their text.
    pub const TREE: Bound = Bound { base: 512 << 10, per_byte: 400 };

    /// Runs `parse` on `bytes` and fails where it takes more.
    pub fn hold(self, bytes: &[u8], parse: impl FnOnce(&[u8])) {
        MEMORY.reset_peak_usage();
        let (before, begun) = (MEMORY.current_usage(), Instant::now());
        parse(bytes);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        let allowed = self.base + self.per_byte * bytes.len();
        assert!(taken <= allowed, "{taken} bytes of memory for {} bytes of input; {allowed} are allowed", bytes.len());
        assert!(begun.elapsed() < PATIENCE, "{:?} for {} bytes of input", begun.elapsed(), bytes.len());
    }
}

/// Declares fuzz targets: a name, seeds, what may be taken, and the parser.
#[macro_export]
macro_rules! targets {
    ($($(#[$attribute:meta])* $name:ident($seeds:expr, $bound:expr, |$bytes:ident| $parse:expr);)*) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                let _alone = $crate::alone();
                let seeds: Vec<Vec<u8>> = $seeds;
                let bound: $crate::Bound = $bound;
                for seed in &seeds {
                    bound.hold(seed, |$bytes: &[u8]| { $parse; });
                }
                bolero::check!()
                    .with_iterations($crate::iterations())
                    .with_type::<$crate::Input>()
                    .for_each(|input| bound.hold(&input.bytes(&seeds), |$bytes: &[u8]| { $parse; }));
            }
        )*
    };
}
