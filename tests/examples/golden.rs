//! Writes golden repositories: small ones that hold something of everything, with their keys and what they must give back.
//! Every later version reads those of every released format: `tests/golden` keeps them, `tests/tests/golden.rs` reads them.
//!
//! `cargo run -p breakwater-tests --example golden -- tests/golden/v1`; the directory must not exist.

#![allow(clippy::unwrap_used, reason = "a failed run may panic anywhere")]
#![allow(dead_code, reason = "the reader's tests use more of these modules")]

#[path = "../tests/reader/engine.rs"]
mod engine;
#[path = "../tests/reader/lab.rs"]
mod lab;
#[path = "../tests/reader/log.rs"]
mod log;
#[path = "../tests/reader/tree.rs"]
mod tree;
#[path = "../tests/reader/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_core::SourceUid;
use breakwater_crypto::{RecipientKey, Suite, sha256};
use breakwater_repository::regions::Role;
use breakwater_repository::{Access, CreateOptions, Place, Repository};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::Storage;
use serde_json::{Value, json};

use lab::Lab;
use tree::{Node, Tree};

/// Suite and codec of each of them.
const EACH: [(Suite, &str); 3] = [(Suite::Standard, "zstd:3"), (Suite::Fast, "lz4"), (Suite::Nist, "xz:1")];

/// Bytes of the long document: a few chunks, and not too many for a reader that hashes in Python.
const LONG: usize = 1 << 20;

fn digest(bytes: &[u8]) -> String {
    sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a restore must bring: type, mode, time, and the digest of the content or the target.
fn expected(tree: &Tree) -> Value {
    let line = |item: &tree::Item| match &item.node {
        Node::Directory => json!(["dir", item.mode, item.mtime]),
        Node::File(content) => json!(["file", item.mode, item.mtime, digest(content)]),
        Node::Link(target) => json!(["symlink", 0o777, item.mtime, digest(target)]),
        Node::Fifo => json!(["fifo", item.mode, item.mtime]),
    };
    tree.0.iter().map(|(path, item)| (String::from_utf8(path.clone()).unwrap(), line(item))).collect()
}

async fn write(to: &Path, suite: Suite, codec: &str) {
    let mut lab = Lab::with(1, suite, codec.parse().unwrap()).await;
    let (first, small) = (trees::documents(LONG), trees::small_tree());
    let second = trees::documents_later(&first, LONG);
    let mut snapshots = BTreeMap::new();
    for tree in [&first, &second, &small] {
        let manifest = lab.backup(tree).await.manifest;
        snapshots.insert(manifest.snapshot.to_string(), expected(tree));
    }
    let written = log::write(&mut lab).await;
    let piece = |(branch, start, end)| json!([branch, start, end, digest(&written.bytes(branch, start, end))]);
    let log: Vec<Value> = written.readable().into_iter().map(piece).collect();
    keep(to, &lab, &json!({"suite": suite, "source": lab.source, "snapshots": snapshots, "log": log}));
}

/// A repository in which a second source leans on what a restorer vouches for of the first.
async fn write_leaning(to: &Path, suite: Suite, codec: &str) {
    let options = CreateOptions { suite, verified_chunks: true, ..CreateOptions::default() };
    let mut lab = Lab::with_options(1, options, codec.parse().unwrap()).await;
    let mut snapshots = BTreeMap::new();
    let tree = trees::documents(LONG);
    let first = lab.backup(&tree).await.manifest;
    let places = vec![Place::new("r0", Role::Sync, Storage::file_system(&lab.region(0)).unwrap())];
    let key = RecipientKey::read(&lab.path("key")).unwrap();
    let recipient =
        Repository::open(places, Access::Recipient(key), Arc::new(SystemClock), Arc::new(SystemEntropy)).await.unwrap();
    let of = (first.snapshot, first.session);
    assert!(recipient.vouch(first.source.uid, of, &|_| ()).await.unwrap().packs > 0);
    lab.turn_to(SourceUid::from_bytes([8; 16]), "copy").await;
    let later = trees::documents_later(&tree, LONG);
    let second = lab.backup(&later).await.manifest;
    assert!(!second.leans.is_empty());
    for (manifest, tree) in [(&first, &tree), (&second, &later)] {
        snapshots.insert(manifest.snapshot.to_string(), expected(tree));
    }
    keep(to, &lab, &json!({"suite": suite, "source": lab.source, "snapshots": snapshots, "log": []}));
}

/// Copies a repository with its keys, and says what it must give back.
fn keep(to: &Path, lab: &Lab, about: &Value) {
    std::fs::create_dir_all(to).unwrap();
    for key in ["key", "recovery", "writer"] {
        std::fs::copy(lab.path(key), to.join(key)).unwrap();
    }
    std::fs::write(to.join("expected.json"), serde_json::to_vec_pretty(about).unwrap()).unwrap();
    let region = lab.region(0);
    for name in lab.objects(&region) {
        let target = to.join("region").join(&name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(region.join(&name), target).unwrap();
    }
}

#[tokio::main]
async fn main() {
    let Some(to) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: golden DIRECTORY");
        std::process::exit(2);
    };
    if to.exists() {
        eprintln!("error: {} exists; golden repositories are never overwritten", to.display());
        std::process::exit(4);
    }
    for (suite, codec) in EACH {
        write(&to.join(suite.word()), suite, codec).await;
    }
    write_leaning(&to.join("verified-chunks"), Suite::Standard, "zstd:3").await;
}
