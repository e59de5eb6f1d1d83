//! The ledger must pass a sound database and fail each unsound one.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::time::Duration;

use breakwater_testkit::ledger::{Ledger, Moment, contents_hash, now};
use breakwater_testkit::postgres::{Cluster, Stop, Version};
use breakwater_testkit::wait;

const PACE: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_cluster_that_keeps_its_promises_passes_and_others_fail() -> anyhow::Result<()> {
    let cluster = Cluster::builder(Version::V15).start().await?;
    let mut ledger = Ledger::start(&cluster, 3, PACE).await?;
    ledger.wait_for_more(100).await;
    // Crashes leave transactions in doubt, which are allowed either way.
    cluster.kill9().await?;
    cluster.start().await?;
    ledger.wait_for_more(100).await;
    let standby = cluster.standby().await?;
    ledger.stop().await?;

    let end = now();
    let client = cluster.connect().await?;
    let verdict = ledger.check(&client, Moment::at(end)).await?;
    assert!(verdict.required >= 200 && verdict.present >= verdict.required, "{verdict:?}");
    assert_eq!(verdict.forbidden, 0);
    assert!(ledger.last_acknowledged().unwrap() < end);

    let flushed = cluster.psql("select pg_current_wal_flush_lsn()").await?;
    let arrived = format!("select pg_last_wal_replay_lsn() >= '{flushed}'");
    let caught_up = async || standby.psql(&arrived).await.unwrap() == "t";
    wait::until_true("the standby to catch up", Duration::from_secs(60), caught_up).await;
    standby.promote().await?;
    let other = standby.connect().await?;
    assert_eq!(contents_hash(&other).await?, contents_hash(&client).await?, "both replayed the same");

    // A check for an earlier moment must object to what came after it.
    let too_late = ledger.check(&client, Moment::at(end.plus_micros(-60_000_000))).await.unwrap_err();
    assert!(too_late.to_string().contains("begun only at"), "{too_late}");

    for (damage, complaint) in [
        ("delete from ledger where (writer, seq) = (1, 7)", "writer 1 seq 7: missing"),
        ("update ledger_page set hits = hits + 1 where id = 3", "by half"),
        ("update ledger set note = 'x' where (writer, seq) = (0, 5)", "not what was written"),
        (
            "insert into ledger values (9, 9, md5('9:9')); update ledger_page set hits = hits + 1 where id = 0",
            "no writer wrote",
        ),
    ] {
        let before = contents_hash(&client).await?;
        client.batch_execute("begin").await?;
        client.batch_execute(damage).await?;
        let refused = ledger.check(&client, Moment::at_least(end)).await.unwrap_err();
        assert!(refused.to_string().contains(complaint), "{damage}: {refused}");
        assert_ne!(contents_hash(&client).await?, before, "{damage}");
        client.batch_execute("rollback").await?;
    }
    ledger.check(&client, Moment::at_least(end)).await.map(drop)
}

/// PostgreSQL's own recovery to a moment is the reference that shows the ledger's rule to be the right one.
#[tokio::test]
async fn postgres_own_recovery_to_a_moment_passes() -> anyhow::Result<()> {
    let archive = breakwater_testkit::dirs::temp_dir("archive")?;
    let cluster = Cluster::builder(Version::V17)
        .wal_segment_size(1)
        .setting("archive_mode", "on")
        .setting("archive_command", &format!("cp %p {}/%f", archive.path().display()))
        .start()
        .await?;
    cluster.user().own(archive.path())?;
    let base = breakwater_testkit::dirs::temp_dir("base")?;
    cluster.user().own(base.path())?;
    let mut ledger = Ledger::start(&cluster, 3, PACE).await?;
    ledger.wait_for_more(20).await;
    let data = base.path().join("data");
    let mut basebackup = cluster.client_command("pg_basebackup")?;
    basebackup.arg("-D").arg(&data).args(["-X", "none", "-c", "fast", "--no-sync"]);
    assert!(tokio::task::spawn_blocking(move || basebackup.output()).await??.status.success());

    ledger.wait_for_more(200).await;
    let moment = now();
    ledger.wait_for_more(200).await;
    let hold = ledger.pause().await;
    let count = ledger.acknowledged();
    cluster.psql("select pg_switch_wal()").await?;
    cluster.stop(Stop::Fast).await?;
    assert_eq!(ledger.acknowledged(), count, "nobody writes while the ledger is paused");
    drop(hold);
    ledger.stop().await?;

    std::fs::write(data.join("recovery.signal"), "")?;
    cluster.user().own(&data.join("recovery.signal"))?;
    let restored = Cluster::open(Version::V17, &data)
        .setting("archive_mode", "off")
        .setting("restore_command", &format!("cp {}/%f %p", archive.path().display()))
        // PostgreSQL does not know `Z` this early in its start.
        .setting("recovery_target_time", &moment.to_string().replace('Z', "+00"))
        .setting("recovery_target_action", "promote")
        .start()
        .await?;
    wait::until_true("the end of recovery", Duration::from_secs(60), async || {
        restored.psql("select pg_is_in_recovery()").await.unwrap() == "f"
    })
    .await;
    let verdict = ledger.check(&restored.connect().await?, Moment::at(moment)).await?;
    assert!(verdict.required >= 200 && verdict.forbidden >= 190, "both halves of the rule were tried: {verdict:?}");
    Ok(())
}
