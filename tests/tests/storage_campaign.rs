//! Ten thousand random operations on a place behind a proxy that resets, cuts, delays, repeats and refuses what passes, with all the
//! decorators that a place has in production, against a naive model: no object is lost or doubled, no byte is wrong. An operation may
//! fail with an error; it may not lie.
//!
//! `BREAKWATER_SEED` replays a run, `BREAKWATER_OPERATIONS` makes it longer or shorter.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "storage_campaign/model.rs"]
mod model;
#[path = "storage_campaign/player.rs"]
mod player;
#[path = "storage_campaign/store.rs"]
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use breakwater_core::{Clock, Entropy};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::{Limits, Operation, Storage, Timeouts, assemble};
use breakwater_testkit::fault_proxy::{FaultKind, FaultProxy, Odds};
use futures::TryStreamExt;

use model::Contest;
use player::{Player, Rules};
use store::Store;

/// Players at once; each has keys of its own, and some that all of them want.
const PLAYERS: u64 = 8;

/// One request in so many meets a fault.
const ONE_IN: u64 = 12;

/// More than a store needs for an answer on a busy host, and less than the proxy's longest trickle.
const TIMEOUTS: Timeouts =
    Timeouts { call: Duration::from_secs(6), transfer: Duration::from_secs(6), slowest: 1 << 20, whole: 1 << 20 };

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap())
}

fn decorated(place: &Storage) -> breakwater_storage::Stack {
    let limits = Limits { timeouts: TIMEOUTS, try_for: Duration::from_secs(3), ..Limits::default() };
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    assemble(place, "r1", &limits, &clock, &entropy)
}

/// Plays `operations` on `store` with faults of `odds`, and looks at what is left without them.
async fn campaign(store: &Store, operations: u64, odds: Odds, rules: Rules) {
    let seed = number("BREAKWATER_SEED", 7);
    let operations = number("BREAKWATER_OPERATIONS", operations);
    let begun = Instant::now();
    let proxy = Arc::new(FaultProxy::start(store.endpoint(), seed, odds).await.unwrap());
    let stack = decorated(&store.open(&proxy.endpoint()).await);
    let contest = Arc::new(Contest::default());
    let mut players = tokio::task::JoinSet::new();
    for number in 0..PLAYERS {
        let player = Player::new(number, seed, rules, stack.storage.clone(), Arc::clone(&proxy), Arc::clone(&contest));
        players.spawn(player.play(operations / PLAYERS));
    }
    let mut finished = Vec::new();
    while let Some(player) = players.join_next().await {
        finished.push(player.unwrap());
    }
    proxy.heal().await.unwrap();

    let direct = store.open(store.endpoint()).await;
    let left: Vec<_> = direct.list("").map_ok(|meta| meta.key).try_collect().await.unwrap();
    assert!(left.is_sorted_by(|one, next| one < next), "every object is there once: {left:?}");
    let (mut done, mut failed) = (0, 0);
    for player in &mut finished {
        player.settle(&direct).await;
        done += player.done;
        failed += player.failed;
    }
    contest.settle(&direct).await;
    let known = finished.iter().map(Player::keys).sum::<usize>() + contest.keys();
    assert!(left.len() <= known, "nothing is there that nobody created");

    let injected = proxy.injected();
    let figures = stack.meter.figures();
    let faults: u64 = injected.values().sum();
    println!(
        "seed {seed}: {done} operations done, {failed} failed with an error; {faults} faults: {injected:?}; \
         {:?} requests; {:.1} s",
        figures.requests(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(done + failed, operations / PLAYERS * PLAYERS);
    assert!(done > failed, "with so many errors nothing is proven");
    if operations >= 5000 {
        for kind in [FaultKind::ResetAfter, FaultKind::Truncate, FaultKind::Storm, FaultKind::Twice, FaultKind::Late] {
            assert!(injected.get(&kind).is_some_and(|times| *times > 10), "{kind:?} hardly happened: {injected:?}");
        }
        assert!(figures.operations[&Operation::Create].trouble() > 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_by_a_small_store() {
    let store = Store::small_s3().await;
    campaign(&store, 10_000, Odds::one_in(ONE_IN), Rules::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_by_moto() {
    let store = Store::moto().await;
    campaign(&store, 1_600, Odds::one_in(ONE_IN), Rules::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_by_azurite() {
    let store = Store::azurite().await;
    campaign(&store, 1_600, Odds::one_in(ONE_IN), Rules::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_by_a_strict_server() {
    let store = Store::google().await;
    campaign(&store, 3_200, Odds::one_in(ONE_IN), Rules::default()).await;
}

/// A list that lies cannot be told from a true one; all else stays right, since nothing else leans on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_lie_spoil_nothing_else() {
    let store = Store::small_s3().await;
    let rules = Rules { lists_lie: true };
    campaign(&store, 3_000, Odds::one_in(ONE_IN).with_lying_lists(), rules).await;
}
