//! The damage campaign: every byte of every object of a small repository in two regions is flipped, one at a time, every
//! object is cut off and removed. Each time the damage is found; what the damaged region alone gives is the truth or an
//! error; both regions together give the truth; and a repair puts back exactly what was written.
//!
//! By default a sample of the bytes is flipped, so that it takes seconds; `BREAKWATER_DAMAGE=all` flips every one, and
//! `BREAKWATER_SEED` chooses another sample and other bits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{LogPosition, Timestamp, Watermark};
use breakwater_repository::check::CheckOptions;
use breakwater_repository::format::descriptor::RegionRecord;
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::format::names::LogRange;
use breakwater_repository::regions::{RegionSet, Role};
use breakwater_repository::repair::{RepairOptions, RepairVerdict};
use breakwater_repository::stream::{
    LogReader, LogTarget, PlanBase, StreamKeys, StreamOptions, StreamView, StreamWriter,
};
use breakwater_repository::{CreateOptions, Place, RepairReport, Repository, Verdict};
use breakwater_storage::Storage;
use bytes::Bytes;

use crate::lab::{Files, Lab, SOURCE, backup, restore, some_files};

/// One byte in so many is flipped unless all are; a prime, so that the sample meets every field sooner or later.
const SAMPLE: usize = 23;
const SEGMENT: u64 = 64;
const LOG_BYTES: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    lab: Lab,
    files: Files,
    kept: Manifest,
    objects: BTreeMap<String, Bytes>,
}

fn log_bytes() -> Vec<u8> {
    (0..LOG_BYTES).map(|offset| u8::try_from(offset * 31 % 251).unwrap()).collect()
}

impl Rig {
    /// Two snapshots, one of them deleted, and a log with a segment and a tail, in two regions.
    async fn new() -> Rig {
        let lab = Lab::new(2).await;
        let files = some_files();
        let kept = backup(&lab, 1, &files).await;
        let deleted = backup(&lab, 2, &files).await;
        lab.repository.delete_snapshot(SOURCE, deleted.snapshot).await.unwrap();
        let set = RegionSet::new(lab.repository.handles(), 2).unwrap();
        let mut writer = StreamWriter::open(&lab.repository, &set, SOURCE, StreamOptions::new(SEGMENT)).await.unwrap();
        writer.begin(LogPosition::new(1, 0)).await.unwrap();
        writer.append(LogPosition::new(1, 0), log_bytes().into(), Vec::new()).await.unwrap();
        let watermark = Watermark { clock: Timestamp(5), position: LogPosition::new(1, LOG_BYTES) };
        writer.watermark(watermark).unwrap();
        assert!(writer.flush(PATIENCE).await.unwrap());
        drop((writer, set));
        let mut objects = BTreeMap::new();
        for name in lab.spots[0].names().await {
            let bytes = lab.spots[0].inside().get(&name).await.unwrap();
            objects.insert(name, bytes);
        }
        let kinds = [
            "/pack/",
            "/keys/",
            "/open/",
            "/snap/",
            "/log/",
            "/tail/",
            "/stream/",
            ".deleted",
            "repo/domain/",
            "/source",
        ];
        for kind in kinds {
            assert!(
                objects.keys().any(|name| name.contains(kind)),
                "the campaign needs a {kind}: {:?}",
                objects.keys()
            );
        }
        Rig { lab, files, kept, objects }
    }

    async fn check(&self, region: &str) -> breakwater_repository::CheckReport {
        let options = CheckOptions { read_data: true, regions: vec![region.to_owned()], ..CheckOptions::default() };
        self.lab.repository.check(&options).await.unwrap()
    }

    async fn repair(&self, dry_run: bool) -> RepairReport {
        let options = RepairOptions { dry_run, read_data: true, regions: Vec::new() };
        self.lab.repository.repair(&options).await.unwrap()
    }

    /// What the regions given bring back: the truth, or an error.
    async fn brings_back(&self, what: &str, regions: &[&str]) -> bool {
        let order = self.lab.repository.read_order().narrowed(|region| regions.contains(&region));
        match restore(&self.lab.repository, &order, self.kept.snapshot, self.kept.session).await {
            Ok(files) => {
                assert_eq!(files, self.files, "{what}: wrong bytes were restored");
                true
            }
            Err(_) => false,
        }
    }

    /// The same of the log.
    async fn brings_back_log(&self, what: &str, regions: &[&str]) -> bool {
        let handles = self.lab.repository.handles();
        let handles: Vec<_> = handles.into_iter().filter(|handle| regions.contains(&handle.name.as_str())).collect();
        let Ok(set) = RegionSet::new(handles, 1) else { return false };
        let keys = StreamKeys::of(&self.lab.repository, SOURCE);
        let at = LogPosition::new(1, 0);
        let base = PlanBase { start: at, end: at, consistent_at: Timestamp(0) };
        let secrets = keys.secrets(&self.lab.repository, &set).unwrap();
        let plan = match StreamView::plan_now(&set, &keys, &base, &LogTarget::Latest, Some(&*secrets)).await {
            Ok(plan) => plan,
            Err(error) => {
                println!("{what}, log from {regions:?}: {error}");
                return false;
            }
        };
        let end = plan.end.offset;
        let range = LogRange { branch: 1, start: 0, end };
        match LogReader::new(&set, &keys, secrets, plan).read(range).await {
            Ok(bytes) => {
                assert_eq!(bytes, log_bytes()[..usize::try_from(end).unwrap()], "{what}: wrong log");
                end == LOG_BYTES
            }
            Err(error) => {
                println!("{what}, log from {regions:?}: {error:?}");
                false
            }
        }
    }

    /// Nothing wrong is read from the damaged region, and everything from both.
    async fn reads(&self, what: &str, name: &str) {
        self.brings_back(what, &["r0"]).await;
        assert!(self.brings_back(what, &["r0", "r1"]).await, "{what}: the other region has all of it");
        if name.contains("/log/") || name.contains("/tail/") || name.contains("/stream/") {
            self.brings_back_log(what, &["r0"]).await;
            assert!(self.brings_back_log(what, &["r0", "r1"]).await, "{what}: the other region has all of the log");
        }
    }

    /// A repair mends exactly this object, and then it is what it was.
    async fn mends(&self, what: &str, name: &str, bytes: &Bytes) {
        let report = self.repair(false).await;
        assert_eq!(report.verdict(), RepairVerdict::Whole, "{what}: {report:?}");
        let mended: Vec<&str> = report.regions[0].mended.iter().map(|mended| mended.object.as_str()).collect();
        assert_eq!(mended, [name], "{what}: {report:?}");
        assert!(report.regions[1].mended.is_empty(), "{what}: {report:?}");
        let now = self.lab.spots[0].inside().get(name).await.unwrap();
        assert!(now == *bytes || says_the_same(name, bytes, &now), "{what}: other bytes were put");
    }
}

/// The time in a region record is for people, and ids may be spelled in either case: nothing depends on those, and nothing
/// proves them.
fn says_the_same(name: &str, bytes: &[u8], changed: &[u8]) -> bool {
    let ids = |bytes| RegionRecord::decode(bytes).ok().map(|record| (record.repository, record.region));
    name == "repo/region" && ids(bytes) == ids(changed)
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A share of the campaign: the bytes of each object whose number is `share` modulo `shares`.
async fn flips(share: usize, shares: usize) -> usize {
    let rig = Rig::new().await;
    let all = std::env::var("BREAKWATER_DAMAGE").is_ok_and(|word| word == "all");
    let seed = number("BREAKWATER_SEED", 1);
    let mut done = 0;
    for (index, (name, bytes)) in rig.objects.iter().enumerate() {
        for at in (0..bytes.len()).filter(|at| (at + index) % shares == share) {
            if !all && !(at / shares + index + seed).is_multiple_of(SAMPLE) {
                continue;
            }
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << ((at + seed) % 8);
            rig.lab.spots[0].replace(name, changed.clone().into()).await;
            let what = format!("byte {at} of {name}");
            if says_the_same(name, bytes, &changed) {
                rig.reads(&what, name).await;
                rig.lab.spots[0].replace(name, bytes.clone()).await;
                continue;
            }
            let report = rig.check("r0").await;
            assert_eq!(report.verdict(), Verdict::Damaged, "{what} was changed, and nothing was found");
            let told = report.regions[0].findings.iter().any(|finding| &finding.object == name);
            assert!(told, "{what}: {:?}", report.regions[0].findings);
            rig.reads(&what, name).await;
            rig.mends(&what, name, bytes).await;
            done += 1;
        }
    }
    assert_eq!(rig.check("r0").await.verdict(), Verdict::Sound);
    done
}

#[test]
fn every_flipped_byte_is_found_and_mended() {
    let shares = std::thread::available_parallelism().map_or(2, usize::from);
    let share = |share: usize| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(flips(share, shares))
        })
    };
    let threads: Vec<_> = (0..shares).map(share).collect();
    let done: usize = threads.into_iter().map(|thread| thread.join().expect("a share of the campaign")).sum();
    println!("{done} flipped bytes");
    assert!(done > 200, "{done}");
}

#[tokio::test]
async fn every_cut_object_is_found_and_mended() {
    let rig = Rig::new().await;
    for (name, bytes) in &rig.objects {
        let lengths = [0, 1, 24, bytes.len() / 2, bytes.len() - 1];
        for length in lengths.into_iter().filter(|length| *length < bytes.len()) {
            rig.lab.spots[0].replace(name, bytes.slice(..length)).await;
            let what = format!("{name} cut to {length} bytes");
            assert_eq!(rig.check("r0").await.verdict(), Verdict::Damaged, "{what}");
            rig.reads(&what, name).await;
            rig.mends(&what, name, bytes).await;
        }
    }
}

#[tokio::test]
async fn every_lost_object_is_missed_and_put_again() {
    let rig = Rig::new().await;
    for (name, bytes) in &rig.objects {
        rig.lab.spots[0].inside().delete(name).await.unwrap();
        let report =
            rig.lab.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
        let first = &report.regions[0];
        assert!(first.missing.contains(name), "{name} is gone from r0, and nobody misses it");
        assert!(report.regions[1].findings.is_empty() && report.regions[1].missing.is_empty());
        rig.reads(name, name).await;
        rig.mends(name, name, bytes).await;
    }
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_changes_nothing() {
    let rig = Rig::new().await;
    let damaged: Vec<&String> = rig.objects.keys().filter(|name| !name.starts_with("repo/")).step_by(2).collect();
    for name in &damaged {
        rig.lab.spots[0].replace(name, Bytes::from_static(b"rot")).await;
    }
    let report = rig.repair(true).await;
    assert_eq!(report.verdict(), RepairVerdict::Pending, "{report:?}");
    assert_eq!(report.regions[0].mended_objects, damaged.len() as u64);
    for name in &damaged {
        assert_eq!(rig.lab.spots[0].inside().get(name).await.unwrap(), "rot");
    }
    let report = rig.repair(false).await;
    assert_eq!(report.verdict(), RepairVerdict::Whole, "{report:?}");
    let again = rig.repair(false).await;
    assert_eq!((again.verdict(), again.regions[0].mended_objects), (RepairVerdict::Whole, 0));
    for (name, bytes) in &rig.objects {
        assert_eq!(rig.lab.spots[0].inside().get(name).await.unwrap(), *bytes);
    }
}

#[tokio::test]
async fn a_repair_that_is_cut_short_anywhere_is_finished_by_the_next() {
    use breakwater_storage::{Effect, Rule, StorageErrorKind};
    let rig = Rig::new().await;
    let damaged: Vec<&String> = rig.objects.keys().filter(|name| !name.starts_with("repo/")).collect();
    for stop in 0..damaged.len() {
        for name in &damaged {
            rig.lab.spots[0].replace(name, Bytes::from_static(b"rot")).await;
        }
        // Deletes go through and creates fail from some point on: the worst moment of each object.
        let rule = Rule::on(breakwater_storage::Operation::Create).from(u64::try_from(stop + 1).unwrap());
        rig.lab.spots[0].fault.add(rule, Effect::Fail(StorageErrorKind::Unreachable));
        let report = rig.repair(false).await;
        assert_ne!(report.verdict(), RepairVerdict::Whole, "after {stop} objects: {report:?}");
        rig.lab.spots[0].fault.heal();
        assert!(rig.brings_back("in mid-repair", &["r0", "r1"]).await);
        let report = rig.repair(false).await;
        assert_eq!(report.verdict(), RepairVerdict::Whole, "after {stop} objects: {report:?}");
        for (name, bytes) in &rig.objects {
            assert_eq!(rig.lab.spots[0].inside().get(name).await.unwrap(), *bytes, "{name}");
        }
    }
}

#[tokio::test]
async fn what_no_region_has_is_named_with_its_snapshot_and_files() {
    let rig = Rig::new().await;
    let content: Vec<&String> =
        rig.objects.keys().filter(|name| name.starts_with("data/") && name.contains("/pack/")).collect();
    let mine = content.iter().find(|name| name.contains(&rig.kept.session.to_string())).unwrap();
    for spot in &rig.lab.spots {
        spot.inside().delete(mine).await.unwrap();
    }
    let report = rig.repair(false).await;
    assert_eq!(report.verdict(), RepairVerdict::Lost, "{report:?}");
    let paths: Vec<_> = report.lost.iter().filter_map(|loss| loss.path.clone()).collect();
    assert_eq!(paths, ["base/1/1259", "global/pg_control"]);
    assert!(report.lost.iter().all(|loss| loss.snapshot == rig.kept.snapshot && &&loss.object == mine), "{report:?}");
    assert!(!rig.brings_back("lost", &["r0", "r1"]).await);

    // It is on record, once, so that the next backup does not lean on it.
    let on_record = rig.lab.repository.lost_packs(SOURCE).await.unwrap();
    assert_eq!(on_record.len(), 1);
    assert!(rig.lab.repository.has_losses(SOURCE).await.unwrap(), "there is a mark of it");
    rig.repair(false).await;
    assert_eq!(rig.lab.repository.lost_packs(SOURCE).await.unwrap(), on_record);
    // Older versions made no mark; what they put on record is found all the same.
    for region in rig.lab.repository.regions() {
        region.place().delete(&breakwater_repository::ObjectName::Losses(SOURCE).to_string()).await.unwrap();
    }
    assert!(!rig.lab.repository.has_losses(SOURCE).await.unwrap());
    assert_eq!(rig.lab.repository.lost_packs(SOURCE).await.unwrap(), on_record);
    let settled = rig.lab.repository.settle_losses(SOURCE).await.unwrap();
    assert_eq!((settled.found, settled.open), (0, 4), "nothing was stored since");

    // The source still has most of it: stored anew, it serves the old snapshot too, from each region alone.
    let mut later = rig.files.clone();
    later.get_mut("global/pg_control").unwrap()[7] ^= 1;
    backup(&rig.lab, 3, &later).await;
    let report = rig.repair(false).await;
    assert_eq!(report.verdict(), RepairVerdict::Lost, "{report:?}");
    let paths: Vec<_> = report.lost.iter().filter_map(|loss| loss.path.clone()).collect();
    assert_eq!(paths, ["global/pg_control"], "only what the source has not any more");
    backup(&rig.lab, 4, &rig.files).await;
    let settled = rig.lab.repository.settle_losses(SOURCE).await.unwrap();
    assert_eq!((settled.found, settled.open), (4, 0));
    assert!(rig.lab.repository.lost_packs(SOURCE).await.unwrap().is_empty());
    for region in ["r0", "r1"] {
        assert!(rig.brings_back("found again", &[region]).await, "{region}");
        assert_eq!(rig.check(region).await.verdict(), Verdict::Sound, "{region}");
    }
    assert_eq!(rig.repair(false).await.verdict(), RepairVerdict::Whole);
}

#[tokio::test]
async fn a_writer_repairs_without_opening_content() {
    let rig = Rig::new().await;
    let writer =
        rig.lab.reopen(breakwater_repository::Access::Writer(rig.lab.created.writer_key.clone())).await.unwrap();
    for (name, bytes) in rig.objects.iter().filter(|(name, _)| !name.starts_with("repo/")) {
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 4;
        rig.lab.spots[0].replace(name, changed.into()).await;
    }
    let report = writer.repair(&RepairOptions { read_data: true, ..RepairOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), RepairVerdict::Whole, "{report:?}");
    for (name, bytes) in &rig.objects {
        assert_eq!(rig.lab.spots[0].inside().get(name).await.unwrap(), *bytes, "{name}");
    }
}

#[tokio::test]
async fn an_empty_or_foreign_place_is_left_alone() {
    let rig = Rig::new().await;
    let other = Storage::memory();
    let place = Place::new("other", Role::Sync, other.clone());
    let entropy = Arc::new(breakwater_runtime::SystemEntropy);
    Repository::create(vec![place], CreateOptions::default(), crate::lab::clock(), entropy).await.unwrap();
    for case in ["empty", "foreign"] {
        for name in rig.lab.spots[0].names().await {
            rig.lab.spots[0].inside().delete(&name).await.unwrap();
        }
        if case == "foreign" {
            for name in ["repo/descriptor", "repo/region"] {
                let bytes = other.get(name).await.unwrap();
                rig.lab.spots[0].inside().create(name, bytes.into()).await.unwrap();
            }
        }
        let before = rig.lab.spots[0].names().await;
        let report = rig.repair(false).await;
        assert_eq!(report.verdict(), RepairVerdict::Unfinished, "{case}: {report:?}");
        assert!(report.regions[0].unreached.is_some(), "{case}: {report:?}");
        assert_eq!(rig.lab.spots[0].names().await, before, "{case}: something was written");
        let told = rig.check("r0").await;
        assert_eq!(told.verdict(), Verdict::Incomplete, "{case}: {told:?}");
    }
}
