//! What a crash leaves: the steps of real operations are written down, and then every directory is rebuilt and opened that
//! a power cut after any number of them may leave.
//!
//! What a crash may do, at its worst: of the changes of a directory that was not flushed since, any may be there and any not,
//! independent of each other and of the two halves of a rename; of a file that was not flushed, nothing, all, the first half,
//! or zeros of the right length. What was flushed is there. Killed processes leave exactly the steps that were made.

mod disk;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use futures::TryStreamExt;
use rustix::io::Errno;

use disk::{Disk, Made};

use super::failure::Failure;
use super::steps::Step;
use super::{object, write};
use crate::{Payload, Storage, StorageErrorKind, conformance};

/// Images of one moment; beyond that, a sample that depends on nothing but the moment. Fewer where what was acknowledged
/// before has only the flushes that it made itself, since that leaves many more.
const IMAGES_MAX: u64 = 1 << 11;
const IMAGES_OF_UNSETTLED_MAX: u64 = 24;

#[derive(Default)]
struct Watch {
    steps: Vec<Made>,
    on: bool,
    /// The step with this number fails.
    fail: Option<(usize, Errno)>,
    /// There is no such rename on this file system.
    no_rename: bool,
    /// The process is killed before the step with this number.
    kill: Option<usize>,
}

thread_local! {
    static WATCH: RefCell<Watch> = RefCell::default();
}

/// Called before each step.
pub(super) fn before(step: &Step<'_>) -> Result<(), Errno> {
    WATCH.with_borrow_mut(|watch| {
        if !watch.on {
            return Ok(());
        }
        let at = watch.steps.len();
        if watch.kill == Some(at) {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL)?;
        }
        if let Some((_, errno)) = watch.fail.filter(|(number, _)| *number == at) {
            // A step that failed counts as one, and leaves nothing.
            watch.steps.push(Made::Answer);
            return Err(errno);
        }
        if watch.no_rename && matches!(step, Step::Rename(..)) {
            return Err(Errno::INVAL);
        }
        let own = |text: &str| text.to_owned();
        watch.steps.push(match step {
            Step::MakeDirectory(key) => Made::Directory(own(key)),
            Step::CreateFile(path) => Made::File(own(path)),
            Step::Write(path, slices) => {
                Made::Bytes(own(path), slices.iter().flat_map(|slice| slice.to_vec()).collect())
            }
            Step::SyncFile(path) => Made::FileSync(own(path)),
            Step::SyncDirectory(key) => Made::DirectorySync(own(key)),
            Step::Rename(from, to) => Made::Rename(own(from), own(to)),
            Step::Link(from, to) => Made::Link(own(from), own(to)),
            Step::RemoveFile(path) => Made::RemoveFile(own(path)),
            Step::RemoveDirectory(key) => Made::RemoveDirectory(own(key)),
        });
        Ok(())
    })
}

/// Does `work` and answers the steps that it made.
fn watched<T>(watch: Watch, work: impl FnOnce() -> T) -> (T, Vec<Made>) {
    WATCH.set(Watch { on: true, ..watch });
    let done = work();
    (done, WATCH.take().steps)
}

/// What is done to a store, in the order of the list.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Create(&'static str, u64),
    Delete(&'static str),
}

fn content(n: u64) -> Vec<u8> {
    conformance::pattern(n, 5000)
}

fn root_of(path: &Path) -> OwnedFd {
    OwnedFd::from(fs::File::open(path).unwrap())
}

fn perform(root: &OwnedFd, deed: Deed) -> Result<(), Failure> {
    match deed {
        Deed::Create(key, n) => write::create(root, key, &Payload::from(content(n)), &AtomicBool::new(false)),
        Deed::Delete(key) => object::delete(root, key),
    }
}

type State = BTreeMap<String, Vec<u8>>;

fn after(mut state: State, deed: Deed) -> State {
    match deed {
        Deed::Create(key, n) => drop(state.entry(key.to_owned()).or_insert_with(|| content(n))),
        Deed::Delete(key) => drop(state.remove(key)),
    }
    state
}

/// Lists of deeds; the last one is what the power cut meets, those before have been flushed by time.
const SCENES: &[&[Deed]] = &[
    &[Deed::Create("data/u/a", 1)],
    &[Deed::Create("data/u/a", 1), Deed::Create("data/u/b", 2)],
    &[Deed::Create("data/u/a", 1), Deed::Create("meta/u/b", 2)],
    &[Deed::Create("data/u/a", 1), Deed::Create("data/u/a", 2)],
    &[Deed::Create("data/u/a", 1), Deed::Delete("data/u/a")],
    &[Deed::Create("data/u/a", 1), Deed::Create("data/b", 2), Deed::Delete("data/u/a")],
    &[Deed::Create("data/u/a", 1), Deed::Delete("data/u/a"), Deed::Create("data/u/a", 3)],
    &[Deed::Create("a", 1), Deed::Delete("a")],
];

/// What the store shows.
async fn shown(storage: &Storage) -> State {
    let mut state = State::new();
    for meta in storage.list("").try_collect::<Vec<_>>().await.unwrap() {
        state.insert(meta.key.clone(), storage.get(&meta.key).await.unwrap().to_vec());
    }
    state
}

/// The store in `path` shows one of `allowed`, and can do the deed again.
async fn is_sound(path: &Path, allowed: &[State], deed: Deed, what: &str) {
    let storage = Storage::new(std::sync::Arc::new(super::FileSystem::existing(path).unwrap()));
    let found = shown(&storage).await;
    assert!(allowed.contains(&found), "{what}: the store shows {:?}", found.keys());
    match deed {
        Deed::Create(key, n) => match storage.create(key, Payload::from(content(n))).await {
            Ok(()) => assert!(!found.contains_key(key), "{what}: a name was given twice"),
            Err(error) => assert_eq!(error.kind(), StorageErrorKind::AlreadyExists, "{what}: {error:?}"),
        },
        Deed::Delete(key) => storage.delete(key).await.unwrap(),
    }
    assert_eq!(shown(&storage).await, *allowed.last().unwrap(), "{what}: done again");
}

/// Leftovers are invisible, and go once they are old.
fn are_swept(path: &Path) {
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 3600);
    let left = || fs::read_dir(path.join(".tmp")).into_iter().flatten().map(|entry| entry.unwrap().path());
    for file in left() {
        fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    }
    write::sweep(&root_of(path));
    assert_eq!(left().count(), 0, "leftovers go");
}

/// The scene up to its last deed, in a fresh directory, and the disk as it was then.
fn prepared(scene: &[Deed], no_rename: bool, settled: bool) -> (tempfile::TempDir, Disk, State) {
    let directory = directory_in_memory();
    let root = root_of(directory.path());
    let (_, before) = scene.split_last().unwrap();
    let (mut disk, mut state) = (Disk::new(), State::new());
    for deed in before {
        let watch = Watch { no_rename, ..Watch::default() };
        let (done, steps) = watched(watch, || perform(&root, *deed));
        done.unwrap();
        steps.iter().for_each(|made| disk.apply(made));
        state = after(state, *deed);
    }
    if settled {
        disk.settle();
    }
    (directory, disk, state)
}

#[tokio::test]
async fn a_power_cut_at_any_step_leaves_the_old_or_the_new() {
    let mut images = 0;
    let ways = [(false, true), (true, true), (false, false), (true, false)];
    for (scene, (no_rename, settled)) in SCENES.iter().flat_map(|scene| ways.map(|way| (scene, way))) {
        let images_max = if settled { IMAGES_MAX } else { IMAGES_OF_UNSETTLED_MAX };
        let (directory, mut disk, old) = prepared(scene, no_rename, settled);
        let deed = *scene.last().unwrap();
        let root = root_of(directory.path());
        let (done, mut steps) = watched(Watch { no_rename, ..Watch::default() }, || perform(&root, deed));
        assert!(done.is_ok() || matches!(deed, Deed::Create("data/u/a", 2)), "{scene:?}: {done:?}");
        steps.push(Made::Answer);
        let new = after(old.clone(), deed);
        for (at, made) in steps.iter().enumerate() {
            disk.apply(made);
            let answered = *made == Made::Answer;
            // What was answered is so.
            let allowed = if answered { vec![new.clone()] } else { vec![old.clone(), new.clone()] };
            let all = disk.images();
            let numbers: BTreeSet<u64> = match all <= images_max {
                true => (0..all).collect(),
                false => (0..images_max).map(|n| (n * 0x9E37_79B9 + 7) % all).chain([0, all - 1]).collect(),
            };
            for number in numbers {
                let image = directory_in_memory();
                disk.build(number, image.path());
                let what = format!(
                    "{scene:?}, no rename {no_rename}, settled {settled}, after step {at} {:?}, image {number}",
                    steps.get(at).map(short)
                );
                is_sound(image.path(), &allowed, deed, &what).await;
                are_swept(image.path());
                images += 1;
            }
        }
    }
    println!("{images} images");
    assert!(images > 900, "{images}");
}

/// Where flushing costs nothing, if there is such a place: what a flush does is the model's business here.
fn directory_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn short(made: &Made) -> String {
    match made {
        Made::Bytes(path, bytes) => format!("{} bytes to {path}", bytes.len()),
        made => format!("{made:?}"),
    }
}

#[tokio::test]
async fn a_step_that_fails_leaves_the_old_or_the_new_and_says_so() {
    for scene in SCENES {
        let deed = *scene.last().unwrap();
        for errno in [Errno::IO, Errno::NOSPC, Errno::ROFS] {
            for at in 0.. {
                let (directory, _, old) = prepared(scene, false, true);
                let root = root_of(directory.path());
                let watch = Watch { fail: Some((at, errno)), ..Watch::default() };
                let (done, steps) = watched(watch, || perform(&root, deed));
                let new = after(old.clone(), deed);
                let what = format!("{scene:?}, step {at} fails with {errno:?}");
                if steps.len() <= at {
                    break;
                }
                let expected = match errno {
                    Errno::IO => StorageErrorKind::Unreachable,
                    Errno::NOSPC => StorageErrorKind::Full,
                    _ => StorageErrorKind::Denied,
                };
                match done {
                    // An unfinished file or an empty directory that could not be removed harms nobody.
                    Ok(()) => assert!(matches!(steps.get(at), Some(Made::Answer)), "{what}"),
                    Err(failure) if failure.kind == StorageErrorKind::AlreadyExists => {}
                    Err(failure) => assert_eq!(failure.kind, expected, "{what}: {failure:?}"),
                }
                is_sound(directory.path(), &[old, new], deed, &what).await;
                are_swept(directory.path());
            }
        }
    }
}

const KILL_ROOT: &str = "BREAKWATER_TEST_KILL_ROOT";
const KILL_AT: &str = "BREAKWATER_TEST_KILL_AT";
const KILL_SCENE: &str = "BREAKWATER_TEST_KILL_SCENE";

/// Not a test of its own: the writer, which kills itself. Without the variables there is nothing to do.
#[test]
fn writer_that_kills_itself() {
    let (Ok(root), Ok(at), Ok(scene)) = (std::env::var(KILL_ROOT), std::env::var(KILL_AT), std::env::var(KILL_SCENE))
    else {
        return;
    };
    let deed = *SCENES[scene.parse::<usize>().unwrap()].last().unwrap();
    let root = root_of(Path::new(&root));
    let watch = Watch { kill: Some(at.parse().unwrap()), ..Watch::default() };
    let (_, steps) = watched(watch, || perform(&root, deed));
    println!("steps: {}", steps.len());
}

#[tokio::test]
async fn a_writer_killed_before_any_step_leaves_the_old_or_the_new() {
    let mut kills = 0;
    for (number, scene) in SCENES.iter().enumerate() {
        let deed = *scene.last().unwrap();
        for at in 0.. {
            let (directory, _, old) = prepared(scene, false, true);
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "file_system::power_cut::writer_that_kills_itself", "--nocapture"])
                .env(KILL_ROOT, directory.path())
                .env(KILL_AT, at.to_string())
                .env(KILL_SCENE, number.to_string())
                .output()
                .unwrap();
            if output.status.success() {
                // It was done before that step came.
                assert!(String::from_utf8_lossy(&output.stdout).contains("steps: "), "{output:?}");
                break;
            }
            let new = after(old.clone(), deed);
            is_sound(directory.path(), &[old, new], deed, &format!("{scene:?}, killed before step {at}")).await;
            are_swept(directory.path());
            kills += 1;
        }
    }
    assert!(kills > 40, "{kills}");
}
