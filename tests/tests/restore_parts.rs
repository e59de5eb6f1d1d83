//! Parts of a file tree brought back, a restore onto a damaged copy, and one that goes on where a killed agent left it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::wait;
use breakwater_tests::Fleet;
use breakwater_tests::brctl::number;
use breakwater_tests::fleet::AGENT;
use serde_json::Value;

/// Files of 1 MiB of random bytes, so that a restore takes long enough to be killed.
const LARGE: u64 = 160;
const SMALL: u64 = 400;

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn plant(root: &Path) -> Result<()> {
    for directory in ["large", "small/deep"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    for n in 0..LARGE {
        std::fs::write(root.join(format!("large/{n:03}")), noise(n + 1, 1 << 20))?;
    }
    for n in 0..SMALL {
        std::fs::write(root.join(format!("small/deep/{n:04}")), noise(n + 1000, 700))?;
    }
    std::fs::hard_link(root.join("large/000"), root.join("small/name"))?;
    std::os::unix::fs::symlink("../large/001", root.join("small/link"))?;
    Ok(())
}

/// That both trees hold the same names with the same content.
fn same(one: &Path, other: &Path) -> Result<()> {
    let names = |root: &Path| -> Result<Vec<_>> {
        let entries = std::fs::read_dir(root).with_context(|| root.display().to_string())?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let (left, right) = (names(one)?, names(other)?);
    ensure!(left == right, "{} and {}: {left:?} and {right:?}", one.display(), other.display());
    for name in left {
        let (a, b) = (one.join(&name), other.join(&name));
        let (x, y) = (std::fs::symlink_metadata(&a)?, std::fs::symlink_metadata(&b)?);
        ensure!((x.mode(), x.mtime(), x.mtime_nsec()) == (y.mode(), y.mtime(), y.mtime_nsec()), "{}", b.display());
        if x.is_dir() {
            same(&a, &b)?;
        } else if x.is_symlink() {
            ensure!(std::fs::read_link(&a)? == std::fs::read_link(&b)?, "{}", b.display());
        } else {
            ensure!(std::fs::read(&a)? == std::fs::read(&b)?, "{} differs", b.display());
        }
    }
    Ok(())
}

fn summary(job: &Value) -> &Value {
    &job["summary"]
}

#[tokio::test]
async fn parts_copies_and_interrupted_restores() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    let source = fleet.home().join("docs");
    plant(&source)?;
    let root = source.display();
    fleet
        .apply(&format!(
            "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: docs}}\nspec: {{agent: {AGENT}, files: {{paths: \
             [\"{root}\"], defaults: false}}}}\n---\napiVersion: breakwater/v1\nkind: Plan\nmetadata: {{name: docs-plan}}\nspec: {{repository: main, \
             sources: [docs]}}\n"
        ))
        .await?;
    fleet.backup("docs-plan").await?;

    // A part.
    let part = fleet.target("part");
    fleet.restore("docs", &["--latest", "--only", "docs/small"], &part).await?;
    ensure!(!part.join("docs/large").exists(), "only what was chosen");
    same(&source.join("small"), &part.join("docs/small"))?;

    // Killed in the middle, then continued.
    let target = fleet.target("whole");
    let shown = target.display().to_string();
    let words = ["restore", "run", "--source", "docs", "--target", &shown, "--latest", "--parallel", "1"];
    fleet.brctl().ok(&words).await?;
    let some = async || {
        let laid = std::fs::read_dir(target.join("docs/large")).map_or(0, Iterator::count);
        (laid > 3).then_some(laid)
    };
    let laid = wait::until("some files of the restore", Duration::from_secs(60), some).await;
    fleet.agent().kill9().await?;
    ensure!(laid < usize::try_from(LARGE)?, "it was not over: {laid}");
    ensure!(target.join("RESTORE-IS-INCOMPLETE").exists(), "what it left says so");
    for entry in std::fs::read_dir(target.join("docs/large"))? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') {
            let whole = std::fs::read(entry.path())? == std::fs::read(source.join("large").join(&name))?;
            ensure!(whole, "{} has its name and is not whole", entry.path().display());
        }
    }
    fleet.agent().start()?;
    fleet.agent_is(AGENT, "connected").await;
    let over = |job: &Value| ["succeeded", "failed", "cancelled"].iter().any(|word| job["state"] == *word);
    let ended = async || fleet.last_job("docs").await.is_ok_and(|job| over(&job));
    wait::until_true("the killed restore to be over", Duration::from_secs(120), ended).await;
    if target.join("RESTORE-IS-INCOMPLETE").exists() {
        fleet.brctl().fails(4, &[&words[..], &["--wait"]].concat()).await?;
        let job = fleet.restore("docs", &["--latest", "--resume"], &target).await?;
        let (fetched, kept) = (number(summary(&job), "bytes_fetched")?, number(summary(&job), "bytes_kept")?);
        ensure!(kept >= 3 << 20, "what was there was kept: {kept}");
        ensure!(fetched + kept < i64::try_from((LARGE + 16) << 20)?, "and not fetched again: {fetched} and {kept}");
    }
    same(&source, &target.join("docs"))?;
    ensure!(!target.join("RESTORE-IS-INCOMPLETE").exists(), "the mark is gone");

    // Damaged, and mended by what differs.
    let mut damaged = std::fs::read(target.join("docs/large/007"))?;
    damaged[500_000] ^= 1;
    std::fs::write(target.join("docs/large/007"), damaged)?;
    std::fs::remove_file(target.join("docs/small/deep/0003"))?;
    std::fs::write(target.join("docs/foreign"), "mine")?;
    let preview = fleet
        .brctl()
        .json(&["restore", "run", "--source", "docs", "--target", &shown, "--latest", "--delta", "--preview"])
        .await?;
    let expected = number(&preview["delta"], "bytes_fetched")?;
    ensure!(expected > 0 && expected < 6 << 20, "{preview:#}");
    let job = fleet.restore("docs", &["--latest", "--delta"], &target).await?;
    ensure!(number(summary(&job), "bytes_fetched")? < 8 << 20, "{:#}", summary(&job));
    ensure!(std::fs::read(target.join("docs/foreign"))? == b"mine", "what the snapshot does not have is left alone");
    fleet.restore("docs", &["--latest", "--delta", "--delete-extra"], &target).await?;
    same(&source, &target.join("docs"))
}
