//! Every golden repository is read by this version, whole, by its own programs' ways and by the independent reader; nothing in it is
//! taken for damage, and a writer's key of it still adds to a copy.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use breakwater_crypto::{RecipientKey, WriterKey, sha256};
use breakwater_pipeline::Progress;
use breakwater_pipeline::restore::{Onto, OwnerBy, RestoreJob, run_restore};
use breakwater_repository::regions::Role;
use breakwater_repository::{Access, CheckOptions, Place, Repository, Selector, Verdict};
use breakwater_runtime::{ByteBudget, SystemClock, SystemEntropy};
use breakwater_storage::Storage;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PYTHON: &str = "/usr/bin/python3";

/// The directories of all golden repositories: `tests/golden/<version>/<suite>`.
fn golden() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let below = |path: &Path| {
        let mut found: Vec<PathBuf> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.retain(|path| path.is_dir());
        found.sort();
        found
    };
    let all: Vec<PathBuf> = below(&top).iter().flat_map(|version| below(version)).collect();
    assert!(all.len() >= 3, "one for each suite at least: {all:?}");
    all
}

/// A copy that may be written to.
fn copy(golden: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("cp").arg("-r").arg(golden.join(".")).arg(dir.path()).status().unwrap();
    assert!(status.success());
    for key in ["key", "recovery", "writer"] {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(dir.path().join(key), private).unwrap();
    }
    dir
}

async fn open(copy: &Path, access: Access) -> Repository {
    let storage = Storage::file_system(&copy.join("region")).unwrap();
    let places = vec![Place::new("golden", Role::Sync, storage)];
    Repository::open(places, access, Arc::new(SystemClock), Arc::new(SystemEntropy)).await.unwrap()
}

fn digest(bytes: &[u8]) -> String {
    sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A restored directory in the words of `expected.json`.
fn found(root: &Path, prefix: &str, lines: &mut BTreeMap<String, Value>) {
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        let (mode, mtime) = (meta.mode() & 0o7777, meta.mtime() * 1_000_000 + meta.mtime_nsec() / 1000);
        let line = if meta.is_dir() {
            found(&entry.path(), &format!("{path}/"), lines);
            json!(["dir", mode, mtime])
        } else if meta.is_symlink() {
            json!(["symlink", 0o777, mtime, digest(std::fs::read_link(entry.path()).unwrap().as_os_str().as_bytes())])
        } else if meta.file_type().is_fifo() {
            json!(["fifo", mode, mtime])
        } else {
            json!(["file", mode, mtime, digest(&std::fs::read(entry.path()).unwrap())])
        };
        lines.insert(path, line);
    }
}

async fn restored(repository: &Repository, snapshot: &str, target: &Path) -> BTreeMap<String, Value> {
    let order = repository.read_order();
    let selector = Selector::Id(snapshot.to_owned());
    let found_one = repository.find_snapshot(&order, None, &selector).await.unwrap();
    let manifest = repository.manifest(&order, found_one.source.uid, found_one.id, found_one.session).await.unwrap();
    let job = RestoreJob {
        repository: repository.clone(),
        order,
        manifest,
        target: target.to_owned(),
        onto: Onto::Nothing,
        only: Vec::new(),
        owner: OwnerBy::Nobody,
        budget: ByteBudget::new(64 << 20),
        parallel: 0,
        progress: Arc::new(Progress::default()),
        cancel: CancellationToken::new(),
    };
    run_restore(job).await.unwrap();
    let mut lines = BTreeMap::new();
    found(target, "", &mut lines);
    lines
}

fn reader(copy: &Path, words: &[&str]) -> Output {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/breakwater_reader.py");
    let output = Command::new(PYTHON).arg(reader).arg(copy.join("region")).arg(copy.join("key")).args(words).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_repositories_are_read_by_this_version_and_by_the_independent_reader() {
    for golden in golden() {
        let dir = copy(&golden);
        let about: Value = serde_json::from_slice(&std::fs::read(golden.join("expected.json")).unwrap()).unwrap();
        for key in ["key", "recovery"] {
            let access = Access::Recipient(RecipientKey::read(&dir.path().join(key)).unwrap());
            let repository = open(dir.path(), access).await;
            for (snapshot, expected) in about["snapshots"].as_object().unwrap() {
                let target = dir.path().join(format!("{key}-{snapshot}"));
                let lines = restored(&repository, snapshot, &target).await;
                assert_eq!(json!(lines), *expected, "{} {snapshot}", golden.display());
            }
            let options = CheckOptions { read_data: true, ..CheckOptions::default() };
            let report = repository.check(&options).await.unwrap();
            assert_eq!(report.verdict(), Verdict::Sound, "{}: {report:#?}", golden.display());
        }
        // One restore shows that the reader writes what it reads; its check reads every extent of the others too.
        let (snapshot, expected) = about["snapshots"].as_object().unwrap().iter().next_back().unwrap();
        let target = dir.path().join("reader");
        reader(dir.path(), &["restore", snapshot, target.to_str().unwrap()]);
        let mut lines = BTreeMap::new();
        found(&target, "", &mut lines);
        assert_eq!(json!(lines), *expected, "{} {snapshot} by the reader", golden.display());
        for (number, piece) in about["log"].as_array().unwrap().iter().enumerate() {
            let out = dir.path().join(format!("log-{number}"));
            let words: Vec<String> = (0..3).map(|field| piece[field].to_string()).collect();
            let source = about["source"].as_str().unwrap();
            reader(dir.path(), &["log", source, &words[0], &words[1], &words[2], out.to_str().unwrap()]);
            assert_eq!(digest(&std::fs::read(out).unwrap()), piece[3].as_str().unwrap(), "{piece}");
        }
        reader(dir.path(), &["check"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_keys_of_golden_repositories_still_open_them() {
    for golden in golden() {
        let dir = copy(&golden);
        let access = Access::Writer(WriterKey::read(&dir.path().join("writer")).unwrap());
        let repository = open(dir.path(), access).await;
        repository.check_writable().unwrap();
        let about: Value = serde_json::from_slice(&std::fs::read(golden.join("expected.json")).unwrap()).unwrap();
        let order = repository.read_order();
        let newest = repository.find_snapshot(&order, None, &Selector::Latest).await.unwrap();
        assert!(about["snapshots"].as_object().unwrap().contains_key(&newest.id.to_string()));
    }
}
