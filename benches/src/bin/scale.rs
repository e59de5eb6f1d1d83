//! How memory grows with the source: backups of as many extents as 1 and as 10 TiB have, in a process each.
//!
//! Only the number of extents counts for memory, so they are small here (4 KiB instead of 128), and their content repeats: what
//! is hashed is a thirty-second of the real amount, and little of it is stored. Everything else is the real thing: listing,
//! dedup, leaves, the tree, references, packs in a region on a disk.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use breakwater_benches::endless::Endless;
use breakwater_benches::measure::{measure, peak_memory};
use breakwater_benches::ours::Ours;
use breakwater_crypto::Suite;
use clap::Parser;
use serde_json::{Map, Value, json};

/// Extents of one TiB at 128 KiB.
const EXTENTS_PER_TIB: u64 = (1 << 40) / (128 << 10);

/// Bytes of an extent here.
const EXTENT: u32 = 4 << 10;

/// What a process may have resident, in MiB.
const MEMORY_BAR: f64 = 256.0;

/// Ten times the source may take so many times the memory.
const GROWTH_BAR: f64 = 1.15;

/// Measures the memory of large backups.
#[derive(Debug, Parser)]
struct Arguments {
    /// A twentieth of the extents, to see that it works.
    #[arg(long)]
    small: bool,
    /// Where the region lies.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// So many extents, in this process.
    #[arg(long, hide = true)]
    extents: Option<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(extents) = arguments.extents {
        return one(&arguments, extents);
    }
    let unit = if arguments.small { EXTENTS_PER_TIB / 20 } else { EXTENTS_PER_TIB };
    let mut figures = Map::new();
    let mut peaks = Vec::new();
    for tib in [1, 10] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).args(["--extents", &(unit * tib).to_string()]);
        let output = command.stderr(Stdio::inherit()).output().context("starting a process for one size")?;
        anyhow::ensure!(output.status.success(), "the backup of {tib} TiB failed");
        let part: Map<String, Value> = serde_json::from_slice(&output.stdout).context("reading its figures")?;
        peaks.push(part.get("peak_mib").and_then(Value::as_f64).context("no peak")?);
        figures.extend(part.into_iter().map(|(name, value)| (format!("{tib}_tib.{name}"), value)));
    }
    let [one, ten] = peaks[..] else { anyhow::bail!("a size is missing") };
    let growth = ten / one;
    eprintln!("peak memory {one:.0} and {ten:.0} MiB (bar {MEMORY_BAR:.0}), {growth:.2} times (bar {GROWTH_BAR})");
    figures.insert("growth".to_owned(), rounded(growth));
    let holds = one.max(ten) <= MEMORY_BAR && growth <= GROWTH_BAR;
    let ratios = json!({"memory_to_bar": rounded(MEMORY_BAR / one.max(ten))});
    println!("{}", json!({"bench": "scale", "ratios": ratios, "figures": figures, "holds": holds}));
    Ok(())
}

/// One backup of so many extents.
fn one(arguments: &Arguments, extents: u64) -> Result<()> {
    let place = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new().prefix("breakwater-bench-").tempdir_in(place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (outcome, cost) = measure(|| {
        runtime.block_on(async {
            let ours = Ours::with_extents(&place.path().join("region"), Suite::Fast, EXTENT).await?;
            ours.backup_of(Box::new(Endless::new(extents, EXTENT)), None, 0).await
        })
    });
    let manifest = outcome?.manifest;
    anyhow::ensure!(manifest.totals.bytes == extents * u64::from(EXTENT), "bytes are missing");
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let peak = peak_memory() as f64 / f64::from(1 << 20);
    eprintln!(
        "{extents:>10} extents: {:.1} s wall, {:.1} s cpu, {peak:.0} MiB",
        cost.wall.as_secs_f64(),
        cost.cpu.as_secs_f64()
    );
    println!("{}", json!({"peak_mib": rounded(peak), "extents": extents, "wall_s": rounded(cost.wall.as_secs_f64())}));
    Ok(())
}

fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}
