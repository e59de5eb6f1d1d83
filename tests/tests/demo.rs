//! The README's first command: the whole story in one process, and nothing left behind.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::process::Program;

/// What the story has to tell, whatever its words are.
const STORY: [&str; 3] = ["restore", "lag", "east"];

async fn tell(engine: &str) -> Result<()> {
    let temporary = temp_dir("demo")?;
    let inside = temporary.path().join("tmp");
    std::fs::create_dir(&inside)?;
    // Its servers run as another user where this is root.
    open_to_all(&inside)?;
    let mut demo =
        Program::brctl()?.args(["demo", "--engine", engine]).env("TMPDIR", &inside).start(&format!("demo {engine}"))?;
    let group = demo.pid();
    let started = Instant::now();
    let status = demo.wait(Duration::from_secs(120)).await?;
    ensure!(status.success(), "{status}");
    let told = format!("{}{}", demo.stdout(), demo.stderr()).to_lowercase();
    for word in STORY.into_iter().chain([engine]) {
        ensure!(told.contains(word), "the story tells of `{word}` ({:?}):\n{told}", started.elapsed());
    }
    ensure!(members(group)?.is_empty(), "processes are left: {:?}", members(group)?);
    let left: Vec<_> =
        std::fs::read_dir(&inside)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    ensure!(left.is_empty(), "files are left: {left:?}");
    ensure!(lives_in(&inside)?.is_empty(), "somebody still works in it: {:?}", lives_in(&inside)?);

    // What is to be kept is kept, and where something is already nothing happens.
    let kept = temporary.path().join("kept");
    std::fs::create_dir(&kept)?;
    std::fs::write(kept.join("letter"), "precious")?;
    let demo = Program::brctl()?.args(["demo", "--engine", engine, "--keep"]).arg(&kept).env("TMPDIR", &inside);
    demo.run().await?.failure(4)?;
    ensure!(std::fs::read_dir(&kept)?.count() == 1, "what was there is untouched");
    Ok(())
}

fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o1777)).context("open a directory to every user")
}

/// The processes of a group.
fn members(group: u32) -> Result<Vec<String>> {
    processes(|dir| {
        let stat = std::fs::read_to_string(dir.join("stat")).unwrap_or_default();
        // After the name in brackets: state, parent, group.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        fields.split_whitespace().nth(2) == Some(&group.to_string())
    })
}

/// The processes that name a directory in their command line.
fn lives_in(place: &Path) -> Result<Vec<String>> {
    let place = place.display().to_string();
    processes(|dir| String::from_utf8_lossy(&std::fs::read(dir.join("cmdline")).unwrap_or_default()).contains(&place))
}

fn processes(wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("list the processes")? {
        let path = entry?.path();
        if path.join("stat").exists() && wanted(&path) {
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn with_sqlite_it_needs_nothing_installed() -> Result<()> {
    tell("sqlite").await
}

#[tokio::test]
async fn with_postgres_it_restores_to_a_moment_in_between() -> Result<()> {
    tell("postgres").await
}
