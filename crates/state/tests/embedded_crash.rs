//! A writer is killed in the middle of its work, over and over: whatever it was told is confirmed must be in the file,
//! nothing may be there by half, and the history must be one line.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use breakwater_state::{EmbeddedStore, Event, Revision, StateStore, Txn, list};
use futures::StreamExt as _;

const FILE: &str = "BREAKWATER_TEST_STATE_FILE";

/// The child of the test below: writes until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as the child of the test below only"]
async fn child_that_writes() {
    let path = std::env::var_os(FILE).expect("the parent names the file");
    let store = EmbeddedStore::open(path).await.unwrap();
    let lease = store.lease_grant(std::time::Duration::from_secs(600)).await.unwrap();
    let begin = match store.get("left").await.unwrap() {
        Some(entry) => String::from_utf8_lossy(&entry.value).parse::<u64>().unwrap() + 1,
        None => 0,
    };
    for round in begin.. {
        let text = round.to_string();
        let txn = Txn::new()
            .put("left", text.clone())
            .put(format!("log/{round:08}"), text.clone())
            .put_leased("leased", text.clone(), lease)
            .put("padding", vec![b'x'; usize::try_from(round % 7).unwrap() * 10_000])
            .put("right", text);
        let revision = store.txn(txn).await.unwrap().revision;
        if round % 5 == 0 {
            store.txn(Txn::new().delete("leased")).await.unwrap();
        }
        println!("confirmed {round} {revision}");
        std::io::stdout().flush().unwrap();
    }
}

/// Runs the child until it has confirmed `count` more transactions, kills it, and says what it confirmed.
fn run_and_kill(path: &Path, count: usize) -> BTreeMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut confirmed = BTreeMap::new();
    let mut note = |line: &str| {
        if let Some((_, rest)) = line.split_once("confirmed ") {
            let (round, revision) = rest.split_once(' ').unwrap();
            confirmed.insert(round.parse().unwrap(), revision.trim().parse().unwrap());
        }
    };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..count {
        note(&lines.next().expect("the child writes until it is killed").unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died counts as well; only a last line that was cut short does not.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    rest.iter().filter(|line| line.split(' ').count() == 3).for_each(|line| note(line));
    confirmed
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_survives_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let mut confirmed = BTreeMap::new();
    for kill in 0..8 {
        confirmed.extend(run_and_kill(&path, 3 + kill * 7));

        let store = EmbeddedStore::open(&path).await.unwrap();
        let last = *confirmed.keys().last().expect("the child confirmed something");
        let all = list(&store, "").await.unwrap();
        let value = |key: &str| {
            let entry = all.entries.iter().find(|entry| entry.key == key);
            entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
        };
        let left: u64 = value("left").unwrap().parse().unwrap();
        assert_eq!(value("right"), value("left"), "no transaction is there by half");
        assert!(left == last || left == last + 1, "{left} is in the file, {last} was confirmed last");
        for round in 0..=left {
            let entry =
                store.get(&format!("log/{round:08}")).await.unwrap().unwrap_or_else(|| panic!("{round} is lost"));
            if let Some(revision) = confirmed.get(&round) {
                assert_eq!(entry.revision, Revision(*revision), "round {round} is where it was confirmed");
            }
        }
        assert_eq!(value(&format!("log/{:08}", left + 1)), None);
        check_history(&store, all.revision).await;
    }
}

/// The log must tell of every revision, and lead to what the keys hold.
async fn check_history(store: &EmbeddedStore, newest: Revision) {
    let mut watch = store.watch("", Revision::FIRST).await.unwrap();
    let mut keys = BTreeMap::new();
    for revision in 2..=newest.0 {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(batch.revision, Revision(revision), "revisions have no gap");
        for event in batch.events {
            match event {
                Event::Put(entry) => keys.insert(entry.key.clone(), entry),
                Event::Delete { key, .. } => keys.remove(&key),
            };
        }
    }
    let held = list(store, "").await.unwrap().entries;
    assert_eq!(keys.into_values().collect::<Vec<_>>(), held, "the history leads to what the keys hold");
}
