//! The main job: a PostgreSQL cluster under load goes into the regions of a fleet and comes back to every kind of moment: each transaction that was
//! acknowledged before the moment is there, none that was begun after it, and nothing is damaged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_core::Timestamp;
use breakwater_testkit::ledger::{Ledger, Moment, now};
use breakwater_testkit::postgres::{Cluster, Stop, Version};

use crate::brctl::text;
use crate::fleet::Builder;
use crate::{Fleet, restored};

const PACE: Duration = Duration::from_millis(5);

/// A moment to go back to: the words that name it, and what the database must hold then.
struct Way {
    name: &'static str,
    words: Vec<String>,
    moment: Moment,
}

fn way(name: &'static str, words: &[&str], moment: Moment) -> Way {
    Way { name, words: words.iter().map(|word| (*word).to_owned()).collect(), moment }
}

fn to_time(name: &'static str, time: Timestamp) -> Way {
    way(name, &["--to-time", &time.to_string()], Moment::at(time))
}

/// Positions, transactions and names of the log that lie between two times, under load.
async fn marks(cluster: &Cluster, ledger: &Ledger) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    let questions = [
        ("position", "--to-lsn", "select pg_current_wal_insert_lsn()"),
        ("transaction", "--to-xid", "insert into marker default values returning pg_current_xact_id()"),
        ("name", "--to-name", "select 'before-release' from pg_create_restore_point('before-release')"),
    ];
    for (name, flag, sql) in questions {
        let earlier = now();
        let value = cluster.psql(sql).await?;
        ways.push(way(name, &[flag, &value], Moment::between(earlier, now())));
        ledger.wait_for_more(60).await;
    }
    Ok(ways)
}

/// Backs a cluster up into the regions that `fleet` is to have, under load, and restores it to every kind of moment.
pub async fn there_and_back(version: Version, fleet: Builder) -> Result<()> {
    let cluster = Cluster::builder(version).start().await?;
    cluster.pgbench_init(2).await?;
    cluster.psql("create table marker (id int generated always as identity, at timestamptz default now())").await?;
    let mut fleet = fleet.start().await?;
    let before_base = now();
    fleet.protect("app", &cluster).await?;
    let mut ledger = Ledger::start(&cluster, 3, PACE).await?;
    let mut bench = cluster.pgbench(&["-c", "2", "-T", "600", "-R", "150"])?;
    ledger.wait_for_more(100).await;

    let begun = now();
    let job = fleet.backup("app-plan").await?;
    let snapshot = text(&job, "snapshot_id")?.to_owned();
    let mut ways = vec![way("snapshot", &["--snapshot", &snapshot], Moment::between(begun, now()))];

    ledger.wait_for_more(100).await;
    let first = now();
    ways.push(to_time("first", first));
    ledger.wait_for_more(100).await;
    ways.extend(marks(&cluster, &ledger).await?);
    // So that there is something to forbid also after the last mark.
    ledger.wait_for_more(100).await;
    ensure!(bench.is_running()?, "pgbench loads the cluster all the time");
    bench.stop()?;
    ledger.stop().await?;

    // From here on nobody commits: these moments have no later commit that could prove them.
    let idle = now();
    for region in fleet.regions() {
        fleet.recoverable_until("app", region.name(), idle).await;
    }
    ways.push(to_time("idle", idle));
    ways.push(way("latest", &["--latest"], Moment::at_least(idle)));

    for way in &ways {
        let target = fleet.target(way.name);
        let words: Vec<&str> = way.words.iter().map(String::as_str).collect();
        fleet.restore("app", &words, &target).await.with_context(|| format!("restore to {words:?}"))?;
        let verdict = restored::check(version, &target, &ledger, way.moment).await.with_context(|| way.name)?;
        ensure!(verdict.required >= 100, "{}: the check has something to demand: {verdict:?}", way.name);
        let at_the_end = ["idle", "latest"].contains(&way.name);
        ensure!(at_the_end || verdict.forbidden >= 60, "{}: and something to forbid: {verdict:?}", way.name);
    }
    no_trace_of_the_recovery(version, &fleet).await?;
    the_ledger_would_object(version, &fleet, &ledger, first, idle).await?;

    let hour = 3_600_000_000;
    for (name, time, word) in
        [("too-early", before_base, "the oldest"), ("too-late", now().plus_micros(hour), "recoverable point")]
    {
        let time = time.to_string();
        let said = fleet.restore_fails(4, "app", &["--to-time", &time], &fleet.target(name)).await?;
        ensure!(
            said.contains(word) && said.contains("hint:"),
            "names what stands in the way and the next step: {said}"
        );
        let target = fleet.target("preview").display().to_string();
        let preview = ["restore", "run", "--source", "app", "--to-time", &time, "--target", &target, "--preview"];
        fleet.brctl().fails(4, &preview).await?;
    }
    fleet.agent().stop().await?;
    fleet.controller.stop().await
}

/// A restored cluster starts like any other: no setting of the recovery and no slot is left in it.
async fn no_trace_of_the_recovery(version: Version, fleet: &Fleet) -> Result<()> {
    let restored = Cluster::open(version, &fleet.target("first")).start().await?;
    let left = "select count(*) from pg_settings where (name like 'recovery_target%' or name = 'restore_command')
        and setting <> boot_val";
    ensure!(restored.psql(left).await? == "0", "settings of the recovery are left");
    ensure!(restored.psql("select count(*) from pg_replication_slots").await? == "0", "slots of the source are left");
    let written = restored.psql("insert into marker default values returning 'written'").await?;
    ensure!(written == "written");
    restored.stop(Stop::Fast).await
}

/// The negative control: the checks above fail for another moment than the one that was restored.
async fn the_ledger_would_object(
    version: Version,
    fleet: &Fleet,
    ledger: &Ledger,
    first: Timestamp,
    idle: Timestamp,
) -> Result<()> {
    for (name, moment, complaint) in [("first", idle, "missing"), ("idle", first, "begun only at")] {
        let cluster = Cluster::open(version, &fleet.target(name)).start().await?;
        let objection = ledger.check(&cluster.connect().await?, Moment::at(moment)).await;
        let objection = objection.err().with_context(|| format!("{name} passes for a moment that it is not"))?;
        ensure!(objection.to_string().contains(complaint), "{objection}");
        cluster.stop(Stop::Fast).await?;
    }
    Ok(())
}
