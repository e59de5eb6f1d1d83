//! Data that takes a while to back up: random, so that neither compression nor dedup makes it smaller.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context, Result};
use breakwater_testkit::postgres::Cluster;

const MIB: u64 = 1 << 20;

/// Fills a new table `bulk` with random rows of 1 MiB.
pub async fn fill(cluster: &Cluster, mib: u64) -> Result<()> {
    let path = cluster.socket_dir().join("random");
    let mut random = File::open("/dev/urandom").context("open the source of randomness")?.take(mib * MIB);
    let mut file = File::create(&path).context("make a file of random bytes")?;
    std::io::copy(&mut random, &mut file).context("write random bytes")?;
    file.flush().context("write random bytes")?;
    cluster.user().own(&path)?;
    let path = path.display();
    // EXTERNAL: the server need not try to compress what cannot be.
    let sql = format!(
        "create table bulk (id int primary key, data bytea);
         alter table bulk alter column data set storage external;
         insert into bulk select n, pg_read_binary_file('{path}', n::bigint * {MIB}, {MIB}) from generate_series(0, {last}) n;
         checkpoint;",
        last = mib - 1
    );
    cluster.psql(&sql).await.context("fill a table with random rows")?;
    std::fs::remove_file(cluster.socket_dir().join("random")).context("remove the file of random bytes")
}

/// A hash over the table that [`fill`] made.
pub async fn bulk_hash(cluster: &Cluster) -> Result<String> {
    cluster.psql("select md5(string_agg(md5(data), ',' order by id)) from bulk").await
}
