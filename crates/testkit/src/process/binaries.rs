//! Where our programs are, built from the sources that are being tested.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The directory of `brctl`, `breakwater-agent` and `breakwater-controller`.
///
/// That is `BREAKWATER_BIN_DIR` where it is set (the programs there are taken as they are). Otherwise the directory to which this
/// test was built, after one `cargo build` of the programs, so that a test never runs yesterday's.
pub fn bin_dir() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.clone().map_err(anyhow::Error::msg)
}

fn find() -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("BREAKWATER_BIN_DIR") {
        let dir = PathBuf::from(chosen);
        for name in ["brctl", "breakwater-agent", "breakwater-controller"] {
            if !dir.join(name).is_file() {
                bail!("BREAKWATER_BIN_DIR has no program {name}: {}", dir.display());
            }
        }
        return Ok(dir);
    }
    let test = std::env::current_exe().context("find this test's own file")?;
    // <target directory>/<profile>/deps/<test>
    let profile_dir = test.ancestors().nth(2).context("this test does not lie in a cargo target directory")?;
    let target_dir = profile_dir.parent().context("this test does not lie in a cargo target directory")?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(workspace).arg("build").arg("--target-dir").arg(target_dir);
    build.args([
        "--quiet",
        "--bins",
        "-p",
        "breakwater-agent",
        "-p",
        "breakwater-controller",
        "-p",
        "breakwater-brctl",
    ]);
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    let output = build.output().context("start cargo to build the programs")?;
    if !output.status.success() {
        bail!("cannot build the programs:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(profile_dir.to_owned())
}
