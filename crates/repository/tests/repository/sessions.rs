//! Committing and fencing on real places.

use std::collections::BTreeMap;

use breakwater_core::ErrorClass;
use breakwater_repository::check::CheckOptions;
use breakwater_repository::format::open::SourceRecord;
use breakwater_repository::{
    Access, BackupSession, CommitOutcome, FenceOutcome, ObjectName, RepositoryError, SnapshotStatus, Verdict,
};

use crate::lab::{Lab, SOURCE, backup, intent, restore, snapshot_session, some_files, write};

fn none() -> BTreeMap<[u8; 32], breakwater_repository::FrameLocation> {
    BTreeMap::new()
}

#[tokio::test]
async fn what_is_committed_reads_back_from_each_region_alone() {
    let lab = Lab::new(2).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    for region in ["r0", "r1"] {
        let order = lab.repository.read_only_from(region).unwrap();
        let files = restore(&lab.repository, &order, manifest.snapshot, manifest.session).await.unwrap();
        assert_eq!(files, some_files());
    }
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = lab.repository.check(&options).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
    assert!(report.regions.iter().all(|region| region.snapshots == 1 && region.frames_read == region.frames));
    assert!(report.regions.iter().all(|region| region.missing.is_empty() && region.unknown.is_empty()));
}

#[tokio::test]
async fn a_writer_adds_and_sees_structure_but_no_content() {
    let lab = Lab::new(1).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    let writer = lab.reopen(Access::Writer(lab.created.writer_key.clone())).await.unwrap();
    let list = writer.snapshots(&writer.read_order(), None).await.unwrap();
    assert_eq!(list.snapshots.len(), 1);
    let error = restore(&writer, &writer.read_order(), manifest.snapshot, manifest.session).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NeedsRecipient { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Denied);
    let mut tree = breakwater_repository::TreeReader::new(&writer, writer.read_order(), &manifest);
    assert_eq!(tree.next().await.unwrap().unwrap().len(), some_files().len());
    assert!(tree.next().await.unwrap().is_none());
    let report = writer.check(&CheckOptions::default()).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
    let refused = writer.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await;
    assert!(matches!(refused, Err(RepositoryError::NeedsRecipient { .. })));
}

#[tokio::test]
async fn a_commit_can_be_repeated_and_a_second_session_is_told() {
    let lab = Lab::new(2).await;
    let writer = lab.writer(2);
    let written = write(&lab.repository, &writer, intent(1, 1), &some_files(), &none()).await;
    for _ in 0..2 {
        let outcome = written.session.commit(&writer, &written.manifest).await.unwrap();
        assert!(matches!(&outcome, CommitOutcome::Committed { held, owed } if held.len() == 2 && owed.is_empty()));
    }
    let mut other = written.manifest.clone();
    other.warnings.push("changed".to_owned());
    assert!(written.session.commit(&writer, &other).await.is_err(), "a committed manifest was replaced");
    let second = write(&lab.repository, &writer, intent(1, 2), &some_files(), &none()).await;
    let outcome = second.session.commit(&writer, &second.manifest).await.unwrap();
    assert_eq!(outcome, CommitOutcome::AlreadyCommitted { session: written.session.id() });
}

#[tokio::test]
async fn too_few_regions_are_not_a_commit() {
    let lab = Lab::new(2).await;
    let writer = lab.writer(2);
    let written = write(&lab.repository, &writer, intent(1, 1), &some_files(), &none()).await;
    lab.spots[1].fault.set_reachable(false);
    let error = written.session.commit(&writer, &written.manifest).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Undecided { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    lab.spots[1].fault.set_reachable(true);
    let writer = lab.writer(2);
    let outcome = written.session.commit(&writer, &written.manifest).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }));
    let name = ObjectName::Register(SOURCE, written.manifest.snapshot, written.session.id()).to_string();
    let [one, other] = [0, 1].map(|at| lab.spots[at].inside());
    assert_eq!(one.get(&name).await.unwrap(), other.get(&name).await.unwrap(), "the same bytes in every region");
}

#[tokio::test]
async fn a_fenced_session_never_commits() {
    let lab = Lab::new(2).await;
    let writer = lab.writer(1);
    let written = write(&lab.repository, &writer, intent(1, 1), &some_files(), &none()).await;
    let of = (written.manifest.snapshot, written.session.id());
    let outcome = lab.repository.fence(&writer, SOURCE, of, "the agent was gone for an hour").await.unwrap();
    assert!(matches!(outcome, FenceOutcome::Established));
    let outcome = written.session.commit(&writer, &written.manifest).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Fenced { reason: "the agent was gone for an hour".to_owned() });
    assert!(lab.repository.snapshots(&lab.order(), None).await.unwrap().snapshots.is_empty());
    // The next attempt at the same snapshot is not in the way.
    let next = write(&lab.repository, &writer, intent(1, 2), &some_files(), &none()).await;
    let outcome = next.session.commit(&writer, &next.manifest).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }));
    // Fencing again changes nothing, and neither does fencing what is committed.
    let outcome = lab.repository.fence(&writer, SOURCE, of, "again").await.unwrap();
    assert!(matches!(outcome, FenceOutcome::Established));
    let of = (next.manifest.snapshot, next.session.id());
    let outcome = lab.repository.fence(&writer, SOURCE, of, "too late").await.unwrap();
    assert!(matches!(outcome, FenceOutcome::Committed(manifest) if manifest.session == next.session.id()));
    let report = lab.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
}

#[tokio::test]
async fn a_fence_in_one_region_yields_to_a_manifest_in_another() {
    let lab = Lab::new(2).await;
    let writer = lab.writer(1);
    let written = write(&lab.repository, &writer, intent(1, 1), &some_files(), &none()).await;
    let of = (written.manifest.snapshot, written.session.id());
    lab.spots[1].fault.set_reachable(false);
    let outcome = lab.repository.fence(&writer, SOURCE, of, "gone").await.unwrap();
    let FenceOutcome::Open(silent) = outcome else { panic!("{outcome:?}") };
    assert_eq!(silent.len(), 1);
    // The session lives on the other side of a partition, where only r1 answers.
    lab.spots[1].fault.set_reachable(true);
    lab.spots[0].fault.set_reachable(false);
    let outcome = written.session.commit(&lab.writer(1), &written.manifest).await.unwrap();
    assert!(matches!(&outcome, CommitOutcome::Committed { held, .. } if held == &["r1"]), "{outcome:?}");
    lab.spots[0].fault.set_reachable(true);
    let settled = lab.repository.settle_registers(&lab.writer(1), SOURCE).await.unwrap();
    assert_eq!((settled.settled.len(), settled.open.len(), settled.silent.len()), (1, 0, 0));
    let settled = lab.repository.settle_registers(&lab.writer(1), SOURCE).await.unwrap();
    assert_eq!(settled.settled.len(), 0, "settled once is enough");
    let outcome = lab.repository.fence(&lab.writer(1), SOURCE, of, "again").await.unwrap();
    assert!(matches!(outcome, FenceOutcome::Committed(_)), "{outcome:?}");
    // Now r0 says so too, under the second name, and serves the snapshot alone.
    let order = lab.repository.read_only_from("r0").unwrap();
    let files = restore(&lab.repository, &order, of.0, of.1).await.unwrap();
    assert_eq!(files, some_files());
    let list = lab.repository.snapshots(&lab.order(), None).await.unwrap();
    assert_eq!(list.snapshots.len(), 1);
    let mut regions = list.snapshots[0].regions.clone();
    regions.sort();
    assert_eq!(regions, ["r0", "r1"]);
}

#[tokio::test]
async fn a_fence_everywhere_but_in_a_silent_region_leaves_the_session_undecided() {
    let lab = Lab::new(2).await;
    let writer = lab.writer(1);
    let written = write(&lab.repository, &writer, intent(1, 1), &some_files(), &none()).await;
    let of = (written.manifest.snapshot, written.session.id());
    lab.spots[1].fault.set_reachable(false);
    lab.repository.fence(&writer, SOURCE, of, "gone").await.unwrap();
    let error = written.session.commit(&writer, &written.manifest).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Undecided { .. }), "{error}");
}

#[tokio::test]
async fn of_two_committed_sessions_the_first_attempt_is_the_snapshot() {
    let lab = Lab::new(2).await;
    let writer = lab.writer(1);
    let first = write(&lab.repository, &writer, intent(1, 1), &some_files(), &none()).await;
    let second = write(&lab.repository, &writer, intent(1, 2), &some_files(), &none()).await;
    // Each sees only one region.
    for (written, hidden) in [(&second, 0), (&first, 1)] {
        lab.spots[hidden].fault.set_reachable(false);
        let outcome = written.session.commit(&lab.writer(1), &written.manifest).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        lab.spots[hidden].fault.set_reachable(true);
    }
    let list = lab.repository.snapshots(&lab.order(), Some(SOURCE)).await.unwrap();
    let status = |session| list.snapshots.iter().find(|one| one.session == session).unwrap().status;
    assert_eq!(status(first.session.id()), SnapshotStatus::Committed);
    assert_eq!(status(second.session.id()), SnapshotStatus::Superseded { by: first.session.id() });
    for written in [&first, &second] {
        let of = snapshot_session(&written.manifest);
        assert_eq!(restore(&lab.repository, &lab.order(), of.snapshot, of.session).await.unwrap(), some_files());
    }
}

#[tokio::test]
async fn a_new_database_under_an_old_name_is_refused() {
    let lab = Lab::new(1).await;
    backup(&lab, 1, &some_files()).await;
    let mut record: SourceRecord = lab.repository.source_record(&lab.order(), SOURCE).await.unwrap();
    record.identity = "43".to_owned();
    let error = lab.repository.ensure_source(&lab.writer(1), &record).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`42`") && text.contains("`43`") && text.contains("hint:"), "{text}");
    assert_eq!(error.class(), ErrorClass::Refused);
}

#[tokio::test]
async fn sessions_can_be_used_from_other_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let lab = Lab::new(1).await;
    let writer = lab.writer(1);
    let begin = BackupSession::begin(&lab.repository, &writer, SOURCE, intent(1, 1));
    let session = is_send(begin).await.unwrap();
    drop(is_send(lab.repository.check(&CheckOptions::default())));
    drop(is_send(lab.repository.repair(&breakwater_repository::RepairOptions::default())));
    let order = lab.order();
    drop(is_send(lab.repository.snapshots(&order, None)));
    drop(is_send(restore(&lab.repository, &order, intent(1, 1).snapshot, session.id())));
}
