//! All that both servers must answer in the same way: one server of each, with everything on it.

use breakwater_storage::{Features, Storage, Tier, conformance, probe};
use breakwater_testkit::localstack::LocalStack;
use breakwater_testkit::moto::Moto;

use crate::lab::{Kind, Lab};
use crate::{large, versions};

async fn everything(endpoint: &str, checksums: bool) {
    let lab = Lab::new(endpoint);
    let plain = conforms(&lab, Kind::Plain).await;
    let expected = Features { locks: false, holds: false, versions: false, tiers: Tier::ALL.to_vec(), checksums };
    assert_eq!(plain, expected);
    let locking = conforms(&lab, Kind::Locking).await;
    assert_eq!(locking, Features { locks: true, holds: true, versions: true, ..expected });
    large::in_parts(&lab).await;
    versions::deletes(&lab).await;
    versions::switched_on_later(&lab).await;
    versions::locks(&lab).await;
}

async fn conforms(lab: &Lab, kind: Kind) -> Features {
    conformance::run(async || fresh(lab, kind).await).await;
    let store = fresh(lab, kind).await;
    probe(&store, "").await.unwrap();
    store.features().await.unwrap()
}

/// A store in a bucket of its own: moto copies all versions of a bucket, large ones too, to list those of one key.
async fn fresh(lab: &Lab, kind: Kind) -> Storage {
    let bucket = lab.bucket(kind).await;
    lab.store(&bucket).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto() {
    let server = Moto::start().await.unwrap();
    // Moto compares no checksums.
    everything(&server.endpoint(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localstack() {
    let server = LocalStack::start().await.unwrap();
    everything(&server.endpoint(), true).await;
}
