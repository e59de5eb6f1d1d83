//! Every codec at many levels: what goes in comes out, what is damaged is refused, and nobody is made to take more memory
//! than a chunk is worth.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]
#![allow(clippy::cast_possible_truncation, reason = "made-up bytes")]

use std::io::Write;

use breakwater_repository::format::codec::{Codec, Compression, Decoder, Encoder};
use peak_alloc::PeakAlloc;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole program, so the tests of this file take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

const KINDS: [&str; 14] = [
    "zstd:-7", "zstd:1", "zstd:3", "zstd:9", "zstd:19", "lz4", "gzip:1", "gzip:6", "gzip:9", "bzip2:1", "bzip2:9",
    "xz:0", "xz:6", "xz:9",
];

fn kinds() -> impl Iterator<Item = Compression> {
    KINDS.into_iter().map(|text| text.parse().unwrap())
}

fn encoder(kind: Compression) -> Encoder {
    Encoder::new(kind).unwrap()
}

/// Text-like content that every codec shortens.
fn text(length: usize) -> Vec<u8> {
    let words = [&b"select "[..], b"from ", b"where ", b"breakwater ", b"id = ", b"42; ", b"\n"];
    let mut state = 7_u32;
    let mut out = Vec::with_capacity(length + 16);
    while out.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(words[(state >> 24) as usize % words.len()]);
    }
    out.truncate(length);
    out
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn length(plain: &[u8]) -> u32 {
    u32::try_from(plain.len()).unwrap()
}

#[test]
fn every_codec_undoes_itself_with_one_encoder_and_one_decoder_for_many_chunks() {
    let _turn = TURN.lock();
    let mut decoder = Decoder::new();
    for kind in kinds() {
        let mut encoder = encoder(kind);
        for plain in
            [text(131_072), text(10), Vec::new(), noise(5000), vec![0; 2 << 20], text(300_000), text(3), text(300)]
        {
            let (codec, stored) = encoder.encode(&plain).unwrap();
            assert!(codec == Codec::None || stored.len() < plain.len() - plain.len() / 32, "{kind}: {}", stored.len());
            assert!(codec == kind.codec() || codec == Codec::None);
            if plain.len() > 100_000 {
                assert_eq!(codec, kind.codec());
            }
            assert_eq!(decoder.decode(codec, stored, length(&plain)).unwrap(), plain, "{kind}");
            assert_eq!(codec.decode(stored.to_vec(), length(&plain)).unwrap(), plain);
        }
    }
}

#[test]
fn another_length_and_bytes_behind_the_end_are_refused() {
    let _turn = TURN.lock();
    let mut decoder = Decoder::new();
    let plain = text(20_000);
    for kind in kinds() {
        let mut encoder = encoder(kind);
        let (codec, stored) = encoder.encode(&plain).unwrap();
        for wrong in [0, 1, 19_999, 20_001, 40_000, u32::MAX] {
            assert!(decoder.decode(codec, stored, wrong).is_err(), "{kind} as {wrong}");
        }
        let mut longer = stored.to_vec();
        longer.extend_from_slice(&[0; 9]);
        assert!(decoder.decode(codec, &longer, 20_000).is_err(), "{kind} with a tail");
        assert_eq!(decoder.decode(codec, stored, 20_000).unwrap(), plain, "{kind} after refusals");
    }
}

#[test]
fn a_bomb_takes_no_more_memory_than_the_chunk_that_it_claims_to_be() {
    let _turn = TURN.lock();
    let bomb = vec![0; 32 << 20];
    let gzip = {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(&bomb).unwrap();
        writer.finish().unwrap()
    };
    let bzip2 = {
        let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        writer.write_all(&bomb).unwrap();
        writer.finish().unwrap()
    };
    let bombs = [
        (Codec::Zstd, zstd::bulk::compress(&bomb, 3).unwrap()),
        (Codec::Lz4, lz4_flex::block::compress(&bomb)),
        (Codec::Gzip, gzip),
        (Codec::Bzip2, bzip2),
        (Codec::Xz, liblzma::encode_all(&bomb[..], 9).unwrap()),
    ];
    drop(bomb);
    for (codec, stored) in bombs {
        let mut decoder = Decoder::new();
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        assert!(decoder.decode(codec, &stored, 100_000).is_err(), "{}", codec.word());
        let taken = HEAP.peak_usage() - before;
        assert!(taken < 5 << 20, "{} took {taken} bytes", codec.word());
    }
}

#[test]
fn an_xz_dictionary_larger_than_the_chunk_is_refused() {
    let _turn = TURN.lock();
    // Level 9 asks for 64 MiB whatever the content is; our encoder never does.
    let plain = text(50_000);
    let stored = liblzma::encode_all(&plain[..], 9).unwrap();
    assert!(Decoder::new().decode(Codec::Xz, &stored, 50_000).is_err());
}

#[test]
fn an_encoder_stays_within_the_memory_that_it_announces() {
    let _turn = TURN.lock();
    // liblzma and libzstd have heaps of their own, which this cannot see.
    for kind in kinds().filter(|kind| !matches!(kind.codec(), Codec::Zstd | Codec::Xz)) {
        for size in [4096, 131_072, 2 << 20] {
            let plain = text(size);
            HEAP.reset_peak_usage();
            let before = HEAP.current_usage();
            encoder(kind).encode(&plain).unwrap();
            let taken = (HEAP.peak_usage() - before) as u64;
            assert!(taken <= kind.memory(size), "{kind} took {taken} for {size}, not {}", kind.memory(size));
        }
    }
}

#[test]
fn zstd_stays_within_the_memory_that_it_announces() {
    for kind in [-7, 1, 3, 5, 6, 9, 12, 13, 16, 19].map(|level| Compression::new(Codec::Zstd, level).unwrap()) {
        for size in [131_072, 2 << 20] {
            let mut context = zstd::zstd_safe::CCtx::create();
            context.set_parameter(zstd::zstd_safe::CParameter::CompressionLevel(kind.level())).unwrap();
            let mut out = vec![0; zstd::zstd_safe::compress_bound(size)];
            context.compress2(&mut out[..], &text(size)).unwrap();
            let taken = (context.sizeof() + out.len()) as u64;
            assert!(taken <= kind.memory(size), "{kind} takes {taken} for {size}, not {}", kind.memory(size));
        }
    }
}

fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec((any::<u8>(), 1..60_usize, any::<bool>()), 0..60);
    pieces.prop_map(|pieces| {
        let mut out = Vec::new();
        for (byte, length, repeat) in pieces {
            let part = (0..length).map(|at| if repeat { byte } else { byte.wrapping_mul(at as u8).wrapping_add(byte) });
            out.extend(part);
        }
        out
    })
}

proptest! {
    #[test]
    fn chunks_come_back_and_damage_is_found_or_harmless(
        plain in chunks(),
        kind in prop::sample::select(KINDS.to_vec()),
        at: prop::sample::Index,
        bit in 0..8_u8,
        cut: prop::sample::Index,
    ) {
        let kind: Compression = kind.parse().unwrap();
        let mut encoder = Encoder::new(kind).unwrap();
        let (codec, stored) = encoder.encode(&plain).unwrap();
        let mut decoder = Decoder::new();
        prop_assert_eq!(decoder.decode(codec, stored, length(&plain)).unwrap(), &plain[..]);
        if codec != Codec::None {
            let mut flipped = stored.to_vec();
            flipped[at.index(stored.len())] ^= 1 << bit;
            // LZ4 and zstd have no checksum here: the seal around them finds every flip. No length may be exceeded, though.
            if let Ok(other) = decoder.decode(codec, &flipped, length(&plain)) {
                prop_assert_eq!(other.len(), plain.len());
            }
            prop_assert!(decoder.decode(codec, &stored[..cut.index(stored.len())], length(&plain)).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        codec in prop::sample::select(Codec::ALL.to_vec()),
        plain_length in 0..5000_u32,
    ) {
        if let Ok(plain) = Decoder::new().decode(codec, &bytes, plain_length) {
            prop_assert_eq!(length(plain), plain_length);
        }
    }

    #[test]
    fn arbitrary_bytes_behind_a_true_beginning_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in prop::sample::select(KINDS.to_vec()),
        keep in 1..60_usize,
    ) {
        let mut encoder = Encoder::new(kind.parse().unwrap()).unwrap();
        let plain = text(3000);
        let (codec, stored) = encoder.encode(&plain).unwrap();
        let mut mixed = stored[..keep.min(stored.len())].to_vec();
        mixed.extend_from_slice(&bytes);
        if let Ok(found) = Decoder::new().decode(codec, &mixed, 3000) {
            prop_assert_eq!(found.len(), 3000);
        }
    }
}
