//! The chunker against a model that looks at one position after the other, and what makes it useful: cuts that follow the
//! content, sizes as announced, keys that tell nothing of each other.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]
#![allow(clippy::cast_possible_truncation, reason = "made-up content")]

use std::collections::BTreeSet;

use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use breakwater_chunker::{Chunker, Sizes};
use breakwater_crypto::{Secret, derive};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use proptest::test_runner::Config;

fn key(n: u8) -> Secret {
    Secret::from_bytes([n; 32])
}

fn small() -> Sizes {
    Sizes::new(256, 1024, 4096).unwrap()
}

fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// The definition, written again: polynomials bit by bit, one encryption a position.
struct Model {
    table: Vec<[u64; 2]>,
    aes: Aes128Enc,
    sizes: Sizes,
}

impl Model {
    fn new(key: &Secret, sizes: Sizes) -> Model {
        let table = (0..=255_u8)
            .map(|byte| {
                let random = derive(key, "chunker-table", &[&[byte / 2]]);
                let part = &random.expose()[16 * usize::from(byte % 2)..][..16];
                [&part[..8], &part[8..]].map(|half| u64::from_le_bytes(half.try_into().unwrap()))
            })
            .collect();
        let aes = Aes128Enc::new_from_slice(&derive(key, "chunker-aes", &[]).expose()[..16]).unwrap();
        Model { table, aes, sizes }
    }

    fn is_cut(&self, window: &[u8]) -> bool {
        let mut block = [0; 16];
        for half in 0..2 {
            // A sum of 128 bits, reduced at the end.
            let mut sum = 0_u128;
            for (at, byte) in window.iter().enumerate() {
                sum ^= u128::from(self.table[usize::from(*byte)][half]) << (63 - at);
            }
            for bit in (64..128).rev() {
                if sum >> bit & 1 == 1 {
                    sum ^= (1_u128 << 64 | 0b11011) << (bit - 64);
                }
            }
            block[8 * half..8 * half + 8].copy_from_slice(&(sum as u64).to_le_bytes());
        }
        let mut block = block.into();
        self.aes.encrypt_block(&mut block);
        let low = u64::from_le_bytes(block[..8].try_into().unwrap());
        low < u64::MAX / (self.sizes.average() - self.sizes.least()) as u64
    }

    fn cut_points(&self, data: &[u8]) -> Vec<usize> {
        let (mut ends, mut start) = (Vec::new(), 0);
        for end in 1..=data.len() {
            let length = end - start;
            let wanted = length >= self.sizes.least() && self.is_cut(&data[end - 64..end]);
            if wanted || length == self.sizes.greatest() || end == data.len() {
                ends.push(end);
                start = end;
            }
        }
        ends
    }
}

/// The cuts when the content comes in slices of these lengths, over and over.
fn sliced(chunker: &Chunker, data: &[u8], lengths: &[usize]) -> Vec<usize> {
    let mut cutter = chunker.cutter();
    let (mut ends, mut at) = (Vec::new(), 0);
    let mut lengths = lengths.iter().cycle();
    while at < data.len() {
        let slice_end = (at + lengths.next().unwrap()).min(data.len());
        while at < slice_end {
            match cutter.next_cut(&data[at..slice_end]) {
                Some(length) => {
                    at += length;
                    ends.push(at);
                }
                None => at = slice_end,
            }
        }
    }
    if ends.last() != Some(&data.len()) && !data.is_empty() {
        assert!(cutter.held() > 0);
        ends.push(data.len());
    }
    ends
}

proptest! {
    #![proptest_config(Config::with_cases(48))]
    #[test]
    fn cuts_are_those_of_the_model_in_any_slicing(
        seed: u64,
        length in 0..20_000_usize,
        repeat in 1..200_usize,
        lengths in prop::collection::vec(1..3000_usize, 1..6),
        least in 64..300_usize,
    ) {
        let sizes = Sizes::new(least, least + 500, least + 2500).unwrap();
        let chunker = Chunker::new(&key(7), sizes);
        // Random, and with a period, so that windows recur.
        for data in [random(seed, length), random(seed, repeat).into_iter().cycle().take(length).collect::<Vec<_>>()] {
            let expected = Model::new(&key(7), sizes).cut_points(&data);
            prop_assert_eq!(&chunker.cut_points(&data), &expected);
            prop_assert_eq!(&sliced(&chunker, &data, &lengths), &expected);
        }
    }

    #[test]
    fn tiny_slices_change_nothing(data in prop::collection::vec(any::<u8>(), 0..3000), length in 1..70_usize) {
        let chunker = Chunker::new(&key(8), Sizes::new(64, 200, 700).unwrap());
        prop_assert_eq!(sliced(&chunker, &data, &[length]), chunker.cut_points(&data));
    }
}

#[test]
fn cuts_meet_again_after_an_insertion() {
    let chunker = Chunker::new(&key(1), small());
    let data = random(5, 1 << 20);
    let before: BTreeSet<usize> = chunker.cut_points(&data).into_iter().collect();
    for (at, inserted) in [(500_000, 1), (1000, 17), (700_001, 5000)] {
        let mut changed = data.clone();
        changed.splice(at..at, random(9, inserted));
        let after = chunker.cut_points(&changed);
        let lost = after.iter().filter(|end| **end > at + inserted && !before.contains(&(**end - inserted))).count();
        let moved = after.iter().filter(|end| **end <= at && !before.contains(end)).count();
        assert!(
            lost <= 12 && moved == 0,
            "{lost} cuts behind the insertion of {inserted} at {at} are new, {moved} before it"
        );
    }
}

#[test]
fn sizes_are_as_announced() {
    let chunker = Chunker::new(&key(2), small());
    let data = random(6, 16 << 20);
    let ends = chunker.cut_points(&data);
    let sizes: Vec<usize> =
        std::iter::once(0).chain(ends.iter().copied()).zip(&ends).map(|(start, end)| end - start).collect();
    let (last, others) = sizes.split_last().unwrap();
    assert!(*last <= 4096 && others.iter().all(|size| (256..=4096).contains(size)));
    let average = data.len() / sizes.len();
    assert!((980..1060).contains(&average), "{average}");
    // Beyond the least size they are geometric: half of them are below least + ln 2 * (average - least).
    let below = sizes.iter().filter(|size| **size < 256 + 532).count() * 100 / sizes.len();
    assert!((47..54).contains(&below), "{below} %");
    let greatest = sizes.iter().filter(|size| **size == 4096).count();
    assert!(greatest < sizes.len() / 50, "{greatest} of {} are as long as may be", sizes.len());
}

#[test]
fn constant_content_is_cut_evenly() {
    for byte in [0, 1, 255] {
        for n in 0..20 {
            let chunker = Chunker::new(&key(n), small());
            let ends = chunker.cut_points(&vec![byte; 40_000]);
            let first = ends[0];
            assert!(first == 4096 || first == 256, "{first}");
            assert!(ends.windows(2).all(|pair| pair[1] - pair[0] == first || pair[1] == 40_000));
        }
    }
}

#[test]
fn another_key_cuts_elsewhere() {
    let data = random(11, 4 << 20);
    let cuts = |n: u8| -> BTreeSet<usize> { Chunker::new(&key(n), small()).cut_points(&data).into_iter().collect() };
    let all: Vec<BTreeSet<usize>> = (0..6).map(cuts).collect();
    for (number, one) in all.iter().enumerate() {
        for other in &all[number + 1..] {
            // By chance one cut in about a thousand meets one of the other key's.
            let common = one.intersection(other).count();
            assert!(common < 25, "{common} of {} cuts are common", one.len());
        }
    }
}

#[test]
fn a_short_file_is_one_chunk() {
    let chunker = Chunker::new(&key(3), Sizes::FILES);
    for length in [1, 63, 64, 65, 262_143, 262_144] {
        assert_eq!(chunker.cut_points(&random(1, length)), [length]);
    }
    assert!(chunker.cut_points(&[]).is_empty());
    assert_eq!(chunker.cut(&random(1, 262_143)), None);
}

#[test]
fn a_chunker_shows_no_key() {
    assert_eq!(
        format!("{:?}", Chunker::new(&key(3), small())),
        "Chunker { sizes: Sizes { least: 256, average: 1024, greatest: 4096 }, .. }"
    );
}

/// These cuts must never change: a repository whose files are cut elsewhere stores everything again.
#[test]
fn frozen_cuts() {
    let mut state = 1_u32;
    let data: Vec<u8> = (0..8 << 20)
        .map(|_| {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
            (state >> 16) as u8
        })
        .collect();
    let ends = Chunker::new(&key(42), Sizes::FILES).cut_points(&data);
    assert_eq!(ends, FROZEN_FILES);
    let ends = Chunker::new(&key(42), small()).cut_points(&data[..16_384]);
    assert_eq!(ends, FROZEN_SMALL);
}

const FROZEN_FILES: &[usize] = &[359_310, 1_496_841, 2_914_257, 3_964_833, 5_485_787, 8_242_882, 8_388_608];
const FROZEN_SMALL: &[usize] =
    &[386, 2182, 2843, 5516, 6778, 7706, 8007, 8302, 9952, 11_071, 12_070, 14_951, 15_306, 16_029, 16_313, 16_384];
