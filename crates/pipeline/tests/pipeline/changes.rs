//! What is not read again, what is read in pieces, and what cannot be read at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use breakwater_core::Xattrs;
use breakwater_engine::ChangedPages;
use breakwater_pipeline::backup::BackupOutcome;
use breakwater_repository::format::Class;
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::format::references::collect;
use breakwater_repository::format::tree::TreeKind;
use breakwater_repository::{FrameReader, ReferenceReader, TreeReader};

use crate::engine::{Behaviour, FakeSession};
use crate::lab::{EXTENT, Lab};
use crate::tree::{Node, Tree, noise, text};

const PAGE: usize = 512;

fn content(tree: &Tree, path: &str) -> Vec<u8> {
    match &tree.0[path.as_bytes()].node {
        Node::File(content) => content.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Changes these pages of a file, and says so.
fn change(tree: &mut Tree, path: &str, pages: &[u64], told: bool) -> Behaviour {
    let mut bytes = content(tree, path);
    for page in pages {
        let at = usize::try_from(*page).unwrap() * PAGE;
        let end = (at + PAGE).min(bytes.len());
        bytes[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3).wrapping_add(1));
    }
    tree.file(path, bytes);
    let ranges = if told { pages.iter().map(|page| *page..page + 1).collect() } else { Vec::new() };
    let pages = ChangedPages { page_size: u32::try_from(PAGE).unwrap(), ranges };
    Behaviour { changed: Some((path.as_bytes().to_vec(), pages)), ..Behaviour::default() }
}

/// The references must be what a walk over the tree finds.
async fn assert_references(lab: &Lab, outcome: &BackupOutcome) {
    let manifest = &outcome.manifest;
    let frames = FrameReader::new(&lab.writer, lab.source, lab.writer.read_order());
    let mut needed: Vec<_> = manifest.tree.iter().map(|frame| (KeyKind::Structure, *frame)).collect();
    let mut tree = TreeReader::with_frames(frames.clone(), manifest);
    while let Some(entries) = tree.next().await.unwrap() {
        for entry in entries {
            let TreeKind::File { leaves, .. } = entry.kind else { continue };
            for leaf in leaves {
                needed.push((KeyKind::Structure, leaf.leaf));
                for extent in tree.leaf_extents(&leaf).await.unwrap() {
                    needed.extend(extent.frames(Class::Extent).map(|(_, frame)| (KeyKind::Content, *frame)));
                }
            }
        }
    }
    let mut listed = Vec::new();
    let mut references = ReferenceReader::new(frames, manifest);
    while let Some(packs) = references.next().await.unwrap() {
        listed.extend(packs);
    }
    assert_eq!(listed, collect(needed));
    let sessions: BTreeSet<_> = listed.iter().map(|pack| pack.pack.session).collect();
    assert!(sessions.iter().all(|session| manifest.sessions.contains(session)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_pages_alone_are_read_and_stored() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    // More than a batch takes, and a small one.
    tree.file("large", noise(1, EXTENT * 400 + 100)).file("small", noise(2, EXTENT * 16));
    lab.backup(FakeSession::new(&tree)).await;
    for (round, pages) in
        [vec![3, 9, 800, 801, 802, 3200], vec![3, 4, 5, 810], vec![3], vec![3], vec![3, 2000]].iter().enumerate()
    {
        for path in ["large", "small"] {
            let pages: Vec<u64> = pages.iter().copied().filter(|page| path == "large" || *page < 128).collect();
            let behaviour = change(&mut tree, path, &pages, true);
            let session = FakeSession::behaving(&tree, behaviour);
            let read = Arc::clone(&session.bytes_read);
            let outcome = lab.backup(session).await;
            assert_eq!(lab.restore(&outcome.manifest).await.0, tree, "round {round}, {path}");
            assert_references(&lab, &outcome).await;
            assert!(outcome.manifest.warnings.iter().all(|line| !line.contains("list of changed pages")));
            // The other file is read whole; of this one an eighth, and what has changed.
            let other = content(&tree, if path == "large" { "small" } else { "large" }).len() as u64;
            let whole = content(&tree, path).len() as u64;
            let read = read.load(Ordering::SeqCst) - other;
            assert!(read < whole / 8 + 8 * EXTENT as u64, "round {round}, {path}: {read} of {whole}");
            assert!(outcome.totals.new <= 8 * EXTENT as u64, "{:?}", outcome.totals);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hides_a_change_is_found_out_within_eight_backups() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("large", noise(1, EXTENT * 400));
    lab.backup(FakeSession::new(&tree)).await;
    let behaviour = change(&mut tree, "large", &[1603], false);
    let mut found = 0;
    for _ in 0..8 {
        let outcome = lab.backup(FakeSession::behaving(&tree, behaviour.clone())).await;
        let restored = lab.restore(&outcome.manifest).await.0;
        if outcome.manifest.warnings.iter().any(|line| line.contains("list of changed pages") && line.contains("large"))
        {
            found += 1;
            assert_eq!(restored, tree, "once found it is stored");
            let session = FakeSession::behaving(&tree, behaviour.clone());
            let read = Arc::clone(&session.bytes_read);
            lab.backup(session).await;
            assert_eq!(read.load(Ordering::SeqCst), tree.bytes(), "the next backup believes nothing");
        }
    }
    assert_eq!(found, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_history_of_changed_pages_can_be_restored() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("f", noise(7, EXTENT * 300 + 1000));
    lab.backup(FakeSession::new(&tree)).await;
    let mut seed = 1_u64;
    for round in 0..12 {
        let mut pages = BTreeSet::new();
        for _ in 0..1 + round * 5 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            pages.insert((seed >> 33) % 2402);
        }
        let behaviour = change(&mut tree, "f", &pages.into_iter().collect::<Vec<_>>(), true);
        let outcome = lab.backup(FakeSession::behaving(&tree, behaviour)).await;
        assert_eq!(lab.restore(&outcome.manifest).await.0, tree, "round {round}");
        assert_references(&lab, &outcome).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_stamp_means_that_nothing_is_read_and_chunks_are_found_where_they_moved() {
    let lab = Lab::new(1).await;
    let behaviour = Behaviour { chunked: true, stamped: true, ..Behaviour::default() };
    let mut tree = Tree::default();
    // Where a file is cut depends on a key that is drawn anew each time; this long, it has several chunks whatever the key is.
    tree.directory("d").file("d/large", noise(1, 16 << 20)).file("d/empty", Vec::new());
    for n in 0..300 {
        tree.file(&format!("d/small{n:03}"), text(n, 3000));
    }
    let first = lab.backup(FakeSession::behaving(&tree, behaviour.clone())).await;
    assert_references(&lab, &first).await;
    assert_eq!(lab.restore(&first.manifest).await.0, tree);

    let session = FakeSession::behaving(&tree, behaviour.clone());
    let read = Arc::clone(&session.bytes_read);
    let second = lab.backup(session).await;
    assert_eq!(read.load(Ordering::SeqCst), 0);
    assert_eq!((second.totals.kept, second.totals.new), (tree.bytes(), 0));
    assert_references(&lab, &second).await;
    assert_eq!(lab.restore(&second.manifest).await.0, tree);

    // A renamed file is read, and found; one with new bytes in front shares all but its first chunk.
    let mut moved = Tree::default();
    for (path, item) in &tree.0 {
        let path = if path == b"d/small007" { b"d/renamed".to_vec() } else { path.clone() };
        moved.put(&path, item.node.clone(), item.mode);
    }
    let mut longer = noise(3, 1000);
    longer.extend(content(&tree, "d/large"));
    moved.file("d/large", longer);
    let third = lab.backup(FakeSession::behaving(&moved, behaviour)).await;
    assert_references(&lab, &third).await;
    assert!(third.totals.new < 9 << 20 && third.totals.read < 17 << 20, "{:?}", third.totals);
    assert!(third.totals.unchanged > 3000, "{:?}", third.totals);
    let (restored, _) = lab.restore(&third.manifest).await;
    assert_eq!(restored, moved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_come_from_the_reader_or_with_an_equal_stamp_from_the_base() {
    let lab = Lab::new(1).await;
    let colour = vec![(b"user.colour".to_vec(), b"blue".to_vec())];
    let mut tree = Tree::default();
    tree.file("small", text(1, 50)).file("tall", text(2, 50));
    let behaving = |path: &str, xattrs| {
        let xattrs = Some((path.as_bytes().to_vec(), xattrs));
        Behaviour { stamped: true, tolerant: true, xattrs, ..Behaviour::default() }
    };
    for (path, length) in [("small", 5000), ("tall", EXTENT * 400)] {
        tree.file(path, noise(3, length));
        let first = lab.backup(FakeSession::behaving(&tree, behaving(path, Some(colour.clone())))).await;
        assert_eq!(xattrs_of(&lab, &first).await, [(path.to_owned(), colour.clone())]);

        // Whoever asked the reader now would hear of an error.
        let second = lab.backup(FakeSession::behaving(&tree, behaving(path, None))).await;
        assert_eq!((second.totals.kept, second.manifest.unreadable.count), (tree.bytes(), 0));
        assert_eq!(xattrs_of(&lab, &second).await, [(path.to_owned(), colour.clone())]);

        let longer = [content(&tree, path), vec![7]].concat();
        tree.file(path, longer);
        let third = lab.backup(FakeSession::behaving(&tree, behaving(path, None))).await;
        let unread = &third.manifest.unreadable;
        assert_eq!((unread.count, unread.paths[0].path.as_str()), (1, path));
        assert!(unread.paths[0].reason.contains("attributes"), "{unread:?}");
        assert_eq!(lab.restore(&third.manifest).await.0, tree, "its content is there");

        // It has no stamp, so it is read again, and with it what could not be read.
        let fourth = lab.backup(FakeSession::behaving(&tree, behaving(path, Some(colour.clone())))).await;
        assert!(fourth.totals.read >= content(&tree, path).len() as u64, "{:?}", fourth.totals);
        assert_eq!(xattrs_of(&lab, &fourth).await, [(path.to_owned(), colour.clone())]);
        tree.file(path, noise(9, 2000));
        lab.backup(FakeSession::behaving(&tree, behaving(path, Some(Vec::new())))).await;
    }
}

/// The files of a snapshot that have extended attributes.
async fn xattrs_of(lab: &Lab, outcome: &BackupOutcome) -> Vec<(String, Xattrs)> {
    let frames = FrameReader::new(&lab.recipient, lab.source, lab.recipient.read_order());
    let mut tree = TreeReader::with_frames(frames, &outcome.manifest);
    let mut found = Vec::new();
    while let Some(entries) = tree.next().await.unwrap() {
        let with = entries.into_iter().filter(|entry| !entry.attributes.xattrs.is_empty());
        found.extend(with.map(|entry| (String::from_utf8(entry.path).unwrap(), entry.attributes.xattrs)));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_left_out_where_that_is_allowed_and_always_said() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("a", text(1, 5000)).file("b", noise(2, EXTENT * 400)).file("c", text(3, 70_000));
    for (path, chunked) in [("a", true), ("b", false), ("b", true), ("c", true)] {
        let unreadable = Some(path.as_bytes().to_vec());
        let behaviour = Behaviour { unreadable, chunked, tolerant: true, ..Behaviour::default() };
        let outcome = lab.backup(FakeSession::behaving(&tree, behaviour)).await;
        let left_out = &outcome.manifest.unreadable;
        assert_eq!((left_out.count, left_out.paths[0].path.as_str()), (1, path));
        let mut rest = tree.clone();
        rest.0.remove(path.as_bytes());
        assert_eq!(lab.restore(&outcome.manifest).await.0, rest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_read_is_read_again() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("large", noise(2, EXTENT * 400)).file("small", text(1, 5000));
    for (path, times, settles) in [("small", 2, true), ("small", 9, false), ("large", 1, true), ("large", 9, false)] {
        let restless = Some((path.as_bytes().to_vec(), Arc::new(AtomicU64::new(times))));
        let outcome = lab.backup(FakeSession::behaving(&tree, Behaviour { restless, ..Behaviour::default() })).await;
        let said =
            outcome.manifest.warnings.iter().any(|line| line.contains(path) && line.contains("changed whenever"));
        assert_eq!(said, !settles, "{path} {times}");
        assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
        assert_eq!(outcome.manifest.totals.files, 2);
    }
}
