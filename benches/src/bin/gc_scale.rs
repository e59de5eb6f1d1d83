//! The garbage collection's memory at scale: a synthetic source of 1 PiB in packs of 64 MiB (16.8 million names), half of
//! whose sessions have tombstones, and the references of snapshots that still need parts of them. What runs is what a round
//! runs between its listings and its deletions: the references are decoded, sorted on disk, laid beside the names of the
//! packs, and every verdict is compared with the one that the synthesis calls for.
//!
//! Exit code 1 when a verdict is wrong or the memory is more than it may be.

use std::time::Instant;

use anyhow::{Result, ensure};
use breakwater_benches::measure::peak_memory;
use breakwater_core::{SessionId, SourceUid};
use breakwater_repository::ObjectName;
use breakwater_repository::format::pack::{KeyKind, PackId};
use breakwater_repository::format::references::{FrameRange, PackRanges, ReferenceDecoder, ReferenceEncoder, Union};
use breakwater_repository::gc::live::{LivePacks, LiveRows, live_row};
use breakwater_repository::gc::sweep::{Fate, ListedPack, Verdict, sweep};
use clap::Parser;

const PACK: u64 = 64 << 20;

/// Bytes of one of which nearly all is needed.
const NEARLY_ALL: u32 = (64 << 20) - 4096;
/// Sessions of the source; every second one has a tombstone.
const SESSIONS: u32 = 1024;
/// What memory may be.
const MOST: u64 = 200 << 20;
const SOURCE: SourceUid = SourceUid::from_bytes(*b"a-source-of-size");

#[derive(Parser)]
struct Arguments {
    /// 1 TiB instead of 1 PiB.
    #[arg(long)]
    small: bool,
    /// Snapshots whose references are read.
    #[arg(long, default_value_t = 3)]
    snapshots: u32,
}

/// Ids sort as their numbers.
fn session(number: u32) -> SessionId {
    let mut bytes = [0x11; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    SessionId::from_bytes(bytes)
}

const fn is_deleted(session: u32) -> bool {
    session.is_multiple_of(2)
}

/// How much of a pack a snapshot needs: nothing, little in three places, or nearly all.
fn needed(snapshot: u32, session: u32, pack: u32) -> Option<Vec<FrameRange>> {
    let dice = (session ^ pack).wrapping_mul(2_654_435_761) >> 24;
    let range = |offset, length| FrameRange { offset, length };
    match dice {
        0..100 => None,
        100..150 => Some((0..3).map(|at| range(128 + at * (1 << 20) + snapshot * (1 << 18), 140_000)).collect()),
        _ => Some(vec![range(128, NEARLY_ALL)]),
    }
}

fn main() -> Result<()> {
    let Arguments { small, snapshots } = Arguments::parse();
    let packs_each: u32 = if small { 16 } else { 16_384 };
    let scratch = tempfile::tempdir()?;
    let begun = Instant::now();

    let mut rows = LiveRows::new(scratch.path(), 16 << 20);
    let (mut frames, mut bytes) = (0_u64, 0_u64);
    for snapshot in 0..snapshots {
        let mut decoder = ReferenceDecoder::default();
        let mut encoder = ReferenceEncoder::default();
        let mut take = |content: Vec<u8>| -> Result<()> {
            (frames, bytes) = (frames + 1, bytes + content.len() as u64);
            for pack in decoder.frame(&content)? {
                let number = u32::from_be_bytes(pack.pack.session.as_bytes()[..4].try_into()?);
                for range in pack.ranges.iter().filter(|_| is_deleted(number)) {
                    rows.push(live_row(pack.kind, pack.pack, *range))?;
                }
            }
            Ok(())
        };
        for number in 0..SESSIONS {
            for pack in 0..packs_each {
                let Some(ranges) = needed(snapshot, number, pack) else { continue };
                let pack = PackId { session: session(number), number: pack };
                if let Some(content) = encoder.push(&PackRanges { kind: KeyKind::Content, pack, ranges })? {
                    take(content)?;
                }
            }
        }
        if let Some(content) = encoder.finish() {
            take(content)?;
        }
        eprintln!("references of snapshot {snapshot} read after {:.1?}", begun.elapsed());
    }
    let live = rows.finish()?;
    let marked = begun.elapsed();

    // Names as a region lists them, in order, each taken apart as a listing's names are.
    let listing = (0..SESSIONS).flat_map(|number| (0..packs_each).map(move |pack| (number, pack)));
    let packs = listing.map(|(number, pack)| {
        let name = ObjectName::ContentPack(SOURCE, PackId { session: session(number), number: pack }).to_string();
        match ObjectName::parse(&name) {
            Some(ObjectName::ContentPack(_, pack)) => Ok(ListedPack { kind: KeyKind::Content, pack, size: PACK }),
            _ => Err(std::io::Error::other(name)),
        }
    });
    let fate = |session: SessionId| {
        let number = session.as_bytes().first_chunk().map_or(1, |bytes| u32::from_be_bytes(*bytes));
        if is_deleted(number) { Fate::Judged } else { Fate::Stays }
    };
    let (mut deletes, mut repacks) = (0_u64, 0_u64);
    let live = Union::new([LivePacks::of(&live)]);
    let swept = sweep::<std::io::Error>(packs, live, fate, 50, |verdict| {
        match verdict {
            Verdict::Delete(_) => deletes += 1,
            Verdict::Repack(..) => repacks += 1,
        }
        Ok(())
    })?;
    let took = begun.elapsed();

    let (mut expected_deletes, mut expected_repacks) = (0, 0);
    for number in (0..SESSIONS).filter(|number| is_deleted(*number)) {
        for pack in 0..packs_each {
            match needed(0, number, pack).map(|ranges| ranges.len()) {
                None => expected_deletes += 1,
                Some(3) => expected_repacks += 1,
                Some(_) => {}
            }
        }
    }
    ensure!((deletes, repacks) == (expected_deletes, expected_repacks), "wrong verdicts: {deletes}, {repacks}");
    let peak = peak_memory();
    let names = u64::from(SESSIONS) * u64::from(packs_each);
    ensure!(swept.packs.objects == names, "{} packs were seen of {names}", swept.packs.objects);
    eprintln!(
        "{names} packs ({} TiB), {frames} frames of references ({} MiB): {deletes} to delete, {repacks} to move; {took:.1?}, of it \
         {marked:.1?} reading references; peak memory {} MiB",
        swept.packs.bytes >> 40,
        bytes >> 20,
        peak >> 20
    );
    println!(
        "{}",
        serde_json::json!({
            "bench": "gc_scale", "packs": names, "bytes": swept.packs.bytes, "snapshots": snapshots,
            "reference_bytes": bytes, "deleted": deletes, "moved": repacks, "seconds": took.as_secs_f64(),
            "peak_memory": peak,
        })
    );
    ensure!(peak <= MOST, "peak memory is {} MiB, more than {} MiB", peak >> 20, MOST >> 20);
    Ok(())
}
