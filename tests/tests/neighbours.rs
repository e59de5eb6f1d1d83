//! What two hosts have in common is stored once, with the programs as people run them: a restorer vouches for the first source's
//! snapshot, the second source stores next to nothing, and restores from each region alone when the first is gone.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use breakwater_testkit::tree::tree_hash;
use breakwater_tests::brctl::{number, text};
use breakwater_tests::fleet::{AGENT, only_job};
use breakwater_tests::source::plan_yaml;
use breakwater_tests::{Brctl, Fleet};

/// The agent of the second source.
const SECOND: &str = "db-2";
/// Bytes that both have.
const SIZE: usize = 12_000_000;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
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

fn source_yaml(name: &str, agent: &str, root: &Path) -> String {
    format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: {name}}}\nspec:\n  agent: {agent}\n  files: {{paths: [\"{}\"]}}\n",
        root.display()
    )
}

#[tokio::test]
async fn the_second_of_two_equal_hosts_stores_next_to_nothing() -> Result<()> {
    let mut fleet = Fleet::builder().commit(2).verified_chunks().start().await?;
    fleet.add_agent(SECOND).await?;
    let brctl = fleet.brctl().clone();
    for (name, agent) in [("one", AGENT), ("two", SECOND)] {
        let root = fleet.home().join(name).join("docs");
        std::fs::create_dir_all(&root)?;
        std::fs::write(root.join("large"), noise(SIZE))?;
        std::fs::write(root.join("own"), name)?;
        fleet.apply(&source_yaml(name, agent, &root)).await?;
        fleet.apply(&plan_yaml(&format!("plan-{name}"), &[name])).await?;
    }

    let first = text(&fleet.backup("plan-one").await?, "snapshot_id")?.to_owned();
    let words = ["snapshot", "verify", &first, "--vouch", "--wait"];
    let seen = only_job(&brctl.json(&words).await?)?["summary"].clone();
    ensure!(number(&seen["vouched"], "packs")? > 0 && number(&seen["vouched"], "left_out")? == 0, "{seen:#}");

    let second = text(&fleet.backup("plan-two").await?, "snapshot_id")?.to_owned();
    let shown = brctl.json(&["snapshot", "show", &second]).await?;
    ensure!(number(&shown, "new_bytes")? < 1000, "what the first has is stored again: {shown:#}");

    brctl.ok(&["snapshot", "delete", &first, &format!("--yes={first}"), "--wait"]).await?;
    let swept = only_job(&brctl.json(&["repository", "gc", "main", "--wait"]).await?)?["summary"].clone();
    let leaned_on = swept["sources"].as_array().is_some_and(|sources| {
        sources.iter().any(|source| {
            source["source"] == "one" && source["leaned_on_by"].as_array().is_some_and(|by| by.len() == 1)
        })
    });
    ensure!(leaned_on, "{swept:#}");

    let expected = tree_hash(&fleet.home().join("two").join("docs"))?;
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/breakwater_reader.py");
    for region in ["east", "west"] {
        let place = format!("{region}={}", fleet.region(region).url());
        let recovery = fleet.key("recovery").display().to_string();
        let alone = Brctl::alone()?.env("BRCTL_REPOSITORY", &place).env("BRCTL_KEY", &recovery);
        alone.ok(&["--offline", "repository", "check", "--read-data"]).await?;
        let target = fleet.target(region);
        let shown = target.display().to_string();
        let words = ["--offline", "restore", "run", "--source", "two", "--snapshot", &second, "--target", &shown];
        alone.ok(&words).await?;
        ensure!(tree_hash(&target.join("docs"))? == expected, "{region}: another tree");

        // From the document alone as well.
        let read = fleet.target(&format!("{region}-read"));
        let mut python = Command::new("/usr/bin/python3");
        let python =
            python.arg(&reader).arg(fleet.region(region).dir()).arg(&recovery).arg("restore").arg(&second).arg(&read);
        let said = python.output()?;
        ensure!(said.status.success(), "{region}: {}", String::from_utf8_lossy(&said.stderr));
        ensure!(std::fs::read(read.join("docs/large"))? == noise(SIZE), "{region}: another file");
    }
    Ok(())
}
