//! Bad input gets a clear error that names the thing and the next step, the exit code of the contract, and nothing is lost or
//! half-replaced by it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::fault::SmallDisk;
use breakwater_testkit::port::free_port;
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::process::{Finished, Program};
use breakwater_testkit::tree::tree_hash;
use breakwater_testkit::user::is_root;
use breakwater_testkit::wait;
use breakwater_tests::brctl::{number, rows, text};
use breakwater_tests::fleet::AGENT;
use breakwater_tests::load::{bulk_hash, fill};
use breakwater_tests::source::{ROLE, plan_yaml, source_yaml, sqlite_yaml};
use breakwater_tests::{Brctl, Fleet, Region};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// An error names the thing and the next step.
fn says(error: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(error.contains(word), "the error does not say `{word}`:\n{error}");
    }
    ensure!(!error.contains("panicked"), "{error}");
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// `repository create` into places, with keys in `keys`.
async fn create(brctl: &Brctl, keys: &Path, regions: &[(&str, &str)]) -> Result<Finished> {
    let mut words = vec!["repository".to_owned(), "create".to_owned()];
    words.extend(regions.iter().map(|(name, url)| format!("--region={name}={url}")));
    for (flag, name) in [("writer-key-out", "writer"), ("key-out", "restore"), ("recovery-key-out", "recovery")] {
        words.push(format!("--{flag}={}", keys.join(name).display()));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    brctl.run(&words).await
}

fn objects(dir: &Path) -> usize {
    Region::new("any", dir).names("").len()
}

#[tokio::test]
async fn places_that_cannot_hold_a_repository_are_refused_and_left_alone() -> Result<()> {
    let dir = temp_dir("places")?;
    let (brctl, keys) = (Brctl::alone()?, dir.path().join("keys"));
    std::fs::create_dir(&keys)?;
    let place = |name: &str| shown(&dir.path().join(name));
    let nothing_made = |what: &str| -> Result<()> {
        ensure!(std::fs::read_dir(&keys)?.count() == 0, "{what}: no key file may be left");
        Ok(())
    };

    // Two names for one place: said twice, through a symbolic link, through another spelling.
    std::fs::create_dir(dir.path().join("one"))?;
    std::os::unix::fs::symlink(dir.path().join("one"), dir.path().join("link"))?;
    for other in [place("one"), place("link"), format!("{}/./one", dir.path().display())] {
        let answer = create(&brctl, &keys, &[("east", &place("one")), ("west", &other)]).await?;
        ensure!([2, 4].contains(&answer.code()?), "{answer}");
        says(&answer.stderr, &["east", "west"])?;
        ensure!(objects(&dir.path().join("one")) == 0, "{other}: something is left in the place");
        nothing_made(&other)?;
    }

    // A region that is not there: the other one is not half-made.
    let missing = place("not-mounted/west");
    let answer = create(&brctl, &keys, &[("east", &place("one")), ("west", &missing)]).await?;
    says(&answer.failure(8)?, &["west", "not-mounted", "hint:"])?;
    ensure!(objects(&dir.path().join("one")) == 0, "the region that is there stays empty");
    nothing_made("unreachable")?;

    // A place with something in it.
    std::fs::create_dir(dir.path().join("full"))?;
    std::fs::write(dir.path().join("full/letter"), "precious")?;
    let before = tree_hash(&dir.path().join("full"))?;
    let answer = create(&brctl, &keys, &[("east", &place("one")), ("west", &place("full"))]).await?;
    says(&answer.failure(4)?, &["west", "full", "hint:"])?;
    ensure!(tree_hash(&dir.path().join("full"))? == before, "what was there is untouched");
    nothing_made("not empty")?;

    // A good one; then a key file is never overwritten, and a repository is never made twice.
    create(&brctl, &keys, &[("east", &place("one")), ("west", &place("two"))]).await?.success()?;
    let made = tree_hash(dir.path())?;
    let other_keys = dir.path().join("other");
    std::fs::create_dir(&other_keys)?;
    create(&brctl, &keys, &[("east", &place("three"))]).await?.failure(4)?;
    let answer = create(&brctl, &other_keys, &[("east", &place("one")), ("west", &place("three"))]).await?;
    says(&answer.failure(4)?, &["east", "hint:"])?;
    ensure!(std::fs::read_dir(&other_keys)?.count() == 0, "no key for what was not made");
    std::fs::remove_dir(&other_keys)?;
    if dir.path().join("three").exists() {
        std::fs::remove_dir(dir.path().join("three")).context("a place that was made for nothing is empty")?;
    }
    ensure!(tree_hash(dir.path())? == made, "the repository and its keys are as they were");
    Ok(())
}

#[tokio::test]
async fn wrong_keys_and_half_written_repositories_open_nothing() -> Result<()> {
    let dir = temp_dir("opening")?;
    let brctl = Brctl::alone()?;
    let (mine, theirs) = (dir.path().join("mine"), dir.path().join("theirs"));
    let region = |owner: &Path, name: &str| shown(&owner.join(name));
    for owner in [&mine, &theirs] {
        std::fs::create_dir(owner)?;
        let answer =
            create(&brctl, owner, &[("east", &region(owner, "east")), ("west", &region(owner, "west"))]).await?;
        answer.success()?;
    }
    let list = async |regions: &[&str], key: &Path| {
        let mut words = vec!["--offline".to_owned(), "--key".to_owned(), shown(key)];
        words.extend(regions.iter().flat_map(|url| ["--repository".to_owned(), (*url).to_owned()]));
        words.extend(["snapshot", "list"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        brctl.run(&words).await
    };
    let (east, west) = (region(&mine, "east"), region(&mine, "west"));
    list(&[&east, &west], &mine.join("recovery")).await?.success()?;

    // Another repository's key; a file that is none; a file that others can read.
    let stranger = list(&[&east], &theirs.join("recovery")).await?;
    ensure!([3, 4].contains(&stranger.code()?), "{stranger}");
    says(&stranger.stderr, &["repository"])?;
    std::fs::write(dir.path().join("letter"), "dear key")?;
    set_mode(&dir.path().join("letter"), 0o600)?;
    let none = list(&[&east], &dir.path().join("letter")).await?;
    ensure!(none.code()? != 0 && none.code()? != 1, "{none}");
    says(&none.stderr, &["letter"])?;
    std::fs::copy(mine.join("recovery"), dir.path().join("open"))?;
    set_mode(&dir.path().join("open"), 0o644)?;
    let open = list(&[&east], &dir.path().join("open")).await?;
    ensure!([3, 4].contains(&open.code()?), "{open}");
    says(&open.stderr, &["open", "hint:"])?;
    list(&[&east], &dir.path().join("absent")).await?.failure(6)?;

    // Regions of two repositories are not one.
    let mixed = list(&[&east, &region(&theirs, "west")], &mine.join("recovery")).await?;
    ensure!([3, 4].contains(&mixed.code()?), "{mixed}");

    // One region lost its descriptor: the other serves, and the loss is said. Both: nothing opens, and nothing is made anew.
    std::fs::remove_file(mine.join("west/repo/descriptor"))?;
    let half = list(&[&east, &west], &mine.join("recovery")).await?;
    ensure!(half.status.success(), "{half}");
    says(&half.stderr, &["west"])?;
    std::fs::remove_file(mine.join("east/repo/descriptor"))?;
    let before = tree_hash(&mine)?;
    let none = list(&[&east, &west], &mine.join("recovery")).await?;
    ensure!(![0, 1].contains(&none.code()?), "{none}");
    says(&none.stderr, &["east", "west"])?;
    let again = create(&brctl, &theirs.join("new"), &[("east", &east)]).await?;
    ensure!(![0, 1].contains(&again.code()?), "{again}");
    ensure!(tree_hash(&mine)? == before, "a half-written repository is left as it is");
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).context("set the mode of a file")
}

#[tokio::test]
async fn nobody_gets_in_without_proof() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    let brctl = fleet.brctl().clone();

    // People.
    let wrong = brctl.clone().env("BRCTL_TOKEN", "bwo-wrong");
    says(&wrong.fails(3, &["status"]).await?, &["token"])?;
    let nobody = Brctl::alone()?;
    let url = format!("https://127.0.0.1:{}", free_port());
    let ca = fleet.home().join("ca.pem");
    let context: Value = serde_json::from_slice(&std::fs::read(fleet.controller_dir().join("brctl.json"))?)?;
    std::fs::write(&ca, text(&context, "ca")?)?;
    let away = nobody.env("BRCTL_TOKEN", text(&context, "token")?).env("BRCTL_CA", &shown(&ca));
    says(&away.fails(8, &["status", "--controller", &url, "--timeout", "5s"]).await?, &[&url, "hint:"])?;

    // The certificate of another installation proves nothing here, neither a controller's nor an agent's.
    let mut stranger = Fleet::builder().start().await?;
    let their_context = shown(&stranger.controller_dir().join("brctl.json"));
    let ours = fleet.controller_url();
    let there = Brctl::alone()?.env("BRCTL_CONTEXT_FILE", &their_context);
    says(&there.fails(3, &["status", "--controller", &ours, "--timeout", "10s"]).await?, &[&ours, "certificate"])?;
    stranger.agent().stop().await?;
    let stray = Program::agent()?.args(["run", "--controller", &ours, "--data-dir"]).arg(stranger.agent_dir(AGENT));
    let mut stray = stray.start("an agent of another installation")?;
    let line = stray.wait_for_line("certificate", PATIENCE).await;
    says(&line, &[&ours])?;
    let agents = brctl.json(&["agent", "list"]).await?;
    ensure!(rows(&agents, "agents")?.len() == 1, "{agents:#}");
    stray.kill9().await?;

    // Agents: a token works once, for its own name, and not after it was revoked.
    let token = brctl.json(&["agent", "token", "create", "--name", "db-2"]).await?;
    let (secret, pin) = (text(&token, "token")?, text(&token, "ca_pin")?);
    let wrong_pin = format!("sha256:{}", "0".repeat(64));
    says(&fleet.enrolment("db-2", secret, "nonsense")?.run().await?.failure(2)?, &["nonsense", "pin", "hint:"])?;
    let refused = fleet.enrolment("db-2", secret, &wrong_pin)?.run().await?;
    says(&refused.failure(3)?, &["pin"])?;
    fleet
        .enrolment("db-2", secret, pin)?
        .run()
        .await?
        .success()
        .context("the token is still good: it was never sent")?;
    let other = fleet.agent_dir("db-3");
    says(&fleet.enrolment("db-3", secret, pin)?.run().await?.failure(3)?, &["token"])?;
    ensure!(!other.join("identity").exists(), "nobody has an identity without a token");
    let token = brctl.json(&["agent", "token", "create", "--name", "db-3"]).await?;
    brctl.ok(&["agent", "token", "revoke", text(&token, "id")?]).await?;
    let revoked = fleet.enrolment("db-3", text(&token, "token")?, text(&token, "ca_pin")?)?.run().await?;
    says(&revoked.failure(3)?, &["token"])?;

    // A locked agent is out at once, gets no work, and comes back when it is unlocked.
    brctl.ok(&["agent", "lock", AGENT, "--reason", "stolen"]).await?;
    fleet.agent_is(AGENT, "locked").await;
    let database = fleet.home().join("app.db");
    rusqlite::Connection::open(&database)?.execute_batch("create table t (x); insert into t values (1);")?;
    fleet.apply(&format!("{}---\n{}", sqlite_yaml("app", &database), plan_yaml("nightly", &["app"]))).await?;
    let locked = brctl.run(&["backup", "run", "app"]).await?;
    ensure!([3, 4].contains(&locked.code()?), "{locked}");
    says(&locked.stderr, &[AGENT, "locked"])?;
    brctl.ok(&["agent", "unlock", AGENT]).await?;
    // It asks again every half minute by itself; an operator would not wait.
    fleet.agent().stop().await?;
    fleet.agent().start()?;
    fleet.agent_is(AGENT, "connected").await;
    fleet.backup("app").await.context("after it was unlocked")?;

    // What does not exist, and what is not understood.
    for words in [
        &["backup", "run", "nothing"][..],
        &["source", "check", "nothing"],
        &["lag", "--source", "nothing"],
        &["get", "plan", "nothing"],
        &["job", "show", "0000"],
        &["snapshot", "list", "--source", "nothing"],
        &["agent", "show", "nothing"],
        &["restore", "run", "--source", "nothing", "--latest", "--target", "/nowhere/x"],
    ] {
        let said = brctl.fails(6, words).await.with_context(|| words.join(" "))?;
        says(&said, &["not", if words.contains(&"0000") { "0000" } else { "nothing" }])?;
    }
    says(&brctl.fails(2, &["backup", "run"]).await?, &["Usage"])?;
    let before = brctl.json(&["get", "source"]).await?;
    let file = fleet.home().join("bad.yaml");
    for (bad, word) in [
        (sqlite_yaml("app", &database).replace("agent:", "agnet:"), "agnet"),
        (sqlite_yaml("app", Path::new("relative.db")), "relative.db"),
        (plan_yaml("nightly", &["app"]).replace("repository: main", "repository: elsewhere"), "elsewhere"),
        (plan_yaml("nightly", &["stranger"]), "stranger"),
        ("apiVersion: breakwater/v1\nkind: Sauce\nmetadata: {name: x}\nspec: {}\n".to_owned(), "Sauce"),
        ("{".to_owned(), "document 2"),
    ] {
        // A good document before the bad one is not taken either: a file is applied whole or not at all.
        let good = sqlite_yaml("bystander", &database);
        std::fs::write(&file, format!("{good}---\n{bad}"))?;
        let said = brctl.run(&["apply", "-f", &shown(&file)]).await?;
        ensure!([2, 4, 6].contains(&said.code()?), "{word}: {said}");
        says(&said.stderr, &[word])?;
        ensure!(brctl.json(&["get", "source"]).await? == before, "{word}: something was declared");
    }
    fleet.agent().stop().await
}

#[tokio::test]
async fn a_source_that_cannot_be_protected_is_refused_with_the_line_that_mends_it() -> Result<()> {
    let cluster = Cluster::builder(Version::V15).start().await?;
    let other = Cluster::builder(Version::V15).start().await?;
    let mut fleet = Fleet::builder().start().await?;
    let brctl = fleet.brctl().clone();
    for cluster in [&cluster, &other] {
        cluster.psql(&format!("create role {ROLE} login")).await?;
    }
    let bound = "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';";
    let slot = async || cluster.psql("select count(*) from pg_replication_slots").await;

    // Without the bound there is neither a slot nor a backup, whatever the role may do.
    for right in [
        format!("alter role {ROLE} replication"),
        format!("grant pg_read_all_settings to {ROLE}"),
        format!("grant execute on function pg_catalog.pg_backup_start(text, boolean) to {ROLE}"),
        format!("grant execute on function pg_catalog.pg_backup_stop(boolean) to {ROLE}"),
    ] {
        cluster.psql(&right).await?;
    }
    fleet.apply(&source_yaml("app", &cluster, &[])).await?;
    fleet.apply(&plan_yaml("nightly", &["app"])).await?;
    let check = brctl.run(&["source", "check", "app", "-o", "table"]).await?;
    ensure!(check.code()? == 4 && check.stdout.contains(bound), "{check}");
    let refused = brctl.fails(4, &["backup", "run", "app", "--wait"]).await?;
    says(&refused, &["max_slot_wal_keep_size"])?;
    ensure!(slot().await? == "0", "no slot that could fill the server's disk");
    ensure!(fleet.region("east").names("/snap/").is_empty());

    // The files of another cluster are not this one's.
    fleet.grant_what_is_missing("app", &cluster).await?;
    let elsewhere = format!("dataDirectory: {}", other.data_dir().display());
    fleet.apply(&source_yaml("app", &cluster, &[&elsewhere])).await?;
    let wrong = brctl.fails(4, &["source", "check", "app"]).await?;
    let answer = brctl.run(&["source", "check", "app"]).await?;
    says(&format!("{wrong}{}", answer.stdout), &[&shown(other.data_dir())])?;
    let refused = brctl.run(&["backup", "run", "app", "--wait"]).await?;
    ensure!([4, 7].contains(&refused.code()?), "{refused}");
    fleet.apply(&source_yaml("app", &cluster, &[])).await?;
    fleet.backup("app").await?;
    ensure!(slot().await? == "1");

    // Another cluster under the same name would end what can be restored: refused, and the old one is still whole.
    fleet.grant(&other).await?;
    fleet.apply(&source_yaml("app", &other, &[])).await?;
    let foreign = brctl.run(&["backup", "run", "app", "--wait"]).await?;
    ensure!([4, 7].contains(&foreign.code()?), "{foreign}");
    says(&foreign.stderr, &["app", "identity", "hint:"])?;
    ensure!(other.psql("select count(*) from pg_replication_slots").await? == "0", "no slot on the stranger");
    fleet.apply(&source_yaml("app", &cluster, &[])).await?;
    fleet.backup("app").await.context("the cluster that the source was made for is still welcome")?;
    ensure!(fleet.region("east").names("/snap/").len() == 2, "two snapshots, none of the stranger");

    // A source that is removed lets the server's log go.
    let careless = brctl.run(&["delete", "source", "app"]).await?;
    ensure!(careless.code()? != 0, "deleting asks for the name: {careless}");
    brctl.ok(&["delete", "plan", "nightly", "--yes=nightly"]).await?;
    brctl.ok(&["delete", "source", "app", "--yes=app"]).await?;
    wait::until_true("the slot to be dropped", PATIENCE, async || slot().await.is_ok_and(|count| count == "0")).await;
    fleet.agent().stop().await
}

#[tokio::test]
async fn a_target_in_use_is_left_as_it_is() -> Result<()> {
    let fleet = Fleet::builder().without_restore_key().start().await?;
    let database = fleet.home().join("app.db");
    rusqlite::Connection::open(&database)?.execute_batch("create table t (x); insert into t values (1);")?;
    fleet.apply(&format!("{}---\n{}", sqlite_yaml("app", &database), plan_yaml("nightly", &["app"]))).await?;
    fleet.backup("nightly").await?;

    // An agent without a key that opens content writes backups and restores none.
    let said = fleet.restore_fails(3, "app", &["--latest"], &fleet.target("keyless")).await?;
    says(&said, &["key", "hint:"])?;

    let brctl = Brctl::alone()?;
    let target = fleet.target("in-use");
    std::fs::create_dir(&target)?;
    std::fs::write(target.join("letter"), "precious")?;
    let before = tree_hash(&target)?;
    let (key, east, shown_target) = (shown(&fleet.key("restore")), fleet.region("east").url(), shown(&target));
    let offline = ["--offline", "--repository", &east, "--key", &key, "restore", "run", "--latest", "--target"];
    let said = brctl.fails(4, &[&offline[..], &[&shown_target]].concat()).await?;
    says(&said, &[&shown_target, "hint:"])?;
    ensure!(tree_hash(&target)? == before, "what was there is untouched");
    let empty = shown(&fleet.target("empty"));
    brctl.ok(&[&offline[..], &[&empty]].concat()).await?;
    let unknown =
        ["--offline", "--repository", &east, "--key", &key, "restore", "run", "--snapshot", "0000", "--target"];
    says(&brctl.fails(6, &[&unknown[..], &[&shown(&fleet.target("none"))]].concat()).await?, &["0000"])?;
    Ok(())
}

#[tokio::test]
async fn a_full_disk_loses_nothing() -> Result<()> {
    if !is_root() {
        eprintln!("not run: only root can mount a small disk");
        return Ok(());
    }
    let disk = SmallDisk::mount(48)?;
    let cluster = Cluster::builder(Version::V15).start().await?;
    fill(&cluster, 96).await?;
    let mut fleet = Fleet::builder().commit(2).place("west", &disk.path().join("west")).start().await?;
    fleet.protect("app", &cluster).await?;
    let committed = |fleet: &Fleet, region: &str| fleet.region(region).names("/snap/").len();

    // Both regions are needed: nothing is committed while one is full, and the job goes on once there is room.
    let mut backup = fleet.brctl().start(&["backup", "run", "app", "--wait"])?;
    wait::until_true("the lag to say that west is full", PATIENCE, async || {
        fleet.lag("app").await.is_ok_and(|rows| says_full(rows.get("west")))
    })
    .await;
    ensure!(committed(&fleet, "east") + committed(&fleet, "west") == 0, "nothing is committed by half");
    ensure!(backup.exited()?.is_none(), "it waits or is tried again: {}", backup.stderr());
    disk.resize(256)?;
    ensure!(backup.wait(Duration::from_secs(120)).await?.success(), "it finds room: {}", backup.stderr());
    ensure!(committed(&fleet, "west") >= 1, "both regions hold it");
    ensure!(fleet.packs().await?.stored_twice(128 * 1024) == 0, "and nothing was uploaded twice");

    // One region is enough: the other goes on, and the full one is named.
    fleet.apply(&fleet.repository_yaml("main", 1)).await?;
    let ballast = disk.path().join("ballast");
    fill_up(&ballast)?;
    let before = (committed(&fleet, "east"), committed(&fleet, "west"));
    cluster.psql("update bulk set id = id + 1000").await?;
    fleet.backup("app").await.context("a backup while a region is full")?;
    ensure!(committed(&fleet, "east") > before.0, "the region that has room holds the backup");
    ensure!(committed(&fleet, "west") == before.1, "a region shows no manifest of what it does not hold");
    wait::until_true("the lag to say that west is full", PATIENCE, async || {
        fleet.lag("app").await.is_ok_and(|rows| says_full(rows.get("west")))
    })
    .await;

    std::fs::remove_file(&ballast).context("make room")?;
    wait::until_true("the debt to be repaid", PATIENCE, async || {
        fleet
            .lag("app")
            .await
            .is_ok_and(|rows| rows.values().all(|row| text(row, "state").is_ok_and(|word| word == "ok")))
            && committed(&fleet, "west") > before.1
    })
    .await;
    let snapshots = fleet.brctl().json(&["snapshot", "list", "--source", "app"]).await?;
    ensure!(rows(&snapshots, "snapshots")?.len() == 2, "{snapshots:#}");
    let target = fleet.target("west");
    fleet.restore("app", &["--latest", "--region", "west"], &target).await?;
    let restored = Cluster::open(Version::V15, &target).start().await?;
    ensure!(bulk_hash(&restored).await? == bulk_hash(&cluster).await?, "west alone brings everything back");
    fleet.agent().stop().await
}

/// Whether a row of the lag says that its region is full and owes something.
fn says_full(row: Option<&Value>) -> bool {
    row.is_some_and(|row| {
        let owes = number(row, "pending_bytes").is_ok_and(|bytes| bytes > 0);
        row["state"] != "ok" && owes && row["detail"].to_string().contains("no room left")
    })
}

/// Writes until the disk is full.
fn fill_up(path: &Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).context("make a large file")?;
    let block = [1; 64 << 10];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error).context("fill the disk"),
        }
    }
}
