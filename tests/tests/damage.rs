//! Damage on disk, found and mended by the real programs: in one region, in both, and where a region cannot be written.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::fault::SmallDisk;
use breakwater_testkit::user::is_root;
use breakwater_testkit::wait;
use breakwater_tests::brctl::{rows, text};
use breakwater_tests::source::{plan_yaml, sqlite_yaml};
use breakwater_tests::{Brctl, Fleet};

const PATIENCE: Duration = Duration::from_secs(60);
const CHECK: [&str; 5] = ["repository", "check", "main", "--read-data", "--wait"];
const REPAIR: [&str; 5] = ["repository", "repair", "main", "--read-data", "--wait"];

/// A database with a few pages, protected and backed up.
async fn protected(fleet: &Fleet) -> Result<PathBuf> {
    let database = fleet.home().join("app.db");
    let connection = rusqlite::Connection::open(&database)?;
    connection.execute_batch(
        "create table t (x); with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)
         insert into t select hex(randomblob(100)) from n;",
    )?;
    drop(connection);
    fleet.apply(&format!("{}---\n{}", sqlite_yaml("app", &database), plan_yaml("nightly", &["app"]))).await?;
    fleet.backup("nightly").await?;
    Ok(database)
}

/// What the restored database answers.
fn answer(path: &Path) -> Result<(i64, String)> {
    let connection = rusqlite::Connection::open(path)?;
    let query = "select count(*), (select x from t order by rowid desc limit 1) from t";
    Ok(connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// The database in a directory that a restore has made.
fn restored(target: &Path) -> Result<(i64, String)> {
    if target.is_file() {
        return answer(target);
    }
    let files = std::fs::read_dir(target)?.filter_map(|entry| Some(entry.ok()?.path()));
    let database = files.filter(|path| path.is_file()).find(|path| path.extension().is_some_and(|word| word == "db"));
    answer(&database.context("the restore has made a database")?)
}

/// Flips a bit in the middle, cuts the end off, or removes: one after the other.
fn damage(fleet: &Fleet, region: &str) -> Result<Vec<String>> {
    let region = fleet.region(region);
    let names: Vec<String> = region.names("").into_keys().filter(|name| !name.starts_with("repo/")).collect();
    let kinds = ["/keys/", "meta/", "data/", "/snap/"];
    let mut damaged = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let wanted = |name: &&String| match *kind {
            "meta/" | "data/" => name.starts_with(kind) && name.contains("/pack/"),
            kind => name.contains(kind),
        };
        let name = names.iter().find(wanted).with_context(|| format!("there is a {kind}"))?;
        let path = region.dir().join(name);
        let mut bytes = std::fs::read(&path)?;
        match index {
            0 => std::fs::remove_file(&path)?,
            1 => std::fs::write(&path, bytes.get(..bytes.len() / 2).unwrap_or_default())?,
            _ => {
                let middle = bytes.len() / 2;
                *bytes.get_mut(middle).context("it has bytes")? ^= 8;
                std::fs::write(&path, bytes)?;
            }
        }
        damaged.push(name.clone());
    }
    Ok(damaged)
}

#[tokio::test]
async fn what_one_region_has_damaged_the_other_one_mends() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    let database = protected(&fleet).await?;
    let truth = answer(&database)?;
    let brctl = fleet.brctl().clone();
    wait::until_true("both regions to hold the backup", PATIENCE, async || {
        fleet.region("west").names("/snap/").len() == 1 && fleet.region("east").names("/snap/").len() == 1
    })
    .await;
    brctl.ok(&CHECK).await.context("before anything is damaged")?;
    let before = fleet.region("west").objects()?;

    // Found, named, and with the next step; the parts of a check cover all of it.
    let damaged = damage(&fleet, "west")?;
    let said = brctl.fails(9, &CHECK).await?;
    ensure!(said.contains("repository repair"), "{said}");
    let mut found = 0;
    for part in ["1/2", "2/2"] {
        let words = ["repository", "check", "main", "--read-data-subset", part, "--region", "west", "--wait"];
        let answer = brctl.run(&words).await?;
        ensure!(answer.code()? == 9, "records and structure are in every part: {answer}");
        found += damaged.iter().filter(|name| answer.stdout.contains(name.as_str())).count();
    }
    ensure!(found > damaged.len(), "all of it is found in one part or another: {found}");

    // The damaged region alone gives the truth or nothing; with the other one nothing is missing.
    let target = fleet.target("west");
    let alone = brctl
        .run(
            &["restore", "run", "--source", "app", "--latest", "--region", "west", "--target"]
                .into_iter()
                .chain([target.display().to_string().as_str(), "--wait"])
                .collect::<Vec<_>>(),
        )
        .await?;
    ensure!(alone.code()? != 0, "{alone}");
    let target = fleet.target("both");
    fleet.restore("app", &["--latest"], &target).await?;
    ensure!(restored(&target)? == truth);

    // Rehearsed, done, done again.
    let dry = [&REPAIR[..], &["--dry-run"]].concat();
    brctl.ok(&dry).await?;
    ensure!(fleet.region("west").objects()? != before, "a rehearsal writes nothing");
    brctl.ok(&REPAIR).await?;
    ensure!(fleet.region("west").objects()? == before, "everything is what it was");
    brctl.ok(&CHECK).await?;
    brctl.ok(&REPAIR).await?;

    // The same by hand, with a writer's key and no controller.
    damage(&fleet, "east")?;
    fleet.agent().stop().await?;
    let (east, west) = (fleet.region("east").url(), fleet.region("west").url());
    let offline = Brctl::alone()?
        .env("BRCTL_REPOSITORY", &format!("east={east},west={west}"))
        .env("BRCTL_KEY", &fleet.key("writer").display().to_string());
    offline.ok(&["--offline", "repository", "repair", "--read-data"]).await?;
    let restore = offline.env("BRCTL_KEY", &fleet.key("restore").display().to_string());
    restore.ok(&["--offline", "repository", "check", "--read-data"]).await?;
    Ok(())
}

#[tokio::test]
async fn what_no_region_has_is_named_and_stored_anew() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    let database = protected(&fleet).await?;
    let truth = answer(&database)?;
    let brctl = fleet.brctl().clone();
    wait::until_true("both regions to hold the backup", PATIENCE, async || {
        fleet.region("west").names("/snap/").len() == 1
    })
    .await;
    let snapshots = brctl.json(&["snapshot", "list", "--source", "app"]).await?;
    let first = text(rows(&snapshots, "snapshots")?.first().context("one snapshot")?, "id")?.to_owned();
    for region in ["east", "west"] {
        let region = fleet.region(region);
        for name in region.names("/pack/").into_keys().filter(|name| name.starts_with("data/")) {
            std::fs::remove_file(region.dir().join(name))?;
        }
    }
    let said = brctl.fails(9, &REPAIR).await?;
    ensure!(said.contains(&first), "the snapshot that has lost something is named: {said}");
    ensure!(!fleet.region("west").names("/lost/").is_empty(), "it is on record");

    // The next backup leans on nothing that is lost, and the old snapshot is whole again by it.
    fleet.backup("nightly").await?;
    wait::until_true("both regions to hold the second backup", PATIENCE, async || {
        fleet.region("west").names("/snap/").len() == 2
    })
    .await;
    brctl.ok(&REPAIR).await?;
    ensure!(fleet.region("west").names("/lost/").is_empty(), "what was lost is found");
    for region in ["east", "west"] {
        let target = fleet.target(region);
        fleet.restore("app", &["--snapshot", &first, "--region", region], &target).await.context(region)?;
        ensure!(restored(&target)? == truth, "{region}");
    }
    fleet.agent().stop().await
}

#[tokio::test]
async fn a_region_that_cannot_be_written_is_said_and_made_whole_later() -> Result<()> {
    if !is_root() {
        eprintln!("not run: only root can mount a small disk");
        return Ok(());
    }
    let disk = SmallDisk::mount(64)?;
    let mount = |way: &str| -> Result<()> {
        let done = Command::new("mount").args(["-o", &format!("remount,{way}")]).arg(disk.path()).status()?;
        ensure!(done.success(), "remount {way}");
        Ok(())
    };
    let mut fleet = Fleet::builder().place("west", &disk.path().join("west")).start().await?;
    protected(&fleet).await?;
    let brctl = fleet.brctl().clone();
    wait::until_true("west to hold the backup", PATIENCE, async || fleet.region("west").names("/snap/").len() == 1)
        .await;

    mount("ro")?;
    fleet.backup("nightly").await.context("one region is enough")?;
    let said = brctl.fails(10, &REPAIR).await?;
    ensure!(said.contains("west") && said.to_lowercase().contains("read-only"), "{said}");
    ensure!(fleet.region("west").names("/snap/").len() == 1, "nothing half-made");

    mount("rw")?;
    wait::until_true("the debt to be repaid", PATIENCE, async || fleet.region("west").names("/snap/").len() == 2).await;
    brctl.ok(&REPAIR).await?;
    brctl.ok(&CHECK).await?;
    ensure!(fleet.region("west").names("/pack/") == fleet.region("east").names("/pack/"));
    fleet.agent().stop().await
}

#[tokio::test]
async fn what_is_of_a_newer_format_or_said_twice_is_refused_by_name() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    protected(&fleet).await?;
    wait::until_true("both regions to hold the backup", PATIENCE, async || {
        fleet.region("west").names("/snap/").len() == 1
    })
    .await;
    fleet.agent().stop().await?;
    let (east, west) = (fleet.region("east").url(), fleet.region("west").url());
    let offline = Brctl::alone()?.env("BRCTL_KEY", &fleet.key("restore").display().to_string());

    // One place under two names.
    let twice = offline.clone().env("BRCTL_REPOSITORY", &format!("one={east},two={east}"));
    let said = twice.fails(4, &["--offline", "snapshot", "list"]).await?;
    ensure!(said.contains("one") && said.contains("two") && said.contains("hint:"), "{said}");

    // The manifest, as a later version would write it: byte 4 of a record is its version.
    for region in ["east", "west"] {
        let region = fleet.region(region);
        let name = region.names("/snap/").into_keys().next().context("a manifest")?;
        let mut bytes = std::fs::read(region.dir().join(&name))?;
        *bytes.get_mut(4).context("a record has a version")? = 2;
        std::fs::write(region.dir().join(&name), bytes)?;
    }
    let both = offline.env("BRCTL_REPOSITORY", &format!("east={east},west={west}"));
    let target = fleet.target("newer");
    let shown = target.display().to_string();
    let restore = both.run(&["--offline", "restore", "run", "--latest", "--target", &shown]).await?;
    ensure!(![0, 1].contains(&restore.code()?) && restore.stderr.contains("newer"), "{restore}");
    ensure!(!target.exists() || std::fs::read_dir(&target)?.next().is_none(), "nothing is laid");
    let check = both.run(&["--offline", "repository", "check"]).await?;
    ensure!(check.code()? == 9 && check.stderr.contains("newer"), "{check}");
    let before = (fleet.region("east").objects()?, fleet.region("west").objects()?);
    let repair = both.run(&["--offline", "repository", "repair"]).await?;
    ensure!(![0, 1].contains(&repair.code()?), "{repair}");
    ensure!((fleet.region("east").objects()?, fleet.region("west").objects()?) == before, "nothing is taken for rot");
    Ok(())
}
