//! The conformance suite on two servers, in buckets of each kind.

use breakwater_storage::{Features, Tier, conformance, probe};
use breakwater_testkit::localstack::LocalStack;
use breakwater_testkit::moto::Moto;

use crate::lab::{Kind, Lab};

async fn passes(lab: &Lab, kind: Kind) -> Features {
    let bucket = lab.bucket(kind).await;
    conformance::run(async || lab.store(&bucket).await).await;
    let store = lab.store(&bucket).await;
    probe(&store, "").await.unwrap();
    store.features().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto() {
    let server = Moto::start().await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let plain = passes(&lab, Kind::Plain).await;
    // Moto compares no checksums.
    let expected = Features { locks: false, holds: false, versions: false, tiers: Tier::ALL.to_vec(), checksums: false };
    assert_eq!(plain, expected);
    let locking = passes(&lab, Kind::Locking).await;
    assert_eq!(locking, Features { locks: true, holds: true, versions: true, ..expected });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localstack() {
    let server = LocalStack::start().await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let plain = passes(&lab, Kind::Plain).await;
    let expected = Features { locks: false, holds: false, versions: false, tiers: Tier::ALL.to_vec(), checksums: true };
    assert_eq!(plain, expected);
    let locking = passes(&lab, Kind::Locking).await;
    assert_eq!(locking, Features { locks: true, holds: true, versions: true, ..expected });
}
