//! Servers that are killed, hang, lose their directory or run full, and writers that die.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use breakwater_runtime::{RetryPolicy, SystemEntropy};
use breakwater_storage::places::UseAs;
use breakwater_storage::{Payload, Retry, Storage, StorageError, StorageErrorKind, conformance};
use breakwater_storage_sftp::Environment;
use breakwater_testkit::sshd::SshdSetup;
use breakwater_testkit::user::is_root;
use breakwater_testkit::wait::until_true;
use futures::TryStreamExt;
use futures::future::join_all;

use crate::place::{LONG, Place, SHORT, storage, temporaries, text};

const MIB: usize = 1 << 20;

async fn keys(storage: &Storage) -> Vec<String> {
    storage.list("").map_ok(|meta| meta.key).try_collect().await.unwrap()
}

fn assert_unreachable<T: std::fmt::Debug>(result: Result<T, StorageError>) {
    let error = result.expect_err("the place is away");
    assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{}", text(&error));
}

/// The bytes that unfinished writes in `root` have by now.
fn unfinished_bytes(root: &Path) -> u64 {
    let sizes = temporaries(root).into_iter().filter_map(|name| fs::metadata(root.join(".tmp").join(name)).ok());
    sizes.map(|meta| meta.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_the_middle_of_a_create_shows_nothing_in_part() {
    let place = Place::start().await;
    let root = place.fresh_root();
    let region = place.open(&root, UseAs::Fresh, LONG);
    region.create("first", Payload::from(vec![1])).await.unwrap();
    // As it is used: whoever comes upon a connection that was killed tries again.
    let policy = RetryPolicy::new(5, Duration::from_millis(1), Duration::from_millis(10));
    let patient = Storage::new(Arc::new(Retry::new(region.backend(), policy, Arc::new(SystemEntropy))));
    let content = Payload::from(conformance::pattern(7, 10 * MIB));
    let mut interrupted = 0;
    for round in 0_u64..6 {
        let key = format!("data/{round}");
        let create = tokio::spawn({
            let (region, key, content) = (region.clone(), key.clone(), content.clone());
            async move { region.create(&key, content).await }
        });
        // Another instant of the write each round; the last may hit the publication.
        let reached = round * 2 * MIB as u64;
        until_true("the write has come so far", Duration::from_secs(60), async || {
            create.is_finished() || unfinished_bytes(&root) >= reached.max(1)
        })
        .await;
        assert!(place.sshd.kill_sessions() > 0);
        let killed = Instant::now();
        let created = create.await.unwrap();
        assert!(killed.elapsed() < LONG.silence / 2, "a connection that broke is noticed, not waited for");
        match created {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{}", text(&error));
                interrupted += 1;
                let visible = root.join(&key);
                assert!(!visible.exists() || fs::read(&visible).unwrap() == content.to_bytes(), "whole or not at all");
                match patient.create(&key, content.clone()).await {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), StorageErrorKind::AlreadyExists, "{}", text(&error)),
                }
            }
        }
        assert!(patient.get(&key).await.unwrap() == content.to_bytes());
    }
    assert!(interrupted >= 3, "kills hit the middle of writes");
    assert_eq!(keys(&patient).await.len(), 7);
    assert_eq!(temporaries(&root), Vec::<String>::new(), "later calls removed what was left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_unreachable_in_bounded_time_and_serves_again_when_it_goes_on() {
    let place = Place::start().await;
    let region = place.open(&place.fresh_root(), UseAs::Fresh, SHORT);
    region.create("a", Payload::from(vec![1])).await.unwrap();
    place.sshd.freeze();
    let start = Instant::now();
    for result in join_all((0..20).map(|_| region.get("a"))).await {
        assert_unreachable(result);
    }
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    place.sshd.thaw();
    until_true("the region is back", Duration::from_secs(60), async || region.get("a").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_is_unreachable_until_it_is_back() {
    let mut place = Place::start().await;
    let root = place.fresh_root();
    let region = place.open(&root, UseAs::Fresh, LONG);
    region.create("a", Payload::from(vec![1])).await.unwrap();
    place.sshd.stop();
    assert_unreachable(region.get("a").await);
    assert_unreachable(region.create("b", Payload::from(vec![1])).await);
    assert_unreachable(region.list("").try_collect::<Vec<_>>().await);
    place.sshd.resume().await.unwrap();
    assert_eq!(region.get("a").await.unwrap(), [1][..]);
    region.create("b", Payload::from(vec![1])).await.unwrap();
}

async fn assert_all_unreachable(region: &Storage) {
    assert_unreachable(region.create("data/new", Payload::from(vec![1])).await);
    assert_unreachable(region.get("data/a").await);
    assert_unreachable(region.get_range("data/a", 0..1).await);
    assert_unreachable(region.get_tail("data/a", 1).await);
    assert_unreachable(region.head("data/a").await);
    assert_unreachable(region.exists("data/none").await);
    assert_unreachable(region.list("").try_collect::<Vec<_>>().await);
    assert_unreachable(region.list("data/").try_collect::<Vec<_>>().await);
    assert_unreachable(region.list_directories("").await);
    assert_unreachable(region.delete("data/a").await);
}

#[tokio::test]
async fn a_root_that_goes_away_is_unreachable_until_it_is_back() {
    let place = Place::start().await;
    let (root, elsewhere) = (place.fresh_root(), place.fresh_root());
    let early = place.open(&root, UseAs::Existing, LONG);
    assert_all_unreachable(&early).await;
    let region = place.open(&root, UseAs::Fresh, LONG);
    region.create("data/a", Payload::from(vec![1])).await.unwrap();
    assert_eq!(early.get("data/a").await.unwrap(), [1][..]);

    fs::rename(&root, &elsewhere).unwrap();
    assert_all_unreachable(&region).await;
    assert!(!root.exists(), "it is not made again");
    fs::write(&root, "a file is no region").unwrap();
    assert_all_unreachable(&region).await;
    fs::remove_file(&root).unwrap();
    fs::rename(&elsewhere, &root).unwrap();
    assert_eq!(region.get("data/a").await.unwrap(), [1][..]);
    region.create("data/new", Payload::from(vec![1])).await.unwrap();
}

#[tokio::test]
async fn a_full_volume_says_so_and_keeps_nothing_unfinished() {
    if !is_root() {
        eprintln!("not tested: only root can make a small volume");
        return;
    }
    let before = "mount -t tmpfs -o size=8m,mode=755 small /srv && mkdir /srv/region".to_owned();
    let place = Place::start_with(SshdSetup { before: Some(before), ..SshdSetup::default() }).await;
    let url = place.sshd.url(Path::new("/srv/region")).unwrap();
    let region = storage(&url, &Environment::default(), UseAs::Existing, LONG);
    region.create("data/fits", vec![1; MIB].into()).await.unwrap();
    for _ in 0..5 {
        let error = region.create("data/large", Payload::from(vec![2; 9 * MIB])).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Full, "{}", text(&error));
    }
    // The room is free again, so nothing unfinished is left; and what was there is unharmed.
    region.create("data/also-fits", vec![3; 6 * MIB].into()).await.unwrap();
    assert_eq!(keys(&region).await, ["data/also-fits", "data/fits"]);
    assert_eq!(region.get("data/fits").await.unwrap(), vec![1; MIB]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixteen_writers_over_their_own_connections_one_wins() {
    for subsystem in ["internal-sftp", "internal-sftp -P hardlink"] {
        let place = Place::serving(subsystem).await;
        let root = place.fresh_root();
        fs::create_dir(&root).unwrap();
        let regions: Vec<Storage> = (0..4).map(|_| place.open(&root, UseAs::Existing, LONG)).collect();
        for round in 0..5 {
            let key = format!("data/{round}");
            let writers = (0..16_u8).map(|writer| {
                let (region, key) = (regions[usize::from(writer) % 4].clone(), key.clone());
                tokio::spawn(async move { region.create(&key, Payload::from(vec![writer; 100_000])).await })
            });
            let mut winners = Vec::new();
            for (writer, outcome) in (0..).zip(join_all(writers).await) {
                match outcome.unwrap() {
                    Ok(()) => winners.push(writer),
                    Err(error) => assert_eq!(error.kind(), StorageErrorKind::AlreadyExists, "{}", text(&error)),
                }
            }
            assert_eq!(winners.len(), 1, "{subsystem}, round {round}");
            assert_eq!(regions[0].get(&key).await.unwrap(), vec![winners[0]; 100_000]);
        }
        assert_eq!(temporaries(&root), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_dead_writers_left_is_removed_by_the_first_call_and_what_is_young_stays() {
    let place = Place::start().await;
    let root = place.fresh_root();
    fs::create_dir_all(root.join(".tmp")).unwrap();
    for (name, age) in [("dead", 25), ("young", 23)] {
        let file = fs::File::create(root.join(".tmp").join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age * 3600)).unwrap();
    }
    let region = place.open(&root, UseAs::Existing, LONG);
    assert_eq!(temporaries(&root).len(), 2, "nothing happens before the first call");
    assert!(region.head("a").await.unwrap_err().is_not_found());
    assert_eq!(temporaries(&root), ["young"]);
}

/// The files that the sessions hold open below `root`.
fn open_files(place: &Place, root: &Path) -> usize {
    let open = |id: u32| {
        let entries = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(root))).count()
    };
    place.sshd.sessions().into_iter().map(open).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_leave_neither_files_nor_handles() {
    let place = Place::start().await;
    let root = place.fresh_root();
    let region = place.open(&root, UseAs::Fresh, LONG);
    let content = Payload::from(conformance::pattern(1, 4 * MIB));
    region.create("whole", content.clone()).await.unwrap();
    for n in 0..40_u64 {
        let patience = Duration::from_millis(n);
        // Most are cut short; what became of each is looked at below.
        drop(tokio::time::timeout(patience, region.create(&format!("data/{n}"), content.clone())).await);
        drop(tokio::time::timeout(patience, region.get("whole")).await);
    }
    until_true("nothing is left", Duration::from_secs(30), async || {
        temporaries(&root).is_empty() && open_files(&place, &root) == 0
    })
    .await;
    for key in keys(&region).await {
        assert!(region.get(&key).await.unwrap() == content.to_bytes(), "{key} is whole");
    }
}
