//! What a restored PostgreSQL cluster is asked before it counts.

use std::path::Path;

use anyhow::{Context, Result};
use breakwater_testkit::ledger::{Ledger, Moment, Verdict};
use breakwater_testkit::postgres::{Cluster, Stop, Version};

/// Opens a restored data directory with its own version and demands: every page's checksum is right, the server starts as a
/// primary, nothing in it contradicts itself (`pg_amcheck`), and the ledger's promises for `moment` are kept.
pub async fn check(version: Version, data: &Path, ledger: &Ledger, moment: Moment) -> Result<Verdict> {
    let (cluster, verdict) = open(version, data, ledger, moment).await?;
    cluster.pg_amcheck().await.context("look for damage in the restored cluster")?;
    cluster.stop(Stop::Fast).await?;
    Ok(verdict)
}

/// The same without `pg_amcheck`, which reads everything; the cluster stays open.
pub async fn open(version: Version, data: &Path, ledger: &Ledger, moment: Moment) -> Result<(Cluster, Verdict)> {
    let cluster = Cluster::open(version, data).stopped().context("open the restored cluster")?;
    cluster.pg_checksums_check().await.context("check the pages of the restored cluster")?;
    cluster.start().await.context("start the restored cluster")?;
    let client = cluster.connect().await?;
    let standby: bool = client.query_one("select pg_is_in_recovery()", &[]).await?.get(0);
    anyhow::ensure!(!standby, "the restored cluster still recovers: restores end with a cluster that takes writes");
    let verdict = ledger.check(&client, moment).await?;
    Ok((cluster, verdict))
}
