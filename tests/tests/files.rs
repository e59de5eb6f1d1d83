//! File trees, with the programs as people run them: a backup of everything that a tree can hold, a second one that reads only
//! what changed, a restore that puts it all back, and what people can ask about it.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use breakwater_testkit::tree::tree_hash;
use breakwater_tests::brctl::{number, rows, text};
use breakwater_tests::fleet::AGENT;
use breakwater_tests::source::plan_yaml;
use breakwater_tests::{Brctl, Fleet};
use serde_json::Value;

/// Files of the tree besides the special ones, and bytes of each.
const FILES: usize = 400;
const SIZE: usize = 20_000;

fn files_yaml(name: &str, section: &str) -> String {
    format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: {name}}}\nspec:\n  agent: {AGENT}\n  files: {section}\n"
    )
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Bytes that do not compress, other ones for each seed.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ ((seed as u64) << 20);
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| byte()).collect()
}

fn file(root: &Path, number: usize) -> PathBuf {
    root.join(format!("d{:02}/f{number:04}", number % 20))
}

/// A tree with every kind of entry.
fn make_tree(root: &Path) -> Result<()> {
    for number in 0..FILES {
        let path = file(root, number);
        std::fs::create_dir_all(path.parent().context("it lies in a directory")?)?;
        std::fs::write(&path, noise(number, SIZE))?;
    }
    std::fs::create_dir_all(root.join("a/empty"))?;
    std::fs::create_dir(root.join("a-b"))?;
    std::fs::write(root.join("a/one"), "one")?;
    std::fs::write(root.join("a-b/two"), "two")?;
    std::fs::set_permissions(root.join("a/one"), std::fs::Permissions::from_mode(0o4711))?;
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"not \xFF text")), "bytes")?;
    std::fs::write(root.join("large"), noise(FILES, 3_000_000))?;
    std::fs::write(root.join("nothing"), "")?;
    std::fs::hard_link(root.join("a-b/two"), root.join("z-two"))?;
    std::os::unix::fs::symlink("a/one", root.join("link"))?;
    std::os::unix::fs::symlink("/nowhere/at/all", root.join("dangling"))?;
    let sparse = std::fs::File::create(root.join("sparse"))?;
    sparse.write_all_at(&[7; 4096], 8 << 20)?;
    sparse.set_len(16 << 20)?;
    drop(std::os::unix::net::UnixListener::bind(root.join("socket"))?);
    let fifo = std::process::Command::new("mkfifo").args(["-m", "0620"]).arg(root.join("pipe")).status()?;
    ensure!(fifo.success(), "mkfifo");
    std::fs::create_dir_all(root.join("logs"))?;
    std::fs::write(root.join("logs/app.log"), "left out")?;
    std::fs::write(root.join("a/build.iso"), "left out")?;
    // As `rename` leaves a file, and with a time that is not that of the copy.
    let old = std::fs::File::options().write(true).open(root.join("a/one"))?;
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 123_456_789))?;
    Ok(())
}

/// Waits until the clock of the file system has moved on, so that the next backup may trust what is there.
fn let_the_clock_tick(directory: &Path) -> Result<()> {
    let probe = directory.join("tick");
    std::fs::write(&probe, "")?;
    let first = std::fs::metadata(&probe)?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        std::fs::write(&probe, "x")?;
        let now = std::fs::metadata(&probe)?;
        if (now.ctime(), now.ctime_nsec()) > (first.ctime(), first.ctime_nsec()) {
            return std::fs::remove_file(&probe).context("remove the probe");
        }
        ensure!(std::time::Instant::now() < deadline, "the clock of the file system stands still");
    }
}

/// The figures of the snapshot that a job made.
async fn snapshot_of(brctl: &Brctl, job: &Value) -> Result<Value> {
    brctl.json(&["snapshot", "show", text(job, "snapshot_id")?]).await
}

#[tokio::test]
async fn a_tree_is_backed_up_changed_backed_up_again_and_restored_as_it_was() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    let brctl = fleet.brctl().clone();
    let root = fleet.home().join("docs");
    make_tree(&root)?;
    let_the_clock_tick(fleet.home())?;
    let section = format!("{{paths: [\"{}\"], exclude: [\"*.iso\"]}}", shown(&root));
    fleet.apply(&files_yaml("docs", &section)).await?;
    fleet.apply(&plan_yaml("docs-plan", &["docs"])).await?;
    let check = brctl.json(&["source", "check", "docs"]).await?;
    ensure!(check["ready"] == true, "{check:#}");

    let first = snapshot_of(&brctl, &fleet.backup("docs-plan").await?).await?;
    let read = number(&first, "read_bytes")?;
    let content = i64::try_from(FILES * SIZE + 3_000_000)?;
    ensure!(read >= content, "everything is read: {read} of {content}");
    let excluded = first["facts"]["excluded"].as_array().context("a report of what was left out")?.clone();
    let rules: Vec<&str> = excluded.iter().filter_map(|count| count["reason"].as_str()).collect();
    ensure!(rules.contains(&"`*.iso` (exclude, line 1)") && rules.contains(&"`logs/` (defaults, line 5)"), "{rules:?}");
    let before = fleet.home().join("before");
    copy(&root, &before)?;

    // One file in a hundred changes.
    for number in (0..FILES).step_by(100) {
        std::fs::write(file(&root, number), noise(7000 + number, SIZE))?;
    }
    let second = snapshot_of(&brctl, &fleet.backup("docs-plan").await?).await?;
    let read = number(&second, "read_bytes")?;
    let changed = i64::try_from(FILES / 100 * SIZE)?;
    ensure!(
        (changed..content / 20).contains(&read),
        "only what changed is read: {read} of {content}, {changed} changed"
    );

    let new = number(&second, "new_bytes")?;
    ensure!((changed..content / 20).contains(&new), "only what changed is stored: {new}, {changed} changed");

    // Both come back, each as it was.
    for (snapshot, tree) in [(&first, &before), (&second, &root)] {
        let id = text(snapshot, "id")?;
        let target = fleet.target(&format!("of-{id}"));
        fleet.restore("docs", &["--snapshot", id], &target).await?;
        for left_out in ["logs", "a/build.iso"] {
            ensure!(target.join("docs").join(left_out).symlink_metadata().is_err(), "{left_out} was left out");
        }
        let expected = fleet.home().join(format!("expected-{id}"));
        copy(tree, &expected)?;
        std::fs::remove_dir_all(expected.join("logs"))?;
        std::fs::remove_file(expected.join("a/build.iso"))?;
        ensure!(tree_hash(&target.join("docs"))? == tree_hash(&expected)?, "the tree of {id} is as it was");
    }
    let target = fleet.target(&format!("of-{}", text(&second, "id")?)).join("docs");
    metadata_is_back(&root, &target)?;

    asked_by_people(&fleet, &brctl, &root, [text(&first, "id")?, text(&second, "id")?]).await?;

    fleet.agent().stop().await
}

/// Copies a tree with everything in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().context("run cp")?;
    ensure!(status.success(), "cp -a {} {}", from.display(), to.display());
    Ok(())
}

/// What a comparison of names and contents does not see.
fn metadata_is_back(root: &Path, target: &Path) -> Result<()> {
    let look = |tree: &Path, path: &str| tree.join(path).symlink_metadata().with_context(|| path.to_owned());
    for path in ["a/one", "a-b/two", "d03/f0003", "large", "sparse", "pipe", "a", "a/empty", "link"] {
        let (then, now) = (look(root, path)?, look(target, path)?);
        ensure!(then.mode() == now.mode(), "mode of {path}: {:o}, {:o}", then.mode(), now.mode());
        ensure!((then.uid(), then.gid()) == (now.uid(), now.gid()), "owner of {path}");
        ensure!(
            (then.mtime(), then.mtime_nsec()) == (now.mtime(), now.mtime_nsec()),
            "time of {path}: {}.{:09}, {}.{:09}",
            then.mtime(),
            then.mtime_nsec(),
            now.mtime(),
            now.mtime_nsec()
        );
    }
    ensure!(look(target, "pipe")?.file_type().is_fifo() && look(target, "socket")?.file_type().is_socket());
    ensure!(look(target, "a-b/two")?.ino() == look(target, "z-two")?.ino(), "one file with two names");
    let sparse = look(target, "sparse")?;
    ensure!(sparse.blocks() * 512 < 1 << 20, "holes are holes: {} blocks", sparse.blocks());
    Ok(())
}

async fn asked_by_people(fleet: &Fleet, brctl: &Brctl, root: &Path, ids: [&str; 2]) -> Result<()> {
    let [first, second] = ids;
    let offline = Brctl::alone()?
        .env("BRCTL_REPOSITORY", &fleet.region("east").url())
        .env("BRCTL_KEY", &shown(&fleet.key("writer")));
    for (brctl, global) in [(brctl, None), (&offline, Some("--offline"))] {
        let ask = async |words: &[&str]| brctl.json(&[global.as_slice(), words].concat()).await;
        let files = ask(&["snapshot", "files", second, "docs/a*"]).await?;
        let paths: Vec<&str> = rows(&files, "entries")?.iter().filter_map(|entry| entry["path"].as_str()).collect();
        ensure!(paths == ["docs/a", "docs/a-b", "docs/a-b/two", "docs/a/empty", "docs/a/one"], "{paths:?}");
        let one = &rows(&files, "entries")?[4];
        ensure!(one["mode"] == "4711" && one["size"] == 3 && one["mtime"] == "2020-09-13T12:26:40.123456Z", "{one:#}");

        // In pages, all of it.
        let (mut seen, mut after) = (0, String::new());
        loop {
            let page = ask(&["snapshot", "files", second, "--limit", "150", "--after", &after]).await?;
            let entries = rows(&page, "entries")?;
            ensure!(entries.len() <= 150);
            seen += entries.len();
            match entries.last() {
                Some(last) => text(last, "path")?.clone_into(&mut after),
                None => break,
            }
        }
        let expected = usize::try_from(number(&brctl_show(brctl, global, second).await?, "files")?)?;
        ensure!(seen > expected, "{expected} files and the rest: {seen}");

        let versions = ask(&["snapshot", "versions", "--source", "docs", "docs/d00/f0100"]).await?;
        let changes: Vec<(&str, &str)> = rows(&versions, "versions")?
            .iter()
            .filter_map(|version| Some((version["snapshot"].as_str()?, version["change"].as_str()?)))
            .collect();
        ensure!(changes == [(second, "content"), (first, "new")], "{changes:?}");
        let versions = ask(&["snapshot", "versions", "--source", "docs", "docs/d01/f0001"]).await?;
        ensure!(rows(&versions, "versions")?.len() == 1, "a file that did not change has one version: {versions:#}");
        let words = [global.as_slice(), &["snapshot", "versions", "--source", "docs", "docs/none"]].concat();
        let said = brctl.fails(6, &words).await?;
        ensure!(said.contains("docs/none"), "{said}");
    }

    let explained = brctl.json(&["source", "explain", "docs", &shown(&root.join("logs/app.log"))]).await?;
    ensure!(explained["included"] == false && explained["decided_at"] == "docs/logs", "{explained:#}");
    ensure!(explained["file"] == "defaults" && explained["line"] == 5, "{explained:#}");
    let explained = brctl.ok(&["source", "explain", "docs", "docs/a/build.iso", "-o", "table"]).await?;
    ensure!(explained.contains("is left out: `*.iso` (exclude, line 1)"), "{explained}");
    let explained = brctl.json(&["source", "explain", "docs", "docs/a/one"]).await?;
    ensure!(explained["included"] == true, "{explained:#}");
    let said = brctl.fails(6, &["source", "explain", "docs", "/etc/passwd"]).await?;
    ensure!(said.contains("/etc/passwd") && said.contains("docs"), "{said}");
    Ok(())
}

async fn brctl_show(brctl: &Brctl, global: Option<&str>, id: &str) -> Result<Value> {
    brctl.json(&[global.as_slice(), &["snapshot", "show", id]].concat()).await
}

#[tokio::test]
async fn sources_that_must_not_be_backed_up_are_refused_by_name() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    let brctl = fleet.brctl().clone();
    std::fs::write(fleet.home().join("a-file"), "x")?;
    let places = [
        ("missing", fleet.home().join("no-such-directory"), "cannot find the directory"),
        ("a-file", fleet.home().join("a-file"), "not a directory"),
        ("keys-of-the-agent", fleet.agent_dir(AGENT).join("keys"), "belongs to this agent"),
        ("a-region", fleet.home().join("regions/east"), "lies in a region of a repository"),
    ];
    for (name, path, expected) in places {
        fleet.apply(&files_yaml(name, &format!("{{paths: [\"{}\"]}}", shown(&path)))).await?;
        fleet.apply(&plan_yaml(&format!("{name}-plan"), &[name])).await?;
        let said = brctl.fails(4, &["source", "check", name]).await?;
        ensure!(said.contains(expected), "{name}: {said}");
        let said = brctl.run(&["backup", "run", name, "--wait"]).await?;
        ensure!(!said.status.success() && said.stderr.contains(expected), "{name}: {said}");
    }
    for (section, expected) in [
        ("{paths: [docs]}", "not an absolute path"),
        ("{paths: [/a/x, /b/x]}", "shown as `x`"),
        ("{paths: []}", "paths"),
    ] {
        let file = fleet.home().join("bad.yaml");
        std::fs::write(&file, files_yaml("bad", section))?;
        let said = brctl.fails(2, &["apply", "-f", &shown(&file)]).await?;
        ensure!(said.contains(expected), "{section}: {said}");
    }
    fleet.agent().stop().await
}
