//! Real PostgreSQL clusters, each in a directory and on a port of its own.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use breakwater_testkit::postgres::{Cluster, Version};
//! let cluster = Cluster::builder(Version::V15).setting("wal_level", "logical").start().await?;
//! cluster.psql("create table t as select 1 as n").await?;
//! let client = cluster.connect().await?;
//! # Ok(()) }
//! ```

mod builder;
mod cluster;
mod load;
mod version;

pub use builder::{Builder, Existing};
pub use cluster::{Cluster, Stop};
pub use load::Pgbench;
pub use version::Version;
