//! Who asks: every kind of credentials, what a writer needs, and what is said when something is wrong with them.

use std::process::Command;
use std::time::Duration;

use breakwater_core::Chain;
use breakwater_storage::{Payload, StorageError, StorageErrorKind as Kind, Tier};
use breakwater_testkit::gcs::{BucketSettings, Grant};
use futures::TryStreamExt as _;

use crate::service::{BUCKET, Service};

fn said<T: std::fmt::Debug>(result: Result<T, StorageError>) -> (Kind, String) {
    let error = result.unwrap_err();
    (error.kind, Chain(&error).to_string())
}

fn one() -> Payload {
    vec![1].into()
}

/// The roles that docs/storage/gcs.md gives to a writer of the source `u`.
fn writer() -> Vec<Grant> {
    vec![
        Grant::new(&["storage.objects.create"], "data/u/"),
        Grant::new(&["storage.objects.create", "storage.objects.get", "storage.objects.list"], "meta/u/"),
        Grant::new(&["storage.objects.delete"], "meta/u/tail/"),
        Grant::new(&["storage.objects.get", "storage.objects.list"], "repo/"),
    ]
}

#[tokio::test]
async fn a_writer_adds_and_cannot_take_away() {
    for permission_first in [false, true] {
        let service = Service::start(BucketSettings { permission_first, ..BucketSettings::default() }).await;
        let place = service.place(BUCKET, "", &writer()).await;
        place.create("data/u/1", one()).await.unwrap();
        place.create("meta/u/snap/1", one()).await.unwrap();
        place.create("meta/u/tail/1", one()).await.unwrap();
        place.delete("meta/u/tail/1").await.unwrap();
        place.get("meta/u/snap/1").await.unwrap();
        assert_eq!(place.list("meta/u/").try_collect::<Vec<_>>().await.unwrap().len(), 1);
        // The name is taken, whichever the service looks at first.
        for key in ["data/u/1", "meta/u/snap/1"] {
            assert_eq!(said(place.create(key, one()).await).0, Kind::AlreadyExists);
        }
        let denied = |permission: &str, (kind, text): (Kind, String)| {
            assert_eq!(kind, Kind::Denied, "{text}");
            assert!(text.contains(&format!("hint: grant {permission} on the bucket")), "{text}");
        };
        // Without the right to look up the bucket, versions are listed first.
        denied("storage.objects.list", said(place.delete("data/u/1").await));
        denied("storage.objects.delete", said(place.delete("meta/u/snap/1").await));
        denied("storage.objects.get", said(place.get("data/u/1").await));
        denied("storage.objects.create", said(place.create("data/other/1", one()).await));
        denied("storage.objects.create", said(place.create("repo/x", one()).await));
        denied("storage.objects.list", said(place.list("").try_collect::<Vec<_>>().await));
        denied("storage.objects.get", said(place.hold("data/u/1", false).await));
        denied("storage.objects.update", said(place.hold("meta/u/snap/1", false).await));
        denied("storage.objects.get", said(place.set_tier("data/u/1", Tier::Cold).await));
        denied("storage.buckets.get", said(place.features().await));
    }
}

#[tokio::test]
async fn credentials_that_are_not_good_say_what_to_do() {
    let service = Service::start(BucketSettings::default()).await;
    let place = service.whole().await;
    place.create("a", one()).await.unwrap();
    for (ahead, behind, word) in
        [(7200, false, "7200 s behind"), (7200, true, "7200 s ahead of"), (4000, false, "clock")]
    {
        service.gcs.set_clock_ahead(Duration::from_secs(ahead), behind);
        let (kind, text) = said(place.get("a").await);
        assert_eq!(kind, Kind::Denied);
        let word = word.trim_start_matches("7200 ");
        assert!(text.contains(word) && text.contains("set it right"), "{text}");
    }
    service.gcs.set_clock_ahead(Duration::ZERO, false);
    place.get("a").await.unwrap();
    // A key that was deleted, and its successor in the same file.
    let email = "rotated@test.iam.gserviceaccount.com";
    let old = service.gcs.service_account(email, &[Grant::all()]).unwrap();
    let path = service.file("rotated.json", &old);
    let rotated = service.open(BUCKET, "", &format!("credentials={}", path.display())).await;
    rotated.get("a").await.unwrap();
    let new = service.gcs.service_account(email, &[Grant::all()]).unwrap();
    let (kind, text) = said(rotated.get("a").await);
    assert_eq!(kind, Kind::Denied);
    assert!(text.contains("hint: the credentials are not valid"), "{text}");
    service.file("rotated.json", &new);
    rotated.get("a").await.unwrap();
    // No credentials at all.
    let anonymous = service.open(BUCKET, "", "anonymous").await;
    let (kind, text) = said(anonymous.get("a").await);
    assert_eq!(kind, Kind::Denied);
    assert!(text.contains("401"), "{text}");
    service.gcs.set_open(true);
    anonymous.get("a").await.unwrap();
}

#[tokio::test]
async fn a_foreign_identity_is_traded_for_a_token() {
    let service = Service::start(BucketSettings::default()).await;
    let subject = service.file("subject", "an identity from elsewhere");
    let text = service.gcs.federation("an identity from elsewhere", subject.to_str().unwrap(), &[Grant::all()]);
    let options = format!("credentials={}", service.file("federation.json", &text).display());
    let place = service.open(BUCKET, "", &options).await;
    place.create("a", one()).await.unwrap();
    assert_eq!(service.gcs.requests(), ["token", "insert"]);
    place.get("a").await.unwrap();
    assert_eq!(service.gcs.requests(), ["media"], "a token is used as long as it lasts");
    std::fs::write(&subject, "somebody else").unwrap();
    let other = service.open(BUCKET, "", &options).await;
    let (kind, text) = said(other.get("a").await);
    assert_eq!(kind, Kind::Denied);
    assert!(text.contains("invalid_grant") && text.contains("hint:"), "{text}");
    // What is made right is taken up without opening the place again.
    std::fs::write(&subject, "an identity from elsewhere").unwrap();
    other.get("a").await.unwrap();
}

#[tokio::test]
async fn who_pays_is_named() {
    let service = Service::start(BucketSettings { requester_pays: true, ..BucketSettings::default() }).await;
    let (kind, text) = said(service.whole().await.create("a", one()).await);
    assert_eq!(kind, Kind::Denied);
    assert!(text.contains("quota-project=PROJECT"), "{text}");
    let key = service.gcs.service_account("payer@test.iam.gserviceaccount.com", &[Grant::all()]).unwrap();
    let options = format!("quota-project=payer&credentials={}", service.file("payer.json", &key).display());
    service.open(BUCKET, "", &options).await.create("a", one()).await.unwrap();
}

#[tokio::test]
async fn a_proxy_is_used_and_a_dead_end_is_said() {
    let service = Service::start(BucketSettings::default()).await;
    service.gcs.set_open(true);
    // Nothing listens there, so that the way really leads through it.
    let dead = format!("anonymous&proxy=http://127.0.0.1:{}", breakwater_testkit::port::free_port());
    let (kind, text) = said(service.open(BUCKET, "", &dead).await.create("a", one()).await);
    assert_eq!(kind, Kind::Unreachable);
    assert!(text.contains("hint:") && text.contains("proxy"), "{text}");
    assert!(service.gcs.requests().is_empty());
}

/// The environment of a program cannot be changed while it runs, so the test runs itself again with one.
const INSIDE: &str = "BREAKWATER_GCS_CHILD";

#[tokio::test]
async fn the_environment_says_who_asks() {
    if let Ok(url) = std::env::var(INSIDE) {
        let place = breakwater_storage::Places::local().with(std::sync::Arc::new(breakwater_storage_gcs::GcsProvider));
        let place = place.open_existing(&url).await.unwrap();
        return place.create("a", one()).await.unwrap();
    }
    let service = Service::start(BucketSettings::default()).await;
    service.gcs.set_host_identity(&[Grant::all()]);
    let key = service.gcs.service_account("env@test.iam.gserviceaccount.com", &[Grant::all()]).unwrap();
    let key = service.file("env.json", &key);
    let home = service.directory.path().to_owned();
    let run = async |prefix: &str, more: [(&str, &str); 1]| {
        let url = format!("gs://{BUCKET}/{prefix}?endpoint={}", service.gcs.endpoint());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "accounts::the_environment_says_who_asks"]).env_clear().env(INSIDE, url);
        command.env("HOME", &home).envs(more);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        service.gcs.requests()
    };
    let named = [("GOOGLE_APPLICATION_CREDENTIALS", key.to_str().unwrap())];
    assert_eq!(run("named", named).await, ["insert"], "a service account signs its tokens itself");
    let host = [("GCE_METADATA_HOST", service.gcs.metadata_host())];
    assert_eq!(run("host", host).await, ["token", "insert"]);
    let well_known = home.join(".config/gcloud");
    std::fs::create_dir_all(&well_known).unwrap();
    std::fs::copy(&key, well_known.join("application_default_credentials.json")).unwrap();
    assert_eq!(run("well-known", host).await, ["insert"]);
}
