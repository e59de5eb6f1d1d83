//! Damage of several objects at once, objects that were lost or swapped, and padding. What is read back is what was written, or
//! an error, never anything else. Every single byte is the business of `campaign`.

use std::collections::BTreeMap;
use std::ops::Range;

use breakwater_repository::check::{CheckOptions, CheckReport};
use breakwater_repository::format::pack::{FRAME_HEAD, HEADER_LENGTH};
use breakwater_repository::{ObjectName, Repository, Verdict};
use bytes::Bytes;

use crate::lab::{Files, Lab, SOURCE, backup, restore, some_files};

async fn check(repository: &Repository, region: &str) -> CheckReport {
    let options = CheckOptions { read_data: true, regions: vec![region.to_owned()], ..CheckOptions::default() };
    repository.check(&options).await.unwrap()
}

/// The bytes of each pack that mean something: all but the padding of its frames.
async fn meaningful(lab: &Lab, name: &str, length: usize) -> Vec<Range<usize>> {
    let Some(parsed @ (ObjectName::ContentPack(..) | ObjectName::StructurePack(..))) = ObjectName::parse(name) else {
        return std::iter::once(0..length).collect();
    };
    let (footer, _) = lab.repository.fetch_footer(&lab.order(), &parsed).await.unwrap();
    let mut ranges: Vec<_> = std::iter::once(0..HEADER_LENGTH).collect();
    let mut end = HEADER_LENGTH;
    for frame in &footer.frames {
        let start = frame.offset as usize;
        let stop = start + FRAME_HEAD + frame.stored as usize;
        ranges.push(start..stop);
        end = stop.next_multiple_of(16);
    }
    ranges.push(end..length);
    ranges
}

struct Rig {
    lab: Lab,
    files: Files,
    of: (breakwater_core::SnapshotId, breakwater_core::SessionId),
    objects: BTreeMap<String, Bytes>,
}

impl Rig {
    async fn new(regions: usize) -> Rig {
        let lab = Lab::new(regions).await;
        let files = some_files();
        let manifest = backup(&lab, 1, &files).await;
        let mut objects = BTreeMap::new();
        for name in lab.spots[0].names().await {
            let bytes = lab.spots[0].inside().get(&name).await.unwrap();
            objects.insert(name, bytes);
        }
        Rig { lab, files, of: (manifest.snapshot, manifest.session), objects }
    }

    /// What a restore from the first region alone gives: the truth, or an error.
    async fn reads_truth_or_fails(&self, what: &str) -> bool {
        let order = self.lab.repository.read_only_from("r0").unwrap();
        match restore(&self.lab.repository, &order, self.of.0, self.of.1).await {
            Ok(files) => {
                assert_eq!(files, self.files, "{what}: wrong bytes were restored");
                true
            }
            Err(_) => false,
        }
    }
}

#[tokio::test]
async fn padding_that_changed_is_told_and_harms_nobody() {
    let rig = Rig::new(1).await;
    let mut padding = 0;
    for (name, bytes) in &rig.objects {
        let ranges = meaningful(&rig.lab, name, bytes.len()).await;
        let mut changed = bytes.to_vec();
        for (at, byte) in changed.iter_mut().enumerate() {
            if !ranges.iter().any(|range| range.contains(&at)) {
                *byte ^= 0xff;
                padding += 1;
            }
        }
        rig.lab.spots[0].replace(name, changed.into()).await;
    }
    assert!(padding > 0);
    let report = check(&rig.lab.repository, "r0").await;
    assert_eq!(report.verdict(), Verdict::Damaged);
    assert!(report.regions[0].findings.iter().all(|finding| finding.problem.contains("padding")), "{report:?}");
    assert!(rig.reads_truth_or_fails("padding").await);
}

#[tokio::test]
async fn every_lost_object_is_missed() {
    let rig = Rig::new(2).await;
    for (name, bytes) in &rig.objects {
        rig.lab.spots[0].inside().delete(name).await.unwrap();
        let report =
            rig.lab.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
        let first = &report.regions[0];
        assert!(first.missing.contains(name), "{name} is gone from r0, and nobody misses it");
        // What a snapshot leans on is more than a debt.
        let leaned_on = name.starts_with("repo/") || name.contains("/pack/") || name.contains("/keys/");
        assert_eq!(leaned_on, !first.findings.is_empty(), "{name}: {:?}", first.findings);
        assert!(report.regions[1].findings.is_empty() && report.regions[1].missing.is_empty());
        rig.reads_truth_or_fails(name).await;
        // With both regions nothing is lost.
        let files = restore(&rig.lab.repository, &rig.lab.order(), rig.of.0, rig.of.1).await.unwrap();
        assert_eq!(files, rig.files, "{name}");
        rig.lab.spots[0].inside().create(name, bytes.clone().into()).await.unwrap();
    }
}

#[tokio::test]
async fn one_good_copy_of_each_object_is_enough() {
    let rig = Rig::new(2).await;
    // Every object is damaged in one region, in turn in the first and in the second.
    for (at, (name, bytes)) in rig.objects.iter().enumerate().filter(|(_, (name, _))| !name.starts_with("repo/")) {
        let mut changed = bytes.to_vec();
        for byte in changed.iter_mut().skip(20).step_by(37) {
            *byte ^= 0x55;
        }
        rig.lab.spots[at % 2].replace(name, changed.into()).await;
    }
    let files = restore(&rig.lab.repository, &rig.lab.order(), rig.of.0, rig.of.1).await.unwrap();
    assert_eq!(files, rig.files);
    let list = rig.lab.repository.snapshots(&rig.lab.order(), Some(SOURCE)).await.unwrap();
    assert_eq!(list.snapshots.len(), 1);
}

#[tokio::test]
async fn objects_of_others_are_reported_and_not_counted_as_damage() {
    let rig = Rig::new(1).await;
    rig.lab.spots[0].inside().create("notes.txt", Bytes::from_static(b"x").into()).await.unwrap();
    let report = check(&rig.lab.repository, "r0").await;
    assert_eq!(report.regions[0].unknown, ["notes.txt"]);
    assert_eq!(report.verdict(), Verdict::Sound);
}

#[tokio::test]
async fn objects_cannot_be_swapped() {
    let rig = Rig::new(1).await;
    let of_kind = |part: &str| rig.objects.iter().find(|(name, _)| name.contains(part)).unwrap();
    let pairs = [("/keys/", "/open/"), ("meta/the", "/source"), ("/snap/", "/open/")];
    for (one, other) in pairs.iter().filter(|(one, _)| rig.objects.keys().any(|name| name.contains(one))) {
        let ((name, bytes), (_, foreign)) = (of_kind(one), of_kind(other));
        rig.lab.spots[0].replace(name, foreign.clone()).await;
        assert_eq!(check(&rig.lab.repository, "r0").await.verdict(), Verdict::Damaged, "{name}");
        rig.lab.spots[0].replace(name, bytes.clone()).await;
    }
    let content = of_kind("data/");
    let structure = rig.objects.iter().find(|(name, _)| name.starts_with("meta/") && name.contains("/pack/")).unwrap();
    rig.lab.spots[0].replace(content.0, structure.1.clone()).await;
    assert_eq!(check(&rig.lab.repository, "r0").await.verdict(), Verdict::Damaged);
    assert!(!rig.reads_truth_or_fails("a swapped pack").await);
}
