//! The same tree of files, with the same changes, backed up, restored and checked by us, by restic and by rustic, one after
//! the other in one run. Each step is a process of its own, so that time, processor time and memory are measured alike.
//!
//! A ratio is the better peer's figure divided by ours: 2.0 means twice as fast, or half as large.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use breakwater_benches::files::Files;
use breakwater_benches::lines::{self, Shape};
use breakwater_benches::measure::children_cpu_time;
use clap::{Parser, Subcommand};
use serde_json::{Map, Value, json};

/// Both backups must be so many times as fast as the faster peer's.
const BACKUP_BAR: f64 = 2.0;

/// So must the restore.
const RESTORE_BAR: f64 = 1.3;

/// What is stored must not be larger than the smaller peer's.
const SIZE_BAR: f64 = 1.0;

/// Compares us with restic and rustic on a tree of files.
#[derive(Debug, Parser)]
struct Arguments {
    /// A tenth of the files, to see that it works.
    #[arg(long)]
    small: bool,
    /// Where everything lies; a directory on a disk, not in memory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Only us, for a profiler.
    #[arg(long)]
    alone: bool,
    #[command(subcommand)]
    step: Option<Step>,
}

/// One step of ours, in a process of its own.
#[derive(Debug, Subcommand)]
enum Step {
    Create { home: PathBuf },
    Backup { home: PathBuf, tree: PathBuf },
    Restore { home: PathBuf, target: PathBuf },
    Check { home: PathBuf },
}

/// What a process took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    /// MiB.
    peak: f64,
}

/// What one of the three needed.
#[derive(Debug)]
struct Figures {
    name: &'static str,
    first: Cost,
    second: Cost,
    restore: Cost,
    check: Cost,
    stored: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(step) = arguments.step {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(async {
            match step {
                Step::Create { home } => Files::new(&home).create().await,
                Step::Backup { home, tree } => Files::new(&home).backup(&tree).await,
                Step::Restore { home, target } => Files::new(&home).restore(&target).await,
                Step::Check { home } => Files::new(&home).check().await,
            }
        });
    }
    let place = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new().prefix("breakwater-bench-").tempdir_in(place)?;
    let shape = match arguments.small {
        true => Shape { small: 10_000, large: 2, large_bytes: 16 << 20 },
        false => Shape { small: 100_000, large: 4, large_bytes: 64 << 20 },
    };
    let contestants = contestants(place.path(), arguments.alone)?;
    let tree = place.path().join("tree");
    let bytes = lines::make(&tree, shape)?;
    eprintln!(
        "{} files of 1 to 20 KiB, {} of {} MiB: {} MiB",
        shape.small,
        shape.large,
        shape.large_bytes >> 20,
        bytes >> 20
    );
    settle()?;
    floor(place.path())?;

    let mut costs: Vec<(Vec<Cost>, u64)> = Vec::new();
    for one in &contestants {
        settle()?;
        one.run(&one.create)?;
        costs.push((vec![one.run(&one.backup)?], 0));
    }
    lines::change(&tree, shape)?;
    // Who trusts time stamps must be able to: the changes are not of this moment.
    std::thread::sleep(Duration::from_millis(1100));
    for (one, (costs, stored)) in contestants.iter().zip(&mut costs) {
        settle()?;
        costs.push(one.run(&one.backup)?);
        *stored = size_of(&one.repository)?;
    }
    for (one, (costs, _)) in contestants.iter().zip(&mut costs) {
        settle()?;
        costs.push(one.run(&one.restore)?);
        same(&tree, &one.restored).with_context(|| format!("what {} restored", one.name))?;
        std::fs::remove_dir_all(&one.target)?;
        costs.push(one.run(&one.check)?);
    }
    let figures = |(one, (costs, stored)): (&Contestant, &(Vec<Cost>, u64))| match costs[..] {
        [first, second, restore, check] => {
            Ok(Figures { name: one.name, first, second, restore, check, stored: *stored })
        }
        _ => anyhow::bail!("a step is missing"),
    };
    let all: Vec<Figures> = contestants.iter().zip(&costs).map(figures).collect::<Result<_>>()?;
    report(&all, bytes)
}

/// One of those who are compared.
struct Contestant {
    name: &'static str,
    create: Vec<String>,
    backup: Vec<String>,
    restore: Vec<String>,
    check: Vec<String>,
    environment: Vec<(&'static str, String)>,
    repository: PathBuf,
    target: PathBuf,
    /// Where the tree is in the target.
    restored: PathBuf,
    home: PathBuf,
}

fn words(program: &str, arguments: &[&str]) -> Vec<String> {
    std::iter::once(&program).chain(arguments).map(|word| (*word).to_owned()).collect()
}

fn contestants(place: &Path, alone: bool) -> Result<Vec<Contestant>> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let tree = text(place.join("tree"));
    let (home, target) = (place.join("ours"), place.join("ours-target"));
    let me = text(std::env::current_exe()?);
    let (home_text, target_text) = (text(home.clone()), text(target.clone()));
    let mut all = vec![Contestant {
        name: "breakwater",
        create: words(&me, &["create", &home_text]),
        backup: words(&me, &["backup", &home_text, &tree]),
        restore: words(&me, &["restore", &home_text, &target_text]),
        check: words(&me, &["check", &home_text]),
        environment: Vec::new(),
        repository: home.join("region"),
        restored: target.join("tree"),
        target,
        home,
    }];
    if alone {
        return Ok(all);
    }
    let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install-peers");
    let installed =
        Command::new(&installer).stderr(Stdio::inherit()).output().context("running benches/install-peers")?;
    anyhow::ensure!(installed.status.success(), "benches/install-peers failed");
    let installed = String::from_utf8(installed.stdout)?;
    for (name, program) in ["restic", "rustic"].into_iter().zip(installed.lines()) {
        let (home, target) = (place.join(name), place.join(format!("{name}-target")));
        std::fs::create_dir_all(&home)?;
        let repository = home.join("repository");
        let target_text = text(target.clone());
        let restore = match name {
            "restic" => words(program, &["restore", "latest", "--target", &target_text]),
            _ => words(program, &["restore", "latest", &target_text]),
        };
        let upper = |suffix: &str| -> &'static str {
            match (name, suffix) {
                ("restic", "REPOSITORY") => "RESTIC_REPOSITORY",
                ("restic", "PASSWORD") => "RESTIC_PASSWORD",
                ("restic", _) => "RESTIC_CACHE_DIR",
                (_, "REPOSITORY") => "RUSTIC_REPOSITORY",
                (_, "PASSWORD") => "RUSTIC_PASSWORD",
                _ => "RUSTIC_CACHE_DIR",
            }
        };
        all.push(Contestant {
            name,
            create: words(program, &["init"]),
            backup: words(program, &["backup", &tree]),
            restore,
            check: words(program, &["check"]),
            environment: vec![
                (upper("REPOSITORY"), text(repository.clone())),
                (upper("PASSWORD"), "secret".to_owned()),
                (upper("CACHE"), text(home.join("cache"))),
                ("HOME", text(home.clone())),
            ],
            repository,
            restored: target.join(tree.trim_start_matches('/')),
            target,
            home,
        });
    }
    Ok(all)
}

impl Contestant {
    fn run(&self, command: &[String]) -> Result<Cost> {
        let [program, arguments @ ..] = command else { anyhow::bail!("an empty command") };
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (*name, value)));
        let log = std::fs::File::create(self.home.with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let (cpu, begun) = (children_cpu_time(), Instant::now());
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        let mut peak = 0;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            peak = peak.max(peak_of(child.id()));
            std::thread::sleep(Duration::from_millis(3));
        };
        let (wall, cpu) = (begun.elapsed(), children_cpu_time().saturating_sub(cpu));
        let said = std::fs::read_to_string(self.home.with_extension("log")).unwrap_or_default();
        anyhow::ensure!(status.success(), "{} {arguments:?} failed: {said}", self.name);
        #[expect(clippy::cast_precision_loss, reason = "a figure")]
        let peak = peak as f64 / 1024.0;
        eprintln!(
            "{:>11} {:<8} {:>7.2} s wall {:>7.2} s cpu {peak:>6.0} MiB",
            self.name,
            arguments.first().map_or("", String::as_str),
            wall.as_secs_f64(),
            cpu.as_secs_f64()
        );
        Ok(Cost { wall, cpu, peak })
    }
}

/// The most memory that a process has had resident, in KiB.
fn peak_of(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What reading and compressing alone takes.
fn floor(place: &Path) -> Result<()> {
    let begun = Instant::now();
    let status = Command::new("sh")
        .args(["-c", "tar -cf - tree | zstd -q -3 -T2 -o tree.tar.zst && sync tree.tar.zst"])
        .current_dir(place)
        .status()?;
    anyhow::ensure!(status.success(), "tar | zstd failed (hint: install zstd)");
    let archive = place.join("tree.tar.zst");
    let bytes = std::fs::metadata(&archive)?.len();
    eprintln!("tar | zstd -3 -T2, the floor: {:.2} s, {} MiB", begun.elapsed().as_secs_f64(), bytes >> 20);
    std::fs::remove_file(archive)?;
    Ok(())
}

fn settle() -> Result<()> {
    anyhow::ensure!(Command::new("sync").status().context("running sync")?.success(), "sync failed");
    Ok(())
}

fn size_of(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { size_of(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}

fn same(tree: &Path, restored: &Path) -> Result<()> {
    let status = Command::new("diff").arg("-r").arg("-q").arg(tree).arg(restored).status()?;
    anyhow::ensure!(status.success(), "differs from the tree");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures")]
fn report(all: &[Figures], bytes: u64) -> Result<()> {
    let (mut ratios, mut figures) = (Map::new(), Map::new());
    for one in all {
        for (step, cost) in
            [("backup_first", one.first), ("backup_second", one.second), ("restore", one.restore), ("check", one.check)]
        {
            figures.insert(format!("{}.{step}_s", one.name), rounded(cost.wall.as_secs_f64()));
            figures.insert(format!("{}.{step}_cpu_s", one.name), rounded(cost.cpu.as_secs_f64()));
            figures.insert(format!("{}.{step}_peak_mib", one.name), rounded(cost.peak));
        }
        figures.insert(format!("{}.stored_mib", one.name), rounded(one.stored as f64 / f64::from(1 << 20)));
    }
    figures.insert("tree_mib".to_owned(), rounded(bytes as f64 / f64::from(1 << 20)));
    let Some((ours, peers)) = all.split_first().filter(|(_, peers)| !peers.is_empty()) else { return Ok(()) };
    let mut holds = true;
    let mut ratio = |name: &str, bar: f64, of: &dyn Fn(&Figures) -> f64| {
        let best = peers.iter().map(of).fold(f64::INFINITY, f64::min);
        let ratio = best / of(ours).max(1e-9);
        eprintln!("{name:<22} {ratio:>6.2} times the better peer (bar {bar})");
        holds &= bar <= 0.0 || ratio >= bar;
        (name.to_owned(), rounded(ratio))
    };
    ratios.extend([
        ratio("backup_first", BACKUP_BAR, &|one| one.first.wall.as_secs_f64()),
        ratio("backup_second", BACKUP_BAR, &|one| one.second.wall.as_secs_f64()),
        ratio("restore", RESTORE_BAR, &|one| one.restore.wall.as_secs_f64()),
        ratio("stored_size", SIZE_BAR, &|one| one.stored as f64),
    ]);
    for (name, ratio) in [
        ratio("backup_first_by_cpu", 0.0, &|one| one.first.cpu.as_secs_f64()),
        ratio("backup_second_by_cpu", 0.0, &|one| one.second.cpu.as_secs_f64()),
        ratio("restore_by_cpu", 0.0, &|one| one.restore.cpu.as_secs_f64()),
    ] {
        figures.insert(name, ratio);
    }
    println!("{}", json!({"bench": "files-vs-peers", "ratios": ratios, "figures": figures, "holds": holds}));
    Ok(())
}

fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}
