//! The contract's own suite, on real clusters.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "kit/lay.rs"]
mod lay;

use breakwater_engine::conformance;
use breakwater_testkit::postgres::{Cluster, Version};

async fn conforms(version: Version) {
    let cluster = Cluster::builder(version).wal_segment_size(1).start().await.unwrap();
    cluster
        .psql("create table t as select g as n, repeat('x', 100) as fill from generate_series(1, 20000) g")
        .await
        .unwrap();
    conformance::run(&lay::engine(&cluster)).await;
    // Sessions that were dropped have ended at the server too.
    let gone = async || {
        cluster.psql("select count(*) from pg_stat_activity where application_name = 'breakwater'").await.unwrap()
            == "0"
    };
    breakwater_testkit::wait::until_true("our sessions to end", std::time::Duration::from_secs(20), gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_15() {
    conforms(Version::V15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_17() {
    conforms(Version::V17).await;
}
