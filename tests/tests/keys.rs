//! Who may open a repository, by the real programs: every way to hold a key restores what it should and nothing else, changes cost
//! no pack, and no secret is ever shown.

#[path = "keys/keyring.rs"]
mod keyring;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::wait;
use breakwater_tests::Fleet;
use breakwater_tests::brctl::{number, rows, text};
use breakwater_tests::source::sqlite_yaml;
use keyring::{Scene, answer, fill, private};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn each_way_to_hold_a_key_restores() -> Result<()> {
    let scene = Scene::new().await?;
    let (restore, third) = (scene.key("restore"), scene.file("third.key"));

    scene.ok(&[&restore], &["key", "add", "--name", "third", "--key-out", &third]).await?;
    scene.restores(&[&third], 1).await.context("an added key file")?;
    let said = scene.fails(4, &[&restore], &["key", "add", "--name", "fourth", "--key-out", &third]).await?;
    ensure!(said.contains("third.key"), "a key file is never overwritten: {said}");
    let said =
        scene.fails(4, &[&restore], &["key", "add", "--name", "third", "--key-out", &scene.file("again.key")]).await?;
    ensure!(said.contains("`third`"), "a name is there once: {said}");

    let words = private(&scene.file("words"), "plinth ocarina drizzle vetch\n")?;
    scene.ok(&[&restore], &["key", "add", "--name", "by-words", "--passphrase-file", &words]).await?;
    let scene = scene.with_env("BRCTL_PASSPHRASE_FILE", &words);
    scene.restores(&["passphrase"], 0).await.context("a passphrase")?;

    let shares = scene.file("shares");
    let list = ["key", "escrow", "--shares", "5", "--threshold", "3", "--out", &shares];
    scene.ok(&[&restore], &list).await?;
    let share = |number: u8| format!("{shares}/share-{number}.json");
    scene.restores(&[&share(1), &share(3), &share(5)], 1).await.context("three shares")?;
    let said = scene.fails(2, &[&share(2), &share(4)], &["key", "list"]).await?;
    ensure!(said.contains('3') && said.contains("share"), "how many it takes is said: {said}");

    let standing = scene.json(&[&restore], &["key", "list"]).await?;
    let held = |name: &str| {
        let row = rows(&standing, "rows").ok()?.iter().find(|row| text(row, "name").ok() == Some(name))?;
        text(row, "held").ok().map(str::to_owned)
    };
    ensure!(held("third").as_deref() == Some("file"), "{standing:#}");
    ensure!(held("by-words").as_deref() == Some("passphrase"), "{standing:#}");
    ensure!(held("escrow").is_some(), "{standing:#}");
    scene.ok(&[&restore], &["check", "--read-data"]).await?;
    scene.no_secret_was_said()
}

#[tokio::test]
async fn a_rotation_writes_no_pack_and_the_agent_goes_on_with_its_old_key() -> Result<()> {
    let mut scene = Scene::new().await?;
    let recovery = scene.key("recovery");
    let before = scene.packs();
    ensure!(before.iter().all(|region| !region.is_empty()), "there are packs to be left alone");
    let done = scene.json(&[&recovery], &["key", "rotate", "--reseal"]).await?;
    ensure!(number(&done["resealed"], "sealed")? >= 2, "every session is sealed again: {done:#}");
    ensure!(scene.packs() == before, "a rotation touched packs");
    for key in ["restore", "recovery"] {
        scene.restores(&[&scene.key(key)], 0).await.context(key)?;
        scene.restores(&[&scene.key(key)], 1).await.context(key)?;
    }

    // The writer key of before the rotation lies on the agent's host still.
    scene.back_up(3).await?;
    scene.restores(&[&recovery], 2).await.context("a backup under the old writer key")?;
    // Only what came after is sealed again, and then everything is under the present key.
    let again = scene.json(&[&recovery], &["key", "finish", "--reseal"]).await?;
    ensure!(number(&again["resealed"], "sealed")? >= 1, "{again:#}");
    let nothing = scene.json(&[&recovery], &["key", "finish", "--reseal"]).await?;
    ensure!(number(&nothing["resealed"], "objects_written")? == 0, "{nothing:#}");
    scene.restores(&[&recovery], 2).await?;

    // A new writer key works too, once the agent is started anew with it.
    let writer = scene.file("writer-2.key");
    scene.ok(&[&recovery], &["key", "writer", "--out", &writer]).await?;
    std::fs::copy(&writer, scene.fleet.agent_dir("db-1").join("keys/writer.json"))?;
    scene.fleet.agent().stop().await?;
    scene.fleet.agent().start()?;
    scene.fleet.agent_is("db-1", "connected").await;
    scene.back_up(4).await?;
    scene.restores(&[&recovery], 3).await.context("a backup under the new writer key")?;
    scene.ok(&[&recovery], &["check", "--read-data"]).await?;
    scene.no_secret_was_said()
}

#[tokio::test]
async fn a_removed_key_opens_nothing_and_two_are_the_fewest() -> Result<()> {
    let scene = Scene::new().await?;
    let (restore, recovery, third) = (scene.key("restore"), scene.key("recovery"), scene.file("third.key"));
    let name = scene.recipient_of(&restore)?;
    let safe = scene.recipient_of(&recovery)?;

    let remove = |name: &str| ["key", "remove", name, "--reseal", &format!("--yes={name}")].map(str::to_owned);
    let said = scene.fails(4, &[&recovery], &refs(&remove(&name))).await?;
    ensure!(said.contains("hint:"), "with two recipients none is removed: {said}");
    scene.fails(6, &[&recovery], &refs(&remove("nobody"))).await?;

    scene.ok(&[&recovery], &["key", "add", "--name", "third", "--key-out", &third]).await?;
    let said = scene.fails(4, &[&recovery], &refs(&remove(&safe))).await?;
    ensure!(said.contains("itself"), "{said}");
    let unconfirmed = scene.run(&[&recovery], &["key", "remove", &name]).await?;
    ensure!(!unconfirmed.status.success(), "nobody confirmed it: {unconfirmed}");
    scene.restores(&[&restore], 0).await.context("nothing was changed so far")?;

    let before = scene.packs();
    scene.ok(&[&recovery], &refs(&remove(&name))).await?;
    ensure!(scene.packs() == before, "a removal touched packs");
    for words in [vec!["key", "list"], vec!["snapshot", "list"], vec!["check", "--read-data"]] {
        scene.fails(3, &[&restore], &words).await.with_context(|| format!("{words:?} with the removed key"))?;
    }
    ensure!(scene.restore(&[&restore], 1).await?.0.code()? == 3, "the removed key restores");
    for region in scene.fleet.regions() {
        let plain: Vec<String> = region.names("/keys/").into_keys().filter(|name| !name.contains('.')).collect();
        ensure!(plain.is_empty(), "the removed key's sessions are still in {}: {plain:?}", region.name());
    }
    for key in [&recovery, &third] {
        scene.restores(&[key], 0).await?;
        scene.restores(&[key], 1).await?;
    }
    scene.fails(4, &[&third], &refs(&remove(&safe))).await?;
    scene.no_secret_was_said()
}

#[tokio::test]
async fn what_a_region_missed_is_finished_when_it_is_back() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.fleet.agent().stop().await?;
    let (restore, recovery, third) = (scene.key("restore"), scene.key("recovery"), scene.file("third.key"));
    let name = scene.recipient_of(&restore)?;
    scene.fleet.region("west").take_away()?;
    let said = scene.fails(8, &[&recovery], &["key", "add", "--name", "third", "--key-out", &third]).await?;
    ensure!(said.contains("west") && said.contains("key finish"), "{said}");
    let words = ["key", "remove", &name, "--reseal", &format!("--yes={name}")];
    scene.fails(8, &[&recovery], &words).await?;
    scene.restores(&[&third], 1).await.context("the region that answers has the change")?;
    scene.fleet.region("west").give_back()?;

    // An agent brings each region what it lacks, but not what was replaced while one was away.
    let plain = |scene: &Scene, region: &str| -> BTreeSet<String> {
        let names = scene.fleet.region(region).names("/keys/").into_keys();
        names.filter(|name| !name.contains('.')).collect()
    };
    let replaced = plain(&scene, "west");
    ensure!(replaced.len() >= 2 && plain(&scene, "east").is_empty(), "the scene: west missed the change");
    scene.fleet.agent().start()?;
    scene.fleet.agent_is("db-1", "connected").await;
    scene.back_up(3).await?;
    wait::until_true("the regions to be compared", PATIENCE, async || {
        let sealed =
            |region: &str| scene.fleet.region(region).names("/keys/").keys().filter(|n| n.contains('.')).count();
        sealed("west") == sealed("east")
    })
    .await;
    scene.fleet.agent().stop().await?;
    let back: Vec<String> = plain(&scene, "east").intersection(&replaced).cloned().collect();
    ensure!(back.is_empty(), "what the removed key opens came back: {back:?}");

    let listed = scene.run(&[&third], &["key", "list"]).await?;
    ensure!(listed.code()? == 0 && listed.stderr.contains("west"), "what is left to do is said: {listed}");
    let done = scene.json(&[&third], &["key", "finish", "--reseal"]).await?;
    ensure!(number(&done, "objects_written")? > 0, "{done:#}");
    let listed = scene.run(&[&third], &["key", "list"]).await?;
    ensure!(!listed.stderr.contains("finish"), "nothing is left to do: {listed}");
    scene.fails(3, &[&restore], &["snapshot", "list"]).await?;

    scene.fleet.region("east").take_away()?;
    scene.fails(3, &[&restore], &["snapshot", "list"]).await.context("nor in the region that was away")?;
    scene.restores(&[&third], 0).await.context("the region that was away is enough")?;
    scene.restores(&[&recovery], 1).await?;
    scene.no_secret_was_said()
}

#[tokio::test]
async fn a_grant_opens_one_snapshot_and_a_reaper_none() -> Result<()> {
    let scene = Scene::new().await?;
    let restore = scene.key("restore");
    let (identity, stranger) = (scene.file("mine.key"), scene.file("stranger.key"));
    let (grant, reaper) = (scene.file("grant.key"), scene.file("reaper.key"));
    let made = scene.json(&[&restore], &["key", "identity", "--out", &identity]).await?;
    scene.ok(&[&restore], &["key", "identity", "--out", &stranger]).await?;
    let public = text(&made, "public")?.to_owned();
    let first = scene.snapshots[0].clone();
    scene.ok(&[&restore], &["key", "grant", "--snapshot", &first, "--to", &public, "--out", &grant]).await?;
    let mut wrong = public.clone().into_bytes();
    let last = wrong.last_mut().context("a public key has characters")?;
    *last = if *last == b'0' { b'1' } else { b'0' };
    let wrong = String::from_utf8(wrong)?;
    let words = ["key", "grant", "--snapshot", &first, "--to", &wrong, "--out", &scene.file("none.key")];
    scene.fails(2, &[&restore], &words).await.context("a wrong digit is noticed")?;

    let said = scene.fails(2, &[&grant], &["snapshot", "list"]).await?;
    ensure!(said.contains("--identity"), "{said}");
    let other = scene.with_env("BRCTL_IDENTITY", &stranger);
    ensure!(other.restore(&[&grant], 0).await?.0.code()? == 3, "the grant is for another identity");
    let scene = other.with_env("BRCTL_IDENTITY", &identity);
    scene.restores(&[&grant], 0).await?;
    ensure!(scene.restore(&[&grant], 1).await?.0.code()? == 3, "the other snapshot was not granted");
    scene.fails(3, &[&grant], &["key", "rotate"]).await?;

    // A reaper lists, deletes and collects; it restores nothing and lets nobody in.
    scene.ok(&[&restore], &["key", "reaper", "--out", &reaper]).await?;
    let list = scene.json(&[&reaper], &["snapshot", "list"]).await?;
    ensure!(rows(&list, "snapshots")?.len() == 2, "{list:#}");
    ensure!(scene.restore(&[&reaper], 1).await?.0.code()? == 3, "a reaper restores");
    scene.fails(3, &[&reaper], &["key", "reaper", "--out", &scene.file("more.key")]).await?;
    scene.fails(3, &[&reaper], &["key", "add", "--name", "x", "--key-out", &scene.file("x.key")]).await?;
    let first = first.as_str();
    scene.ok(&[&reaper], &["snapshot", "delete", first, &format!("--yes={first}")]).await?;
    let before = scene.packs();
    scene.ok(&[&reaper], &["gc", "--all-regions"]).await?;
    ensure!(scene.packs() != before, "the packs of the deleted snapshot are collected");
    scene.restores(&[&restore], 1).await.context("what stays is whole")?;
    ensure!(scene.restore(&[&restore], 0).await?.0.code()? == 6, "the deleted snapshot is gone");
    scene.no_secret_was_said()
}

#[tokio::test]
async fn an_erased_domain_opens_with_no_key_and_the_others_stay() -> Result<()> {
    let mut scene = Scene::new().await?;
    let (restore, recovery, writer) = (scene.key("restore"), scene.key("recovery"), scene.file("tenant.key"));
    scene.ok(&[&restore], &["key", "domain", "tenant", "--writer-key-out", &writer]).await?;
    scene.fails(4, &[&restore], &["key", "domain", "tenant", "--writer-key-out", &scene.file("t2.key")]).await?;

    // An agent of the tenant's own, that writes into its domain.
    scene.fleet.add_agent("db-2").await?;
    let keys = scene.fleet.agent_dir("db-2").join("keys");
    std::fs::remove_file(keys.join("restore.json")).ok();
    std::fs::copy(&writer, keys.join("writer.json"))?;
    let database = scene.fleet.home().join("tenant.db");
    fill(&database, 7)?;
    let yaml = sqlite_yaml("rented", &database).replace("agent: db-1", "agent: db-2, domain: tenant");
    scene.fleet.apply(&format!("{yaml}---\n{}", breakwater_tests::source::plan_yaml("rent", &["rented"]))).await?;
    let inside = text(&scene.fleet.backup("rented").await?, "snapshot_id")?.to_owned();
    let (_, target) = scene.restore_id(&[&recovery], "rented", &inside).await?;
    ensure!(answer(&target.join("tenant.db"))? == answer(&database)?, "the tenant's backup restores before");
    scene.fleet.agent_named("db-2").stop().await?;
    scene.fleet.agent().stop().await?;

    scene.fleet.region("west").take_away()?;
    let said = scene.fails(4, &[&recovery], &["erase", "tenant", "--yes=tenant"]).await?;
    ensure!(said.contains("west") && said.contains("nothing was destroyed"), "{said}");
    scene.fleet.region("west").give_back()?;
    scene.fails(6, &[&recovery], &["erase", "nobody", "--yes=nobody"]).await?;
    scene.fails(3, &[&writer], &["erase", "tenant", "--yes=tenant"]).await?;
    let old = scene.fleet.region("east").dir().join("repo/domain/tenant/1");
    let kept = std::fs::read(&old).context("the tenant's domain has a record")?;
    let packs = scene.packs();
    let proof = scene.json(&[&recovery], &["erase", "tenant", "--yes=tenant"]).await?;
    ensure!(number(&proof, "deleted")? == 2 && number(&proof, "sessions")? >= 1, "{proof:#}");
    ensure!(scene.packs() == packs, "an erasure touches no pack");
    scene.ok(&[&recovery], &["erase", "tenant", "--verify"]).await?;

    let nothing_opens = async |when: &str| -> Result<()> {
        for key in [&restore, &recovery, &writer] {
            let (said, _) = scene.restore_id(&[key], "rented", &inside).await?;
            ensure!([3, 6].contains(&said.code()?), "{when}, {key} opens what was erased: {said}");
        }
        for key in [&restore, &recovery] {
            let list = scene.json(&[key], &["snapshot", "list"]).await?;
            ensure!(rows(&list, "snapshots")?.len() == 2, "{when}, only the other domain's: {list:#}");
            scene.restores(&[key], 1).await?;
        }
        Ok(())
    };
    nothing_opens("after the erasure").await?;
    // A place that had kept the old record: the proof makes readers pass it over, and the check names it.
    std::fs::create_dir_all(old.parent().context("a record lies in a directory")?)?;
    std::fs::write(&old, kept)?;
    let said = scene.fails(9, &[&recovery], &["erase", "tenant", "--verify"]).await?;
    ensure!(said.contains("repo/domain/tenant/1"), "{said}");
    nothing_opens("with the old record back").await?;
    scene.ok(&[&recovery], &["erase", "tenant", "--yes=tenant"]).await?;
    scene.ok(&[&recovery], &["erase", "tenant", "--verify"]).await?;
    let said =
        scene.fails(4, &[&recovery], &["key", "domain", "tenant", "--writer-key-out", &scene.file("t3.key")]).await?;
    ensure!(said.contains("erased"), "a name is used once: {said}");
    let said = scene.fails(4, &[&recovery], &["erase", "default", "--yes=default"]).await?;
    ensure!(said.contains("only"), "{said}");
    scene.no_secret_was_said()
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_refused_by_name() -> Result<()> {
    let scene = Scene::new().await?;
    let elsewhere = Fleet::builder().regions(&["north"]).start().await?;
    let (restore, writer, reaper) = (scene.key("restore"), scene.key("writer"), scene.file("reaper.key"));
    scene.ok(&[&restore], &["key", "reaper", "--out", &reaper]).await?;

    // Where content is needed.
    for key in [&writer, &reaper] {
        ensure!(scene.restore(&[key], 0).await?.0.code()? == 3, "{key} restores");
        let said = scene.fails(3, &[key], &["check", "--read-data"]).await?;
        ensure!(said.contains("hint:"), "the next step: {said}");
        scene.fails(3, &[key], &["snapshot", "verify", &scene.snapshots[0], "--level", "thorough"]).await?;
        scene.ok(&[key], &["snapshot", "list"]).await?;
        let out = scene.file("refused.key");
        scene.fails(3, &[key], &["key", "writer", "--out", &out]).await?;
        ensure!(!std::path::Path::new(&out).exists(), "a refused command wrote a key");
    }

    // Another repository's: a key, a grant, a share.
    let foreign = elsewhere.key("restore").display().to_string();
    scene.fails(4, &[&foreign], &["snapshot", "list"]).await?;
    let (identity, grant) = (scene.file("mine.key"), scene.file("grant.key"));
    let made = scene.json(&[&restore], &["key", "identity", "--out", &identity]).await?;
    let (public, first) = (text(&made, "public")?, &scene.snapshots[0]);
    scene.ok(&[&restore], &["key", "grant", "--snapshot", first, "--to", public, "--out", &grant]).await?;
    let north = elsewhere.region("north").url();
    let there = scene.hand(&[&grant], &north)?.env("BRCTL_IDENTITY", &identity);
    let said = there.fails(4, &["--offline", "snapshot", "list"]).await?;
    ensure!(said.contains("north") || said.contains("repository"), "{said}");
    scene.fails(3, &[&identity], &["snapshot", "list"]).await.context("an identity opens nothing by itself")?;

    // Shares of two keys, one twice, and more keys than one.
    let (one, two) = (scene.file("one"), scene.file("two"));
    for (dir, name) in [(&one, "one"), (&two, "two")] {
        let words = ["key", "escrow", "--name", name, "--shares", "3", "--threshold", "2", "--out", dir];
        scene.ok(&[&restore], &words).await?;
    }
    let (first, other) = (format!("{one}/share-1.json"), format!("{two}/share-2.json"));
    let said = scene.fails(2, &[&first, &other], &["snapshot", "list"]).await?;
    ensure!(said.contains(&first) && said.contains(&other) && said.contains("different keys"), "{said}");
    let said = scene.fails(2, &[&first, &first], &["snapshot", "list"]).await?;
    ensure!(said.contains("the same share"), "{said}");
    let said = scene.fails(2, &[&first, &restore], &["snapshot", "list"]).await?;
    ensure!(said.contains(&restore), "what is no share is named: {said}");
    scene.fails(2, &[&restore, &first], &["snapshot", "list"]).await?;

    // What others can read is not taken, and a wrong passphrase is that.
    let words = private(&scene.file("words"), "plinth ocarina drizzle vetch")?;
    let short = private(&scene.file("short"), "abc")?;
    let said = scene.fails(2, &[&restore], &["key", "add", "--name", "short", "--passphrase-file", &short]).await?;
    ensure!(said.contains("shorter"), "{said}");
    scene.ok(&[&restore], &["key", "add", "--name", "by-words", "--passphrase-file", &words]).await?;
    let wrong = private(&scene.file("wrong"), "plinth ocarina drizzle wrong")?;
    let scene = scene.with_env("BRCTL_PASSPHRASE_FILE", &wrong);
    scene.fails(3, &["passphrase"], &["snapshot", "list"]).await?;
    let scene = scene.with_env("BRCTL_PASSPHRASE_FILE", &words);
    scene.ok(&["passphrase"], &["snapshot", "list"]).await?;
    for file in [&words, &first, &identity] {
        keyring::open_to_others(file)?;
    }
    let said = scene.fails(3, &["passphrase"], &["snapshot", "list"]).await?;
    ensure!(said.contains(&words) && said.contains("chmod 600"), "{said}");
    scene.fails(3, &[&restore], &["key", "add", "--name", "more", "--passphrase-file", &words]).await?;
    scene.fails(3, &[&first, &format!("{one}/share-2.json")], &["snapshot", "list"]).await?;
    let said = scene.with_env("BRCTL_IDENTITY", &identity).fails(3, &[&grant], &["snapshot", "list"]).await?;
    ensure!(said.contains(&identity), "{said}");
    Ok(())
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
