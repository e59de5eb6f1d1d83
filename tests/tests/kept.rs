//! How a region keeps what it gets: in an archive, from which a restore must thaw it, locked against deletion, and held.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use breakwater_core::{Clock as _, Timestamp};
use breakwater_runtime::SystemClock;
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::moto::Moto;
use breakwater_testkit::tree::tree;
use breakwater_tests::Fleet;
use breakwater_tests::brctl::{moment, number, rows, text};
use breakwater_tests::fleet::AGENT;
use breakwater_tests::source::plan_yaml;
use serde_json::Value;

const BUCKET: &str = "acme-backup";
const MICROS_PER_DAY: i64 = 86_400 * 1_000_000;

/// A region in S3 that is to archive what is restored from, and to lock it.
async fn fleet(s3: &Moto, data: &Path) -> Result<Fleet> {
    s3.create_locking_bucket(BUCKET).await?;
    let url = format!("s3://{BUCKET}/prod?path-style&region=eu-central-1");
    let fleet = Fleet::builder().regions(&["aws"]).remote("aws", &url);
    let fleet = s3.environment().iter().fold(fleet, |fleet, (name, value)| fleet.env(name, value)).start().await?;
    let kept = "tier: archive, lock: {mode: compliance, days: 30}}";
    let repository = fleet.repository_yaml("main", 1).replace("\"}\n", &format!("\", {kept}\n"));
    ensure!(repository.contains(kept), "{repository}");
    fleet.apply(&repository).await?;
    let source = format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: tree}}\nspec: {{agent: {AGENT}, files: {{paths: [{{path: \"{}\", name: \
         data}}]}}}}\n---\n{}",
        data.display(),
        plan_yaml("tree-plan", &["tree"])
    );
    fleet.apply(&source).await?;
    Ok(fleet)
}

fn plant(data: &Path) -> Result<()> {
    for n in 0..40_u32 {
        std::fs::write(data.join(format!("f{n}")), format!("{n}").repeat(20_000))?;
    }
    Ok(())
}

#[tokio::test]
async fn archived_data_is_thawed_when_that_is_asked_for_and_not_before() -> Result<()> {
    let (s3, data) = (Moto::start().await?, temp_dir("data")?);
    plant(data.path())?;
    let fleet = fleet(&s3, data.path()).await?;
    fleet.backup("tree-plan").await?;
    let counted = fleet.brctl().json(&["region", "usage", "main", "--wait"]).await?;
    ensure!(counted.to_string().contains("archive"), "the packs are in the archive: {counted:#}");

    let target = fleet.target("thawed");
    let said = fleet.restore_fails(4, "tree", &["--latest"], &target).await?;
    ensure!(said.contains("must be thawed first") && said.contains("--thaw"), "{said}");
    let shown = target.display().to_string();
    let preview = ["restore", "run", "--source", "tree", "--target", &shown, "--latest", "--preview"];
    let preview = fleet.brctl().json(&preview).await?;
    let archived = find(&preview, "archived").context("what is archived is shown before anything starts")?;
    ensure!(number(archived, "objects")? >= 1 && number(archived, "bytes")? > 1000, "{archived:#}");
    let wait = &rows(archived, "regions")?[0]["expected_wait"];
    ensure!(wait["bulk"]["to_seconds"].as_u64() > wait["fast"]["to_seconds"].as_u64(), "speeds differ: {wait:#}");
    ensure!(!target.exists() || std::fs::read_dir(&target)?.count() == 0, "a preview writes nothing");

    fleet.restore("tree", &["--latest", "--thaw", "fast", "--thaw-days", "2"], &target).await?;
    ensure!(tree(&target.join("data"))? == tree(data.path())?, "it comes back from the archive");
    // What was thawed is readable for a while, so the next restore asks for nothing.
    let again = fleet.target("again");
    fleet.restore("tree", &["--latest"], &again).await?;
    ensure!(tree(&again.join("data"))? == tree(data.path())?, "it comes back once more");
    Ok(())
}

#[tokio::test]
async fn what_is_locked_or_held_stays_and_says_until_when() -> Result<()> {
    let (s3, data) = (Moto::start().await?, temp_dir("data")?);
    plant(data.path())?;
    let fleet = fleet(&s3, data.path()).await?;
    let begun = SystemClock.now();
    let snapshot = text(&fleet.backup("tree-plan").await?, "snapshot_id")?.to_owned();

    let locks = fleet.brctl().json(&["snapshot", "locks", &snapshot, "--wait"]).await?;
    let aws = find(&locks, "regions").and_then(|regions| regions.get(0)).context("the region is shown")?;
    let least = Timestamp::from_micros(begun.as_micros() + 29 * MICROS_PER_DAY);
    ensure!(moment(aws, "locked_until")? > least, "locked for thirty days: {aws:#}");
    ensure!(number(aws, "unlocked")? == 0 && text(aws, "weakest")? == "compliance", "{aws:#}");

    fleet.brctl().ok(&["snapshot", "hold", &snapshot, "--reason", "case 17", "--wait"]).await?;
    let yes = format!("--yes={snapshot}");
    let said = fleet.brctl().fails(4, &["snapshot", "delete", &snapshot, &yes, "--wait"]).await?;
    ensure!(said.contains("case 17"), "the reason is said: {said}");
    fleet.brctl().ok(&["snapshot", "unhold", &snapshot, "--wait"]).await?;

    // It may be deleted now; what it alone needs waits for the end of its lock, and the collection says so.
    fleet.brctl().ok(&["snapshot", "delete", &snapshot, &yes, "--wait"]).await?;
    let collected = fleet.brctl().json(&["repository", "gc", "main", "--wait"]).await?;
    let waiting = find(&collected, "waiting").context("the collection says what waits")?;
    ensure!(number(waiting, "objects")? >= 1, "{collected:#}");
    ensure!(waiting.to_string().contains("locked_until"), "until when is said: {waiting:#}");
    Ok(())
}

/// The first value under `name`, wherever it lies in the answer.
fn find<'a>(answer: &'a Value, name: &str) -> Option<&'a Value> {
    match answer {
        Value::Object(fields) => match fields.get(name) {
            Some(value) if !value.is_null() => Some(value),
            _ => fields.values().find_map(|value| find(value, name)),
        },
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}
