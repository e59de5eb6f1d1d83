//! The main job with regions in directories.

use anyhow::Result;
use breakwater_testkit::postgres::Version;
use breakwater_tests::Fleet;
use breakwater_tests::main_job::there_and_back;

#[tokio::test]
async fn postgres_15_comes_back_to_every_kind_of_moment() -> Result<()> {
    there_and_back(Version::V15, Fleet::builder()).await
}

#[tokio::test]
async fn postgres_17_comes_back_to_every_kind_of_moment() -> Result<()> {
    there_and_back(Version::V17, Fleet::builder()).await
}
