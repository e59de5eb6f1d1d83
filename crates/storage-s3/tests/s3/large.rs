//! Objects above what goes in one request.

use std::time::Duration;

use breakwater_storage::conformance::pattern;
use breakwater_storage::{LockMode, Payload, Placement, Retention, StorageErrorKind, Tier};
use bytes::Bytes;
use futures::{FutureExt as _, future::poll_fn};

use crate::lab::{Kind, Lab};

const PART: usize = 5 << 20;

/// Twelve MiB in pieces that do not end where parts do.
fn payload() -> Payload {
    Payload::from((0..7).map(|n| Bytes::from(pattern(n, (2 << 20) - 4321))).collect::<Vec<_>>())
}

async fn uploads(lab: &Lab, bucket: &str) -> usize {
    lab.admin.list_multipart_uploads().bucket(bucket).send().await.unwrap().uploads().len()
}

pub(crate) async fn in_parts(lab: &Lab) {
    let bucket = lab.bucket(Kind::Locking).await;
    let store = lab.open(&format!("{bucket}/large"), &format!("&part-bytes={PART}")).await;
    let until = breakwater_core::Timestamp::parse("2099-01-01T00:00:00Z").unwrap();
    let retention = Some(Retention { mode: LockMode::Governance, until });
    let placement = Placement { tier: Tier::Warm, retention };
    store.backend().create("data/large", payload(), &placement).await.unwrap();
    assert!(store.get("data/large").await.unwrap() == payload().to_bytes(), "it comes back as it was");
    assert_eq!(store.head("data/large").await.unwrap().tier, Tier::Warm);
    assert_eq!(store.protection("data/large").await.unwrap().retention, retention);
    let etag = lab.admin.head_object().bucket(&bucket).key("large/data/large").send().await.unwrap().e_tag.unwrap();
    assert!(etag.trim_matches('"').ends_with("-3"), "three parts: {etag}");

    // A name that is taken is refused at the end, and what was sent is given up.
    let error = store.create("data/large", payload()).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
    none_left(lab, &bucket).await;
    // Also when nobody waits for the answer.
    let mut attempt = Box::pin(store.create("data/other", payload()));
    let began = async {
        while uploads(lab, &bucket).await == 0 {
            poll_fn(|context| std::task::Poll::Ready(attempt.poll_unpin(context)))
                .await
                .is_pending()
                .then_some(())
                .unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), began).await.unwrap();
    drop(attempt);
    none_left(lab, &bucket).await;
    assert!(!store.exists("data/other").await.unwrap());
}

async fn none_left(lab: &Lab, bucket: &str) {
    let all_gone = async {
        while uploads(lab, bucket).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_gone).await.expect("every upload is given up");
}
