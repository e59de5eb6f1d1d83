//! What a dead session leaves is not uploaded again.

use std::collections::BTreeMap;

use breakwater_repository::check::CheckOptions;
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::{Class, CommitOutcome, Verdict};

use crate::lab::{Lab, SOURCE, intent, restore, some_files, write};

#[tokio::test]
async fn packs_of_a_dead_session_are_adopted() {
    let lab = Lab::new(2).await;
    let writer = lab.writer(1);
    let dead = write(&lab.repository, &writer, intent(1, 1), &some_files(), &BTreeMap::new()).await;
    let missed = lab.spots[1].names().await.into_iter().find(|name| name.starts_with("data/")).unwrap();
    lab.spots[1].inside().delete(&missed).await.unwrap();

    let found = lab.repository.adoptable(SOURCE).await.unwrap();
    assert_eq!(found.sessions.len(), 1);
    assert_eq!(found.sessions[0].open.session, dead.session.id());
    assert_eq!(found.sessions[0].regions, ["r0", "r1"]);
    let mut footers = lab.repository.session_footers(SOURCE, dead.session.id()).await.unwrap();
    assert_eq!(footers.remaining(), 2);
    let mut have = BTreeMap::new();
    let mut missing = Vec::new();
    while let Some(pack) = footers.next().await {
        let pack = pack.unwrap();
        missing.extend(pack.missing.iter().map(|region| (region.clone(), pack.name.to_string())));
        let extents = pack.footer.frames.iter().filter(|frame| frame.class == Class::Extent);
        assert!(pack.kind == KeyKind::Content || extents.clone().count() == 0);
        have.extend(extents.map(|frame| (frame.id.0, frame.location(pack.id))));
    }
    assert_eq!(missing, [("r1".to_owned(), missed.clone())]);
    // The region's debt is repaid by copying ciphertext.
    let bytes = lab.spots[0].inside().get(&missed).await.unwrap();
    lab.spots[1].inside().create(&missed, bytes.into()).await.unwrap();

    let mut again = intent(1, 2);
    again.adopts = vec![dead.session.id()];
    let before = lab.spots[0].names().await.len();
    let written = write(&lab.repository, &writer, again, &some_files(), &have).await;
    let outcome = written.session.commit(&writer, &written.manifest).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
    // Keys, open record, structure, register: no pack of content.
    assert_eq!(lab.spots[0].names().await.len(), before + 4);
    let of = (written.manifest.snapshot, written.session.id());
    assert_eq!(restore(&lab.repository, &lab.order(), of.0, of.1).await.unwrap(), some_files());
    let report = lab.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
    let left = lab.repository.adoptable(SOURCE).await.unwrap();
    assert_eq!(left.sessions.len(), 1, "the dead session is still there until it is fenced");
}
