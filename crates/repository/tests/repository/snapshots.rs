//! Finding snapshots.

use breakwater_core::{ErrorClass, Timestamp};
use breakwater_repository::{RepositoryError, Selector};

use crate::lab::{Lab, SOURCE, backup, some_files};

#[tokio::test]
async fn snapshots_are_found_by_id_and_time() {
    let lab = Lab::new(2).await;
    let (old, new) = (backup(&lab, 0x1a, &some_files()).await, backup(&lab, 0x1b, &some_files()).await);
    let find = async |selector| {
        lab.repository.find_snapshot(&lab.order(), Some(SOURCE), &selector).await.map(|found| found.id)
    };
    assert_eq!(find(Selector::Latest).await.unwrap(), new.snapshot);
    assert_eq!(find(Selector::Id("1a".to_owned())).await.unwrap(), old.snapshot);
    assert_eq!(find(Selector::Id("1B1B".to_owned())).await.unwrap(), new.snapshot);
    assert_eq!(find(Selector::AtOrBefore(old.consistent_at)).await.unwrap(), old.snapshot);
    assert_eq!(find(Selector::AtOrBefore(new.consistent_at.plus_micros(-1))).await.unwrap(), old.snapshot);
    let error = find(Selector::Id("1".to_owned())).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Invalid(_)), "{error}");
    let error = find(Selector::Id("ff".to_owned())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    let error = find(Selector::AtOrBefore(Timestamp(0))).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn not_found_is_not_said_while_a_region_is_silent_or_a_register_damaged() {
    let lab = Lab::new(2).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    lab.spots[1].fault.set_reachable(false);
    let wanted = Selector::Id("ff".to_owned());
    let error = lab.repository.find_snapshot(&lab.order(), None, &wanted).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
    let list = lab.repository.snapshots(&lab.order(), None).await.unwrap();
    assert_eq!((list.snapshots.len(), list.silent.len()), (1, 1));
    assert_eq!(list.snapshots[0].regions, ["r0"]);
    lab.spots[1].fault.set_reachable(true);

    let register = format!("meta/{SOURCE}/snap/{}.{}", manifest.snapshot, manifest.session);
    let mut bytes = lab.spots[0].inside().get(&register).await.unwrap().to_vec();
    bytes[100] ^= 1;
    for spot in &lab.spots {
        spot.replace(&register, bytes.clone().into()).await;
    }
    let list = lab.repository.snapshots(&lab.order(), None).await.unwrap();
    assert_eq!((list.snapshots.len(), list.damaged.len()), (0, 1));
    let error = lab.repository.find_snapshot(&lab.order(), None, &Selector::Latest).await.unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
}
