//! `docs/format.md` is enough to get everything back: a small Python program written from that page alone (`tests/reader`) reads a
//! real repository, and what it reads is compared with what was backed up. It must also refuse whatever was changed since.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic anywhere")]

#[path = "reader/engine.rs"]
mod engine;
#[path = "reader/lab.rs"]
mod lab;
#[path = "reader/log.rs"]
mod log;
#[path = "reader/tree.rs"]
mod tree;
#[path = "reader/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use breakwater_crypto::Suite;
use breakwater_repository::FenceOutcome;
use breakwater_repository::format::Compression;
use breakwater_repository::format::manifest::Manifest;

use lab::{EXTENT, Lab};
use tree::{Node, Tree, noise, text};
use trees::{documents, documents_later, small_tree};

/// Files of every shape: leaves that are shared and leaves that are full, zeros between bytes, names that need escapes.
fn first_tree() -> Tree {
    let mut tree = Tree::default();
    tree.directory("base").directory("base/1").directory("empty").directory("small");
    tree.file("base/1/large", noise(1, EXTENT * 1100 + 17)).file("base/1/text", text(2, EXTENT * 70 + 1));
    tree.file("base/1/zeros", vec![0; EXTENT * 5 + 1]).file("base/1/nothing", Vec::new());
    let mut sparse = vec![0; EXTENT * 4];
    sparse[EXTENT * 2 + 5] = 1;
    tree.file("base/1/sparse", sparse).file("base-1", text(3, 10)).file("global pg_control", noise(4, 8192));
    tree.link("base/1/link", "../../base-1").link("odd link", "a\\b%\n");
    let odd: [&[u8]; 4] = [b"odd\xff\n%name", b"odd\xffa", "odd-\u{e9}".as_bytes(), b"odd\"quoted\\"];
    for (seed, path) in odd.iter().enumerate() {
        tree.put(path, Node::File(Arc::new(noise(seed as u64, 99))), 0o600);
    }
    // Small files with names that need much room, so that the tree has more than one frame.
    let directory = [b"small/".as_slice(), &[0xFF; 200]].concat();
    tree.put(&directory, Node::Directory, 0o700);
    for number in 0..800_u16 {
        let path = [&directory, format!("/{number:05}").as_bytes(), &[0xFE; 200]].concat();
        let content = if number % 7 == 0 { text(number.into(), 300) } else { vec![b'x'; usize::from(number % 3)] };
        tree.put(&path, Node::File(Arc::new(content)), 0o600);
    }
    tree
}

/// The same with one changed extent, a file that is gone, and a new one.
fn second_tree(first: &Tree) -> Tree {
    let mut tree = first.clone();
    let mut large = noise(1, EXTENT * 1100 + 17);
    large[EXTENT * 41] ^= 1;
    tree.file("base/1/large", large).file("base/1/new", noise(9, EXTENT * 2));
    tree.0.remove(b"base-1".as_slice());
    tree
}

fn restored(lab: &Lab, region: &Path, manifest: &Manifest) -> Tree {
    let target = lab.fresh("restored");
    lab.read(region, &["restore", &manifest.snapshot.to_string(), target.to_str().unwrap()]);
    Tree::read(&target)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_enough_to_restore_every_snapshot() {
    let lab = Lab::new(1).await;
    let region = lab.region(0);
    let first = first_tree();
    let second = second_tree(&first);
    let one = lab.backup(&first).await.manifest;
    let two = lab.backup(&second).await.manifest;
    assert!(one.tree.len() > 1, "the tree fits into one frame: {} bytes", one.tree[0].plain);
    assert!(two.sessions.contains(&one.session), "the second snapshot refers to content of the first");

    restored(&lab, &region, &one).assert_same(&first);
    restored(&lab, &region, &two).assert_same(&second);

    let lines = lab.read(&region, &["list"]);
    for manifest in [&one, &two] {
        let line = lines.iter().find(|line| line["snapshot"] == manifest.snapshot.to_string()).expect("it is listed");
        assert_eq!(line["session"], manifest.session.to_string());
        assert_eq!(line["source_uid"], lab.source.to_string());
        assert_eq!(line["consistent_at"], 1_795_179_038_000_123_i64);
        assert_eq!(line["totals"]["bytes"], manifest.totals.bytes);
    }
    assert_eq!(lines.len(), 2);

    let found = lab.read(&region, &["check"]).remove(0);
    assert_eq!(found["snapshots"], 2);
    assert_eq!(found["bytes"], first.bytes() + second.bytes());
    assert!(found["packs"].as_u64().unwrap() >= 4, "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_key_shows_the_snapshots_and_no_content() {
    let lab = Lab::new(1).await;
    let region = lab.region(0);
    let snapshot = lab.backup(&small_tree()).await.manifest.snapshot.to_string();
    let lines = lab.read_with("writer", &region, &["list"]).expect("a writer key reads structure");
    assert_eq!((lines.len(), lines[0]["snapshot"].as_str()), (1, Some(snapshot.as_str())));
    let target = lab.fresh("restored");
    let error = lab.read_with("writer", &region, &["restore", &snapshot, target.to_str().unwrap()]).unwrap_err();
    assert!(error.contains("a writer key cannot read back content"), "{error}");

    let other = Lab::new(1).await;
    let error = lab.read_with("key", &other.region(0), &["list"]).unwrap_err();
    assert!(error.contains("its fingerprint is not the one"), "{error}");
    lab.read_with("recovery", &region, &["check"]).expect("both recipients read everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_the_content_cuts_and_page_runs_are_in_the_document() {
    let lab = Lab::new(1).await;
    // Long enough that what was put in between changes less than half of it, wherever the key makes the cuts fall.
    let first = documents(20 << 20);
    let second = documents_later(&first, 20 << 20);
    let one = lab.backup(&first).await.manifest;
    let two = lab.backup(&second).await.manifest;
    assert!(two.totals.new < one.totals.new / 2, "most chunks are found again: {:?}", two.totals);
    restored(&lab, &lab.region(0), &one).assert_same(&first);
    restored(&lab, &lab.region(0), &two).assert_same(&second);
    lab.read(&lab.region(0), &["check"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_and_every_codec_is_in_the_document() {
    let tree = small_tree();
    let cases = [(Suite::Fast, "lz4"), (Suite::Nist, "xz:1"), (Suite::Standard, "gzip"), (Suite::Standard, "bzip2")];
    for (suite, word) in cases {
        let compression: Compression = word.parse().unwrap();
        let lab = Lab::with(1, suite, compression).await;
        let manifest = lab.backup(&tree).await.manifest;
        restored(&lab, &lab.region(0), &manifest).assert_same(&tree);
        lab.read(&lab.region(0), &["check"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_session_counts_beside_a_fence_and_a_fenced_one_does_not() {
    let lab = Lab::new(2).await;
    let tree = small_tree();
    let fenced = lab.begin().await;
    let outcome = lab.writer.fence(&lab.region_writer(), lab.source, fenced, "a test\nwith a line").await.unwrap();
    assert!(matches!(outcome, FenceOutcome::Established), "{outcome:?}");

    // The fencer reaches the first region only, the backup the second one only.
    let session = lab.begin_session().await;
    let of = (session.intent().snapshot, session.id());
    lab.faults[1].set_reachable(false);
    let outcome = lab.writer.fence(&lab.region_writer(), lab.source, of, "it seemed to be dead").await.unwrap();
    assert!(matches!(outcome, FenceOutcome::Open(_)), "{outcome:?}");
    lab.faults[1].set_reachable(true);
    let committed = lab.backup_in(session, &tree).await.manifest;
    lab.settled().await;

    for region in [lab.region(0), lab.region(1)] {
        let lines = lab.read(&region, &["list"]);
        let listed: Vec<_> = lines.iter().map(|line| line["snapshot"].as_str().unwrap().to_owned()).collect();
        assert_eq!(listed, [committed.snapshot.to_string()], "{}", region.display());
        restored(&lab, &region, &committed).assert_same(&tree);
        let error = lab.read_with("key", &region, &["restore", &fenced.0.to_string(), "nowhere"]).unwrap_err();
        assert!(error.contains("no such snapshot"), "{error}");
    }
    let second = lab.objects(&lab.region(0)).into_iter().filter(|name| name.ends_with(".committed")).count();
    assert_eq!(second, 1, "the first region shows the manifest by its second name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_enough_to_read_the_log() {
    let mut lab = Lab::new(1).await;
    let region = lab.region(0);
    let written = log::write(&mut lab).await;
    let names = lab.objects(&region);
    for part in ["/log/", "/tail/", "/history/"] {
        assert!(names.iter().any(|name| name.contains(part)), "nothing to read in {part}: {names:#?}");
    }
    let is_idle = |name: &&String| name.contains("/tail/") && name.matches('-').count() == 3;
    assert_eq!(names.iter().filter(is_idle).count(), 1, "the watermark of an idle source: {names:#?}");
    for (branch, start, end) in written.readable() {
        assert_eq!(lab.log(&region, branch, start, end).unwrap(), written.bytes(branch, start, end));
    }
    for (branch, start, end) in written.missing() {
        let error = lab.log(&region, branch, start, end).unwrap_err();
        assert!(error.contains("no log of branch"), "{error}");
    }
    let found = lab.read(&region, &["check"]).remove(0);
    assert!(found["generations"].as_u64() >= Some(9) && found["segments"].as_u64() >= Some(8), "{found}");
    assert!(found["tails"].as_u64() >= Some(2), "{found}");
}

/// One changed byte of any object that counts is noticed, wherever in it that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_is_an_error() {
    let mut lab = Lab::new(1).await;
    let region = lab.region(0);
    lab.backup(&small_tree()).await;
    log::write(&mut lab).await;
    lab.read(&region, &["check"]);

    let names = lab.objects(&region);
    let mut kinds = BTreeMap::new();
    // `repo/region` is in the clear and nothing vouches for it; of the others one of a kind is enough.
    for name in names.iter().filter(|name| *name != "repo/region") {
        let parts: Vec<_> = name.split('/').collect();
        let kind = if parts[0] == "repo" { parts[1] } else { parts[2] };
        kinds.entry((parts[0], kind)).or_insert(name);
    }
    assert_eq!(kinds.len(), 14, "{kinds:#?}");
    for name in kinds.values() {
        let path = region.join(name);
        let original = std::fs::read(&path).unwrap();
        for at in [original.len() / 3, original.len() - 30] {
            let mut changed = original.clone();
            changed[at] ^= 4;
            std::fs::write(&path, changed).unwrap();
            let error = lab.read_with("key", &region, &["check"]).expect_err(&format!("{name} at {at}"));
            assert!(error.starts_with("error: "), "{name} at {at}: {error}");
        }
        std::fs::write(&path, original).unwrap();
    }
    lab.read(&region, &["check"]);
}
