//! Every suite and every codec carries a tree there and back, and what is stored shows which one did it.

use breakwater_crypto::Suite;
use breakwater_pipeline::backup::run_backup;
use breakwater_repository::format::codec::{Codec, Compression};
use breakwater_repository::format::pack::{KeyKind, padding::padme};
use breakwater_repository::{CreateOptions, ObjectName};
use tokio_util::sync::CancellationToken;

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab, options};
use crate::tree::{Tree, noise, text};

fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.directory("d").file("d/text", text(1, EXTENT * 90 + 100)).file("d/noise", noise(2, EXTENT * 7));
    tree.file("d/zeros", vec![0; EXTENT * 3]).file("tiny", text(3, 9));
    tree
}

/// Takes a backup and answers the bytes of content in the region.
async fn there_and_back(suite: Suite, compression: &str) -> u64 {
    let lab = Lab::with(1, 1, CreateOptions { suite, ..options() }).await;
    assert_eq!(lab.recipient.suite(), suite);
    let compression: Compression = compression.parse().unwrap();
    let mut job = lab.job(FakeSession::new(&tree()), CancellationToken::new()).await.unwrap();
    job.compression = compression;
    let outcome = run_backup(job).await.unwrap();
    let (restored, _) = lab.restore(&outcome.manifest).await;
    assert_eq!(restored, tree(), "{suite} with {compression}");

    let packs = lab.names(0, "data/").await;
    assert!(packs.iter().all(|(_, size)| *size == 1 << 20 || padme(*size) == *size), "{packs:?}");
    let names = packs.iter().map(|(name, _)| ObjectName::parse(name).unwrap());
    let mut codecs = Vec::new();
    for name in names {
        let (footer, _) = lab.recipient.fetch_footer(&lab.recipient.read_order(), &name).await.unwrap();
        codecs.extend(footer.frames.iter().map(|frame| frame.codec));
        assert!(footer.origins.iter().all(|origin| origin.suite == suite && origin.key_kind == KeyKind::Content));
    }
    // Noise is stored as it is, text by the codec.
    assert!(codecs.contains(&Codec::None) && codecs.contains(&compression.codec()), "{compression}: {codecs:?}");
    assert!(codecs.iter().all(|codec| [Codec::None, compression.codec()].contains(codec)));
    packs.iter().map(|(_, size)| size).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_carries_a_tree() {
    for suite in [Suite::Standard, Suite::Fast, Suite::Nist] {
        there_and_back(suite, "zstd").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_codec_carries_a_tree() {
    let plain = there_and_back(Suite::Fast, "none").await;
    for codec in ["lz4", "gzip", "bzip2", "xz", "zstd:-5", "zstd:9"] {
        let stored = there_and_back(Suite::Fast, codec).await;
        assert!(stored < plain * 3 / 4, "{codec}: {stored} of {plain}");
    }
}

/// A base that was compressed otherwise is a base all the same: what did not change is not stored again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_codec_stores_only_what_changed() {
    let lab = Lab::new(1).await;
    lab.backup(FakeSession::new(&tree())).await;
    let mut changed = tree();
    changed.file("more", text(8, EXTENT * 4));
    let mut job = lab.job(FakeSession::new(&changed), CancellationToken::new()).await.unwrap();
    job.compression = "xz:6".parse().unwrap();
    let outcome = run_backup(job).await.unwrap();
    assert_eq!(outcome.totals.new, (EXTENT * 4) as u64);
    let (restored, _) = lab.restore(&outcome.manifest).await;
    assert_eq!(restored, changed);
}
