//! Restores of data that lies in an archive: what can be read elsewhere is, and only what is needed is asked for.

use std::time::Duration;

use breakwater_repository::tiers::TierOptions;
use breakwater_storage::{Operation, Rule, Tier};

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise};

async fn archive(lab: &Lab, region: &str) {
    let to = Some((Tier::Archive, Duration::ZERO));
    let options = TierOptions { regions: vec![region.to_owned()], to, ..TierOptions::default() };
    let moved = lab.recipient.move_tiers(&options).await.unwrap();
    assert!(moved[0].moved.objects > 0 && moved[0].trouble.is_none(), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_archived_comes_from_where_it_is_not() {
    let lab = Lab::with(2, 2, crate::lab::options()).await;
    let mut tree = Tree::default();
    for n in 0..40 {
        tree.file(&format!("f{n:02}"), noise(n + 1, EXTENT * 64));
    }
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    assert!(lab.set.drained(Duration::from_secs(20)).await);
    archive(&lab, "r0").await;
    let asked = lab.faults[0]
        .add(Rule::on(Operation::GetRange).prefix("data/"), breakwater_storage::Effect::Delay(Duration::ZERO));
    let (restored, report) = lab.restore(&manifest).await;
    assert_eq!(restored, tree);
    assert!(report.damage.is_empty(), "an archive is no damage: {:?}", report.damage);
    assert_eq!(report.served.get("r0").copied().unwrap_or(0), 0);
    let packs = lab.names(0, "data/").await.len() as u64;
    assert!(asked.hits() <= 4 * packs, "it is not asked for each range again: {} of {packs}", asked.hits());
    archive(&lab, "r1").await;
    let error = lab.restore_only(&manifest, &[]).await.unwrap_err();
    let text = breakwater_core::Chain(&error).to_string();
    assert!(text.contains("must be thawed first"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_chosen_files_need_is_needed() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.directory("a").file("a/large", noise(1, EXTENT * 900)).file("z", noise(2, EXTENT * 8));
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let packs = lab.names(0, "data/").await.len();
    assert!(packs > 3, "{packs}");
    let directory = tempfile::tempdir().unwrap();
    let needed = async |only: &[&str]| {
        let mut job = lab.restore_job(&manifest, directory.path().join("target"));
        job.only = only.iter().map(|&pattern| pattern.to_owned()).collect();
        breakwater_pipeline::restore::needed_packs(&job).await.unwrap()
    };
    let (all, small) = (needed(&[]).await, needed(&["z"]).await);
    assert_eq!(all.len(), packs);
    assert!(small.len() <= 2 && small.is_subset(&all), "{small:?}");
    assert!(!directory.path().join("target").exists());
}
