//! Filling packs from several threads, and what a session's packs look like.

use std::collections::BTreeMap;

use breakwater_repository::format::pack::padding::padme;
use breakwater_repository::format::pack::{FrameContent, KeyKind};
use breakwater_repository::session::PackWriter;
use breakwater_repository::{BackupSession, Class, Codec, FrameLocation, FrameReader, Repository};

use crate::lab::{Lab, SOURCE, intent, store};

fn content(repository: &Repository, chunk: &[u8]) -> FrameContent {
    let id = repository.suite().chunk_id(repository.id_key(), Class::Extent.byte(), chunk);
    FrameContent { class: Class::Extent, codec: Codec::None, plain: u32::try_from(chunk.len()).unwrap(), id }
}

fn chunks(count: usize, length: usize) -> Vec<Vec<u8>> {
    (0..count).map(|at| (0..length).map(|byte| u8::try_from((at * 31 + byte * 7) % 251).unwrap()).collect()).collect()
}

async fn begin(lab: &Lab) -> (BackupSession, PackWriter) {
    let session = BackupSession::begin(&lab.repository, &lab.writer(1), SOURCE, intent(1, 1)).await.unwrap();
    let packs = session.content_packs();
    (session, packs)
}

#[tokio::test]
async fn threads_seal_while_packs_fill_and_every_chunk_is_found() {
    let lab = Lab::new(1).await;
    let (_session, mut packs) = begin(&lab).await;
    // Packs of this lab have 1 MiB; these chunks need several.
    let chunks = chunks(40, 100_000);
    let mut tickets = Vec::new();
    let mut locations = Vec::new();
    for chunk in &chunks {
        let ticket = packs.reserve(content(&lab.repository, chunk), chunk.len()).unwrap();
        locations.push(*ticket.location());
        tickets.push((ticket, chunk.clone()));
    }
    assert!(packs.finish().is_err(), "a pack was sealed while its frames were out");
    let sealed: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            tickets.into_iter().map(|(ticket, chunk)| scope.spawn(move || ticket.seal(&chunk).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // In another order than they were reserved.
    let mut stored = Vec::new();
    for frame in sealed.into_iter().rev() {
        packs.place(frame).unwrap();
        stored.extend(packs.take_sealed());
    }
    stored.extend(packs.finish().unwrap());
    assert_eq!(packs.pending_bytes(), 0);
    assert!(stored.len() >= 4, "{} packs", stored.len());
    let sizes: Vec<u64> = stored.iter().map(|pack| pack.payload.len()).collect();
    let (full, last): (Vec<u64>, Vec<u64>) = sizes.iter().partition(|size| **size == 1 << 20);
    assert!(full.len() == stored.len() - 1 && last.len() == 1, "{sizes:?}");
    assert_eq!(padme(last[0]), last[0]);
    assert_eq!(stored.iter().map(|pack| pack.frames).sum::<usize>(), chunks.len());
    store(&lab.writer(1), stored).await;

    let reader = FrameReader::new(&lab.repository, SOURCE, lab.order());
    let mut by_pack: BTreeMap<_, Vec<(usize, FrameLocation)>> = BTreeMap::new();
    for (at, location) in locations.iter().enumerate() {
        by_pack.entry(location.pack).or_default().push((at, *location));
    }
    for (pack, mut wanted) in by_pack {
        wanted.reverse();
        let places: Vec<_> = wanted.iter().map(|(_, location)| *location).collect();
        let read = reader.read(KeyKind::Content, Class::Extent, pack, &places).await.unwrap();
        for ((at, _), chunk) in wanted.iter().zip(read) {
            assert_eq!(chunk, chunks[*at]);
        }
    }
}

#[tokio::test]
async fn a_ticket_takes_the_length_that_was_reserved_and_a_place_takes_one_frame() {
    let lab = Lab::new(1).await;
    let (_session, mut packs) = begin(&lab).await;
    let (_other_session, mut others) = begin(&lab).await;
    let chunk = chunks(1, 100).remove(0);
    let ticket = packs.reserve(content(&lab.repository, &chunk), chunk.len()).unwrap();
    assert!(ticket.seal(&chunk[1..]).is_err());
    let ticket = packs.reserve(content(&lab.repository, &chunk), chunk.len()).unwrap();
    let frame = ticket.seal(&chunk).unwrap();
    assert!(others.place(frame).is_err(), "a frame of another session's pack was taken");
}

#[tokio::test]
async fn a_chunk_larger_than_a_pack_gets_a_pack_of_its_own() {
    let lab = Lab::new(1).await;
    let (_session, mut packs) = begin(&lab).await;
    let big = vec![7; 3 << 20];
    let FrameContent { id, class, codec, plain } = content(&lab.repository, &big);
    packs.push(id, class, codec, plain, &big).unwrap();
    let small = chunks(1, 100).remove(0);
    let FrameContent { id, class, codec, plain } = content(&lab.repository, &small);
    packs.push(id, class, codec, plain, &small).unwrap();
    let sealed = packs.finish().unwrap();
    assert_eq!(sealed.iter().map(|pack| pack.frames).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn the_size_of_a_pack_tells_little_and_padding_costs_little() {
    let lab = Lab::new(1).await;
    let (_session, mut packs) = begin(&lab).await;
    // Chunks as database pages compress: 20 to 44 KiB of 128.
    let (mut state, mut payload, mut count) = (1_u32, 0_u64, 0_u64);
    while payload < 40 << 20 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let chunk = vec![7; 20_000 + (state >> 8) as usize % 24_000];
        let FrameContent { id, class, codec, plain } = content(&lab.repository, &chunk);
        packs.push(id, class, codec, plain, &chunk).unwrap();
        payload += chunk.len() as u64;
        count += 1;
    }
    let sealed = packs.finish().unwrap();
    let stored: u64 = sealed.iter().map(|pack| pack.payload.len()).sum();
    // Frames cost 40 bytes and up to 15 of their own, the footer 56; packs of this lab have 1 MiB, not 64, so padding is 64
    // times what it is in life: half a chunk a pack.
    let padding = stored - payload - count * 96;
    println!("{count} chunks, {payload} bytes, {} packs, {stored} stored, {padding} of them padding", sealed.len());
    assert!(padding < payload / 40, "{padding} of {payload}");
    assert!(sealed.iter().rev().skip(1).all(|pack| pack.payload.len() == 1 << 20));
    for (first, rest) in [(1_usize, 5_usize), (3, 900), (1, 70_000)] {
        let (_session, mut packs) = begin(&lab).await;
        for chunk in chunks(first, rest) {
            let FrameContent { id, class, codec, plain } = content(&lab.repository, &chunk);
            packs.push(id, class, codec, plain, &chunk).unwrap();
        }
        let [pack] = &packs.finish().unwrap()[..] else { panic!("one pack") };
        assert_eq!(padme(pack.payload.len()), pack.payload.len());
    }
}
