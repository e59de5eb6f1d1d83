//! The data path beside the bare primitives: the same bytes, in one run, with the same rule for fsync on both sides.
//!
//! A ratio is the bare loop's time divided by the pipeline's: 1.0 means that everything around the primitives costs
//! nothing. Each figure is the best of several rounds that alternate between the two sides. Every suite is measured with every
//! kind of content, on one core and on two, each suite in a process of its own that may use so many.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use breakwater_benches::bare::{self, Input};
use breakwater_benches::content::{Random, fill_pages, fill_random};
use breakwater_benches::lines::Shape;
use breakwater_benches::measure::{Cost, best, measure, peak_memory, reset_peak_memory};
use breakwater_benches::ours::{Ours, Reads};
use breakwater_benches::{content, lines};
use breakwater_crypto::Suite;
use clap::Parser;
use serde_json::{Map, Value, json};

/// What every ratio must reach.
const BAR: f64 = 0.85;

/// What the process may have resident, in MiB.
const MEMORY_BAR: f64 = 256.0;

/// Bytes of one input file.
const FILE: usize = 64 << 20;

/// Compares the data path with the bare primitives.
#[derive(Debug, Parser)]
struct Arguments {
    /// Less data and fewer rounds, to see that it works.
    #[arg(long)]
    small: bool,
    /// Where input and output lie; a directory on a disk, not in memory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Rounds of each measurement.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only this kind of content: pages, tree or random.
    #[arg(long)]
    only: Option<String>,
    /// Only this suite: standard, fast or nist.
    #[arg(long)]
    suite: Option<String>,
    /// Measures on the processors that this process may use, and prints figures for the whole; for this program itself.
    #[arg(long, hide = true)]
    part: bool,
    /// For a profiler: one step again and again, and no comparison.
    #[arg(long)]
    step: Option<Step>,
}

/// One side of one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    BareStore,
    Backup,
    BareName,
    Unchanged,
    Again,
    BareBack,
    Restore,
}

/// What is measured of one kind of content.
#[derive(Debug, Default)]
struct Costs {
    bare_store: Vec<Cost>,
    backup: Vec<Cost>,
    bare_name: Vec<Cost>,
    unchanged: Vec<Cost>,
    again: Vec<Cost>,
    bare_back: Vec<Cost>,
    restore: Vec<Cost>,
    bytes: u64,
    stored: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.part || arguments.step.is_some() {
        return part(&arguments);
    }
    let all = std::thread::available_parallelism().map_or(2, usize::from).min(2);
    let (mut ratios, mut figures, mut peak) = (Map::new(), Map::new(), 0.0_f64);
    let suites = [Suite::Standard, Suite::Fast, Suite::Nist].map(|suite| suite.word());
    let chosen = |suite: &&str| arguments.suite.as_deref().is_none_or(|only| only == *suite);
    for (cores, suite) in (1..=all).flat_map(|cores| suites.into_iter().filter(chosen).map(move |suite| (cores, suite)))
    {
        eprintln!("on {cores} core{}:", if cores == 1 { "" } else { "s" });
        let mut command = Command::new("taskset");
        command.args(["-c", &format!("0-{}", cores - 1)]).arg(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).arg("--part").stderr(Stdio::inherit());
        if arguments.suite.is_none() {
            command.args(["--suite", suite]);
        }
        let output = command.output().context("starting taskset (hint: it is part of util-linux)")?;
        anyhow::ensure!(output.status.success(), "the part of {suite} on {cores} cores failed");
        let part: Value = serde_json::from_slice(&output.stdout).context("reading the figures of a part")?;
        for (all, name) in [(&mut ratios, "ratios"), (&mut figures, "figures")] {
            let part = part.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
            all.extend(part.into_iter().map(|(name, value)| (format!("{name}.{cores}_core"), value)));
        }
        peak = peak.max(part.get("peak").and_then(Value::as_f64).unwrap_or(f64::INFINITY));
    }
    eprintln!("peak memory of the pipeline: {peak:.0} MiB (bar {MEMORY_BAR:.0})");
    figures.insert("peak_memory_mib".to_owned(), rounded(peak));
    let below: Vec<&String> = ratios
        .iter()
        .filter(|(_, ratio)| ratio.as_f64().is_none_or(|ratio| ratio < BAR))
        .map(|(name, _)| name)
        .collect();
    if !below.is_empty() {
        eprintln!("below the bar: {below:?}");
    }
    let holds = below.is_empty() && peak <= MEMORY_BAR;
    println!("{}", json!({"bench": "pipeline", "ratios": ratios, "figures": figures, "holds": holds}));
    Ok(())
}

/// Measures everything on the processors that this process may use.
fn part(arguments: &Arguments) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let rounds = arguments.rounds.unwrap_or(if arguments.small { 1 } else { 4 });
    let place = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new().prefix("breakwater-bench-").tempdir_in(place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let (mut ratios, mut figures) = (Map::new(), Map::new());
    let mut peak = 0;
    let large = if arguments.small { 2 } else { 8 };
    for (kind, files) in [("pages", large), ("tree", if arguments.small { 4000 } else { 24_000 }), ("random", large)] {
        if arguments.only.as_deref().is_some_and(|only| only != kind) {
            continue;
        }
        let (input, bytes) = make_input(kind, &place.path().join(kind), files)?;
        let reads = if kind == "tree" { Reads::Tree } else { Reads::Extents };
        for suite in [Suite::Standard, Suite::Fast, Suite::Nist] {
            if arguments.suite.as_deref().is_some_and(|only| only != suite.word()) {
                continue;
            }
            if let Some(step) = arguments.step {
                repeat(step, suite, &runtime, place.path(), &input, reads, rounds)?;
                continue;
            }
            let mut costs = Costs { bytes, ..Costs::default() };
            for _ in 0..rounds {
                peak = peak.max(one_round(suite, &runtime, place.path(), &input, reads, &mut costs)?);
            }
            report(&format!("{}.{kind}", suite.word()), &costs, &mut ratios, &mut figures);
        }
        std::fs::remove_dir_all(&input.root)?;
    }
    if arguments.step.is_some() {
        return Ok(());
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let peak = peak as f64 / f64::from(1 << 20);
    println!("{}", json!({"ratios": ratios, "figures": figures, "peak": peak}));
    Ok(())
}

/// Runs everything once, and answers the most memory that the pipeline had.
fn one_round(
    suite: Suite,
    runtime: &tokio::runtime::Runtime,
    place: &Path,
    input: &Input,
    reads: Reads,
    costs: &mut Costs,
) -> Result<u64> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let directory = |name: &str| -> Result<PathBuf> {
        let path = place.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        settle()?;
        Ok(path)
    };
    let fresh = |name: &str| -> Result<PathBuf> {
        let path = directory(name)?;
        std::fs::create_dir(&path)?;
        Ok(path)
    };

    let output = fresh("bare")?;
    let (stored, cost) = measure(|| bare::store(suite, input, &output, threads));
    let stored = stored?;
    costs.bare_store.push(cost);
    let back = fresh("bare-back")?;
    costs.bare_back.push(timed(|| bare::bring_back(suite, input, &stored, &back, threads))?);
    costs.stored = stored.bytes();
    std::fs::remove_dir_all(&back)?;
    std::fs::remove_dir_all(&output)?;

    let region = directory("region")?;
    let ours = runtime.block_on(Ours::create(&region, suite))?;
    reset_peak_memory();
    let (outcome, cost) = measure(|| runtime.block_on(ours.backup(&input.root, reads, None, threads)));
    let first = outcome?.manifest;
    costs.backup.push(cost);

    costs.bare_name.push(timed(|| bare::read_and_name(suite, input, threads))?);
    let unchanged = |reads| -> Result<_> {
        let (outcome, cost) = measure(|| runtime.block_on(ours.backup(&input.root, reads, Some(&first), threads)));
        let outcome = outcome?;
        anyhow::ensure!(outcome.totals.new == 0, "an unchanged backup stored {} bytes", outcome.totals.new);
        Ok((outcome, cost))
    };
    let (second, cost) = unchanged(reads)?;
    costs.unchanged.push(cost);
    if reads == Reads::Tree {
        costs.again.push(unchanged(Reads::WholeTree)?.1);
    }

    let peak = peak_memory();
    let target = directory("target")?;
    reset_peak_memory();
    costs.restore.push(timed(|| runtime.block_on(ours.restore(&second.manifest, &target)))?);
    let restoring = peak_memory();
    eprintln!("        peak memory: backup {} MiB, restore {} MiB", peak >> 20, restoring >> 20);
    same(input, &target)?;
    std::fs::remove_dir_all(&target)?;
    drop(ours);
    std::fs::remove_dir_all(&region)?;
    Ok(peak.max(restoring))
}

/// Runs one step `rounds` times; what it needs beforehand is made once.
fn repeat(
    step: Step,
    suite: Suite,
    runtime: &tokio::runtime::Runtime,
    place: &Path,
    input: &Input,
    reads: Reads,
    rounds: usize,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let fresh = |name: String| -> Result<PathBuf> {
        let path = place.join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    };
    let ours = runtime.block_on(Ours::create(&place.join(format!("region-{suite}")), suite))?;
    let root = &input.root;
    let first = runtime.block_on(ours.backup(root, reads, None, threads))?.manifest;
    let bare_output = fresh(format!("stored-{suite}"))?;
    let stored = bare::store(suite, input, &bare_output, threads)?;
    for round in 0..rounds {
        let (result, cost) = measure(|| match step {
            Step::BareStore => bare::store(suite, input, &fresh(format!("bare-{suite}-{round}"))?, threads).map(drop),
            Step::Backup => runtime.block_on(ours.backup(root, reads, None, threads)).map(drop),
            Step::BareName => bare::read_and_name(suite, input, threads),
            Step::Unchanged => runtime.block_on(ours.backup(root, reads, Some(&first), threads)).map(drop),
            Step::Again => runtime.block_on(ours.backup(root, Reads::WholeTree, Some(&first), threads)).map(drop),
            Step::BareBack => {
                bare::bring_back(suite, input, &stored, &fresh(format!("back-{suite}-{round}"))?, threads)
            }
            Step::Restore => runtime.block_on(ours.restore(&first, &place.join(format!("target-{suite}-{round}")))),
        });
        result?;
        eprintln!("{step:?}: {:.2} s wall, {:.2} s cpu", cost.wall.as_secs_f64(), cost.cpu.as_secs_f64());
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (result, cost) = measure(work);
    result.map(|()| cost)
}

/// Lets the disk finish what it was given, so that one side does not pay for the other.
fn settle() -> Result<()> {
    let status = Command::new("sync").status().context("running sync")?;
    anyhow::ensure!(status.success(), "sync failed");
    Ok(())
}

/// Makes files of this kind in `root`, and answers how many bytes they have.
fn make_input(kind: &str, root: &Path, files: usize) -> Result<(Input, u64)> {
    std::fs::create_dir(root)?;
    if kind == "tree" {
        let bytes = lines::make(root, Shape { small: files, large: 0, large_bytes: 0 })?;
        return Ok((Input::of(root)?, bytes));
    }
    let (mut random, mut row) = (Random::new(4711), 1);
    let mut buffer = vec![0; 1 << 20];
    for number in 0..files {
        let mut file = std::fs::File::create(root.join(format!("{number:06}")))?;
        for _ in 0..FILE / buffer.len() {
            match kind {
                "pages" => fill_pages(&mut random, &mut row, &mut buffer),
                _ => fill_random(&mut random, &mut buffer),
            }
            file.write_all(&buffer)?;
        }
    }
    debug_assert!(FILE.is_multiple_of(content::PAGE));
    Ok((Input::of(root)?, (files * FILE) as u64))
}

/// Proves that the restore brought back what was there, in `target` itself or in a directory with the name of the input.
fn same(input: &Input, target: &Path) -> Result<()> {
    let below = target.join(input.root.file_name().unwrap_or_default());
    let target = if below.is_dir() { &below } else { target };
    for path in &input.files {
        let same = std::fs::read(path)? == std::fs::read(target.join(path.strip_prefix(&input.root)?))?;
        anyhow::ensure!(same, "{} came back changed", path.display());
    }
    Ok(())
}

fn report(kind: &str, costs: &Costs, ratios: &mut Map<String, Value>, figures: &mut Map<String, Value>) {
    let mut figure = |name: &str, cost: Cost| {
        let rate = cost.mib_per_second(costs.bytes);
        eprintln!(
            "{kind:>15} {name:<22} {rate:>8.0} MiB/s   {:>6.2} s wall {:>6.2} s cpu",
            cost.wall.as_secs_f64(),
            cost.cpu.as_secs_f64()
        );
        figures.insert(format!("{kind}.{name}_mib_s"), rounded(rate));
        cost
    };
    let pairs = [
        ("backup", figure("bare_store", best(&costs.bare_store)), figure("backup", best(&costs.backup))),
        ("unchanged", figure("bare_name", best(&costs.bare_name)), figure("unchanged", best(&costs.unchanged))),
        ("restore", figure("bare_back", best(&costs.bare_back)), figure("restore", best(&costs.restore))),
    ];
    let again = (!costs.again.is_empty())
        .then(|| ("unchanged_read_again", pairs[1].1, figure("read_again", best(&costs.again))));
    for (name, bare, ours) in pairs.into_iter().chain(again) {
        let ratio = bare.wall.as_secs_f64() / ours.wall.as_secs_f64().max(1e-9);
        let by_cpu = bare.cpu.as_secs_f64() / ours.cpu.as_secs_f64().max(1e-9);
        eprintln!("{kind:>15} {name:<22} {ratio:>8.2} of bare (by cpu time {by_cpu:.2}; bar {BAR})");
        ratios.insert(format!("{kind}.{name}"), rounded(ratio));
        figures.insert(format!("{kind}.{name}_by_cpu"), rounded(by_cpu));
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let compression = costs.bytes as f64 / costs.stored.max(1) as f64;
    figures.insert(format!("{kind}.compression"), rounded(compression));
}

fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}
