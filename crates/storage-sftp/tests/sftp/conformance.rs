//! The conformance suite, with each of the two operations that publish.

use std::time::Duration;

use breakwater_storage::conformance;
use breakwater_testkit::wait::until_true;

use crate::place::Place;

async fn conforms(place: Place) {
    conformance::run(async || place.storage()).await;
    // Abandoned work may still be on its way out.
    until_true("nothing unfinished is left", Duration::from_secs(20), async || place.is_clean()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_hard_links() {
    conforms(Place::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_renames_where_there_are_no_hard_links() {
    conforms(Place::serving("internal-sftp -P hardlink").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_requests_of_the_smallest_size() {
    conforms(Place::serving("internal-sftp -P limits").await).await;
}
