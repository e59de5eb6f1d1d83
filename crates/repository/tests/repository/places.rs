//! The same on directories, and through the writer that the programs use.

use std::collections::BTreeMap;
use std::time::Duration;

use breakwater_repository::check::CheckOptions;
use breakwater_repository::regions::{RegionSet, Role};
use breakwater_repository::{
    Access, Cause, CommitOutcome, CreateOptions, FenceOutcome, Place, RegionWriter, Repository, RepositoryError,
    Verdict,
};
use breakwater_storage::Storage;

use crate::lab::{Lab, SOURCE, clock, entropy, intent, restore, some_files, write};

#[tokio::test]
async fn directories_hold_a_repository_and_a_link_to_one_is_the_same_place() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| Place::new(name, Role::Sync, Storage::file_system(&dir.path().join(name)).unwrap());
    let options = CreateOptions { extent_size: 4096, pack_size: 1 << 20, ..CreateOptions::default() };
    let created =
        Repository::create(vec![place("one"), place("two")], options.clone(), clock(), entropy()).await.unwrap();
    let set = RegionSet::new(created.repository.handles(), 2).unwrap();
    let writer = RegionWriter::new(set, Duration::from_secs(30));
    let written = write(&created.repository, &writer, intent(1, 1), &some_files(), &BTreeMap::new()).await;
    let outcome = written.session.commit(&writer, &written.manifest).await.unwrap();
    assert!(matches!(&outcome, CommitOutcome::Committed { held, .. } if held.len() == 2), "{outcome:?}");
    let report = created.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");

    let key_file = dir.path().join("recovery.key");
    created.recovery_key.write_new(&key_file).unwrap();
    let key = breakwater_crypto::RecipientKey::read(&key_file).unwrap();
    let opened = Repository::open(vec![place("two")], Access::Recipient(key), clock(), entropy()).await.unwrap();
    let order = opened.read_order();
    let files = restore(&opened, &order, written.manifest.snapshot, written.session.id()).await.unwrap();
    assert_eq!(files, some_files());

    std::fs::create_dir(dir.path().join("three")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("three"), dir.path().join("four")).unwrap();
    let twice = vec![place("three"), place("four")];
    let error = Repository::create(twice, options, clock(), entropy()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::SamePlace { .. }), "{error}");
}

#[tokio::test]
async fn an_unmounted_volume_is_silent_and_neither_empty_nor_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| Place::new(name, Role::Sync, Storage::file_system(&dir.path().join(name)).unwrap());
    let options = CreateOptions { extent_size: 4096, pack_size: 1 << 20, ..CreateOptions::default() };
    let created = Repository::create(vec![place("one"), place("two")], options, clock(), entropy()).await.unwrap();
    let repository = &created.repository;
    let writer = RegionWriter::new(RegionSet::new(repository.handles(), 1).unwrap(), Duration::from_secs(30));
    let written = write(repository, &writer, intent(1, 1), &some_files(), &BTreeMap::new()).await;
    assert!(writer.set().drained(Duration::from_secs(30)).await);
    // The volume goes away under the open repository; an empty directory is left.
    std::fs::rename(dir.path().join("two"), dir.path().join("elsewhere")).unwrap();
    std::fs::create_dir(dir.path().join("two")).unwrap();
    let order = repository.read_order();
    let silent = |causes: &[Cause]| causes.iter().map(|cause| cause.region.clone()).collect::<Vec<_>>();
    let names = repository.names(&order, "meta/none/").await.unwrap();
    assert_eq!(silent(&names.silent), ["two"]);
    assert_eq!(silent(&repository.snapshots(&order, None).await.unwrap().silent), ["two"]);
    let outcome = repository.fence(&writer, SOURCE, (written.manifest.snapshot, written.session.id()), "gone").await;
    assert!(matches!(outcome.unwrap(), FenceOutcome::Open(causes) if silent(&causes) == ["two"]));
    assert_eq!(std::fs::read_dir(dir.path().join("two")).unwrap().count(), 0, "nothing is written there");
}

#[tokio::test]
async fn a_commit_goes_on_while_a_region_is_away_and_reaches_it_later() {
    let lab = Lab::new(2).await;
    let set = RegionSet::new(lab.repository.handles(), 1).unwrap();
    let writer = RegionWriter::new(set.clone(), Duration::from_secs(30));
    lab.spots[1].fault.set_reachable(false);
    let written = write(&lab.repository, &writer, intent(1, 1), &some_files(), &BTreeMap::new()).await;
    let outcome = written.session.commit(&writer, &written.manifest).await.unwrap();
    let CommitOutcome::Committed { held, owed } = outcome else { panic!("{outcome:?}") };
    assert_eq!((held, owed), (vec!["r0".to_owned()], vec!["r1".to_owned()]));
    assert!(!lab.spots[1].names().await.iter().any(|name| name.contains("/snap/")));
    lab.spots[1].fault.set_reachable(true);
    assert!(set.drained(Duration::from_secs(60)).await, "{:?}", lab.spots[1].names().await);
    let order = lab.repository.read_only_from("r1").unwrap();
    let files = restore(&lab.repository, &order, written.manifest.snapshot, written.session.id()).await.unwrap();
    assert_eq!(files, some_files());
    let report = lab.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
    assert!(report.regions.iter().all(|region| region.missing.is_empty()));
}
