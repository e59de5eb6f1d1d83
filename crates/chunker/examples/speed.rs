//! How fast the chunker is, beside a plain hash of the same memory in the same run: `cargo run -p breakwater-chunker --example speed`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use breakwater_chunker::{Chunker, Sizes};
use breakwater_crypto::Secret;

const LENGTH: usize = 256 << 20;

fn main() {
    let mut state = 1_u64;
    let data: Vec<u8> = (0..LENGTH / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let chunker = Chunker::new(&Secret::from_bytes([1; 32]), Sizes::FILES);
    let no_skip = Sizes::new(64, 1 << 20, 4 << 20).map(|sizes| Chunker::new(&Secret::from_bytes([1; 32]), sizes));
    measure("chunker, whole", &data, |data| chunker.cut_points(data).len());
    measure("chunker, slices of 128 KiB", &data, |data| {
        let mut cutter = chunker.cutter();
        let mut cuts = 0;
        for mut slice in data.chunks(128 << 10) {
            while let Some(length) = cutter.next_cut(slice) {
                cuts += 1;
                slice = slice.get(length..).unwrap_or_default();
                if slice.is_empty() {
                    break;
                }
            }
        }
        cuts
    });
    if let Some(no_skip) = no_skip {
        measure("chunker, every position", &data, |data| no_skip.cut_points(data).len());
    }
    measure("keyed BLAKE3 of chunks of 1 MiB", &data, |data| {
        data.chunks(1 << 20).map(|chunk| usize::from(blake3::keyed_hash(&[1; 32], chunk).as_bytes()[0])).sum()
    });
    measure("reading (sum of words)", &data, |data| {
        let (words, _) = data.as_chunks::<8>();
        usize::from(words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word))) > 7)
    });
}

/// Time that this thread had a processor, where the system tells; otherwise time that went by.
fn spent(began: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let told = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    told.map_or_else(|| began.elapsed(), Duration::from_nanos)
}

/// The best of five.
fn measure(what: &str, data: &[u8], work: impl Fn(&[u8]) -> usize) {
    let began = Instant::now();
    let best = (0..5)
        .map(|_| {
            let start = spent(began);
            black_box(work(black_box(data)));
            spent(began).saturating_sub(start)
        })
        .min()
        .unwrap_or_default();
    println!("{what:34} {:8.0} MB/s", data.len() as f64 / 1e6 / best.as_secs_f64());
}
