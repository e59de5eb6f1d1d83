//! Data moves to colder tiers by age and by need, and what is archived is thawed in one go.

use std::collections::BTreeSet;
use std::time::Duration;

use breakwater_repository::tiers::TierOptions;
use breakwater_repository::{ObjectName, RegionPolicy, TierMove};
use breakwater_storage::{Availability, Thaw, ThawSpeed, Tier};

use crate::calendar::world;
use crate::lab::{SOURCE, restore};
use crate::world::{Taken, World, files};

const THAW: Thaw = Thaw { days: 3, speed: ThawSpeed::Bulk };

async fn tiers(world: &World, region: usize) -> Vec<(String, Tier)> {
    use futures::TryStreamExt;
    let listing = world.lab.spots[region].inside().list("");
    listing.map_ok(|meta| (meta.key, meta.tier)).try_collect().await.unwrap()
}

fn cold(age_days: u64, tier: Tier) -> TierOptions {
    TierOptions { to: Some((tier, Duration::from_secs(age_days * 24 * 3600))), ..TierOptions::default() }
}

#[tokio::test]
async fn only_old_data_moves_once_and_only_to_colder_tiers() {
    let (mut world, calendar) = world(vec![RegionPolicy::default(), RegionPolicy::default()]).await;
    world.backup(&files(0..300), None).await;
    calendar.pass(31);
    world.backup(&files(400..430), None).await;
    let repository = world.lab.repository.clone();
    let options = TierOptions { regions: vec!["r0".to_owned()], ..cold(30, Tier::Cold) };
    let dry = repository.move_tiers(&TierOptions { dry_run: true, ..options.clone() }).await.unwrap();
    let runs = repository.move_tiers(&options).await.unwrap();
    assert_eq!(runs, dry, "what a dry run says is what happens");
    assert!(runs.len() == 1 && runs[0].moved.objects > 0 && runs[0].moved.objects < runs[0].seen.objects, "{runs:?}");
    let there = tiers(&world, 0).await;
    let moved: Vec<_> = there.iter().filter(|(_, tier)| *tier == Tier::Cold).collect();
    assert_eq!(moved.len() as u64, runs[0].moved.objects);
    assert!(moved.iter().all(|(key, _)| key.starts_with("data/")), "{moved:?}");
    assert!(tiers(&world, 1).await.iter().all(|(_, tier)| *tier == Tier::Hot));
    assert_eq!(repository.move_tiers(&options).await.unwrap()[0].moved.objects, 0, "again is nothing");
    assert_eq!(
        repository.move_tiers(&cold(0, Tier::Warm)).await.unwrap()[0].moved.objects,
        runs[0].seen.objects - moved.len() as u64
    );
    world.check().await;
}

#[tokio::test]
async fn policies_move_data_and_needed_packs_stay() {
    let moves = vec![TierMove { after_days: 10, tier: Tier::Cold }, TierMove { after_days: 20, tier: Tier::Archive }];
    let policy = RegionPolicy { moves, ..RegionPolicy::default() };
    let (mut world, calendar) = world(vec![policy, RegionPolicy::default()]).await;
    let first = world.backup(&files(0..30), None).await;
    world.backup(&files(100..130), None).await;
    calendar.pass(15);
    let since = world.lab.repository.now();
    world.backup(&files(0..31), Some(&first)).await;
    let options = TierOptions { unneeded_since: Some(since), ..TierOptions::default() };
    let runs = world.lab.repository.move_tiers(&options).await.unwrap();
    assert_eq!(runs.len(), 1, "a region without moves takes no part");
    assert!(runs[0].needed.objects == 1 && runs[0].moved.objects == 1, "{runs:?}");
    calendar.pass(10);
    let runs = world.lab.repository.move_tiers(&TierOptions::default()).await.unwrap();
    assert_eq!(runs[0].moved.objects, 3, "two to the archive, and the newest to cold: {runs:?}");
}

async fn needed(world: &World, taken: &Taken) -> BTreeSet<ObjectName> {
    let repository = &world.lab.repository;
    let order = repository.read_order();
    let manifest = repository.manifest(&order, SOURCE, taken.snapshot, taken.session).await.unwrap();
    repository.packs_of(&order, &manifest).await.unwrap()
}

#[tokio::test]
async fn what_is_archived_is_thawed_at_once_and_then_read() {
    let (mut world, _) = world(vec![RegionPolicy::default()]).await;
    let first = world.backup(&files(0..30), None).await;
    let taken = world.backup(&files(0..60), Some(&first)).await;
    let repository = world.lab.repository.clone();
    let order = repository.read_order();
    let plan = repository.plan_thaw(&order, needed(&world, &taken).await).await.unwrap();
    assert!(plan.is_empty() && plan.ready.objects == 2, "{plan:?}");
    repository.move_tiers(&cold(0, Tier::Archive)).await.unwrap();
    assert!(restore(&repository, &order, taken.snapshot, taken.session).await.is_err());
    let memory = &world.lab.spots[0].memory;
    memory.thaw_slowly();
    let plan = repository.plan_thaw(&order, needed(&world, &taken).await).await.unwrap();
    assert_eq!((plan.objects(), plan.ready.objects, plan.missing), (2, 0, 0), "{plan:?}");
    assert!(plan.bytes() > 60 * 4096);
    assert_eq!(memory.thawing(), 0, "a plan asks for nothing");
    repository.begin_thaw(&plan, THAW).await.unwrap();
    assert_eq!((memory.thawing(), repository.still_thawing(&plan).await.unwrap().objects), (2, 2));
    let again = repository.plan_thaw(&order, needed(&world, &taken).await).await.unwrap();
    assert_eq!((again.objects(), again.regions[0].thawing), (2, 2), "another restore waits for the same thaw");
    assert_eq!(memory.finish_thaws(), 2);
    assert_eq!(repository.still_thawing(&plan).await.unwrap().objects, 0);
    world.check().await;
}

#[tokio::test]
async fn a_region_that_can_be_read_is_preferred() {
    let (mut world, _) = world(vec![RegionPolicy::default(), RegionPolicy::default()]).await;
    let taken = world.backup(&files(0..30), None).await;
    let repository = world.lab.repository.clone();
    let order = repository.read_order();
    let only = |name: &str| TierOptions { regions: vec![name.to_owned()], ..cold(0, Tier::Archive) };
    repository.move_tiers(&only("r0")).await.unwrap();
    let plan = repository.plan_thaw(&order, needed(&world, &taken).await).await.unwrap();
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(restore(&repository, &order, taken.snapshot, taken.session).await.unwrap(), taken.files);
    repository.move_tiers(&only("r1")).await.unwrap();
    let plan = repository.plan_thaw(&order, needed(&world, &taken).await).await.unwrap();
    assert_eq!((plan.regions.len(), plan.regions[0].region.as_str()), (1, "r0"), "{plan:?}");
    let second = repository.read_only_from("r1").unwrap();
    let plan = repository.plan_thaw(&second, needed(&world, &taken).await).await.unwrap();
    assert_eq!(plan.regions[0].region, "r1");
    repository.begin_thaw(&plan, THAW).await.unwrap();
    let meta = world.lab.spots[1].inside().head(&world.names("pack").await[0]).await.unwrap();
    assert_eq!(meta.availability, Availability::Ready);
}
