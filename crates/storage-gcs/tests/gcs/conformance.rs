//! The promises of a place on the strict service: in a plain bucket, in one that keeps versions, in one with locks, and where
//! pages and moves come in small parts.

use std::sync::atomic::{AtomicUsize, Ordering};

use breakwater_storage::conformance;
use breakwater_testkit::gcs::{BucketSettings, Grant};

use crate::service::{BUCKET, Service};

async fn conforms(settings: BucketSettings, below: &str) {
    let service = Service::start(BucketSettings::default()).await;
    let email = "all@test.iam.gserviceaccount.com";
    let key = service.file("key.json", &service.gcs.service_account(email, &[Grant::all()]).unwrap());
    let (count, options) = (AtomicUsize::new(0), format!("credentials={}", key.display()));
    conformance::run(async || {
        let bucket = format!("{BUCKET}-{}", count.fetch_add(1, Ordering::Relaxed));
        service.gcs.set_bucket(&bucket, settings.clone());
        service.open(&bucket, below, &options).await
    })
    .await;
}

#[tokio::test]
async fn a_plain_bucket_conforms() {
    conforms(BucketSettings::default(), "").await;
}

#[tokio::test]
async fn a_bucket_that_keeps_versions_conforms() {
    conforms(BucketSettings { versioning: true, ..BucketSettings::default() }, "teams/one").await;
}

#[tokio::test]
async fn a_bucket_with_locks_conforms() {
    conforms(BucketSettings { object_retention: true, ..BucketSettings::default() }, "").await;
}

#[tokio::test]
async fn small_pages_and_steps_change_nothing() {
    let settings = BucketSettings {
        versioning: true,
        object_retention: true,
        page: 60,
        rewrite_step: 100,
        ..BucketSettings::default()
    };
    conforms(settings, "p").await;
}
