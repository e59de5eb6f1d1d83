//! `storage check`: whether a place keeps what a region needs, and how fast it is.

use std::path::{Path, PathBuf};
use std::time::Instant;

use breakwater_core::{ByteCount, Clock, ErrorClass, Uid};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::{Payload, Storage, conformance, probe};
use serde_json::{Value, json};

use crate::args::repository::StorageCommand;
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};

/// Bytes of one object of the speed test: what a pack has.
const OBJECT_BYTES: usize = 16 << 20;

const CHECKS: Listing = Listing {
    columns: &[
        Column::new("CHECK", "/check", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("DETAIL", "/detail", Kind::Text),
    ],
    name: "/check",
    empty: "nothing was checked",
};

pub(super) async fn run(desk: &Desk, command: StorageCommand) -> Ended {
    let StorageCommand::Check { url, size } = command;
    let (_, url) = crate::settings::region(&url)?;
    let Some(root) = directory(&url) else {
        return Err(Failure::usage(format!("`{url}` is not a place that this version can write to"))
            .hint("file:///path or an absolute path"));
    };
    if !root.is_dir() {
        let message = format!("{} is not a directory that exists", root.display());
        return Err(Failure::new(ErrorClass::NotFound, message).hint("make it first, or mount what belongs there"));
    }
    // A directory of its own, so that what is there already is neither seen nor touched.
    let scratch = Scratch::make(&root)?;
    let mut checks = Vec::new();
    let mut code = 0;
    match promises(&scratch).await {
        Ok(detail) => checks.push(json!({"check": "promises", "state": "ok", "detail": detail})),
        Err(failure) => {
            checks.push(json!({"check": "promises", "state": "failed", "detail": failure.message()}));
            code = failure.code();
        }
    }
    match conforms(&scratch).await {
        Ok(()) => checks.push(json!({"check": "conformance", "state": "ok", "detail": "all cases passed"})),
        Err(failure) => {
            checks.push(json!({"check": "conformance", "state": "failed", "detail": failure.message()}));
            code = if code == 0 { failure.code() } else { code };
        }
    }
    if code == 0 {
        checks.extend(speed(&scratch, size).await?);
    }
    scratch.remove()?;
    desk.output.list(&CHECKS, &checks)?;
    Ok(Ending(code))
}

fn directory(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// A directory that is removed again.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make(root: &Path) -> Result<Self, Failure> {
        let path = root.join(format!("brctl-check-{}", Uid::v7(SystemClock.now(), &SystemEntropy)));
        std::fs::create_dir(&path).map_err(|error| Failure::io(path.display(), &error))?;
        Ok(Scratch { path })
    }

    fn open(&self, name: &str) -> Result<Storage, Failure> {
        Ok(Storage::file_system(&self.path.join(name))?)
    }

    fn remove(self) -> Result<(), Failure> {
        std::fs::remove_dir_all(&self.path)
            .map_err(|error| Failure::io(format!("cannot remove {}", self.path.display()), &error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After an error, which is what the person has to know; what is left behind has a telling name.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

async fn promises(scratch: &Scratch) -> Result<String, Failure> {
    let capabilities = probe(&scratch.open("probe")?, "").await?;
    Ok(format!("kept; its clock is {:+.3} s from ours", crate::output::moment::seconds(capabilities.clock_skew_micros)))
}

/// The suite that every backend passes, on this very place. A broken promise is a panic that says which.
async fn conforms(scratch: &Scratch) -> Result<(), Failure> {
    let path = scratch.path.join("conformance");
    std::fs::create_dir(&path).map_err(|error| Failure::io(path.display(), &error))?;
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let run = tokio::task::spawn_blocking(move || {
        let number = std::sync::atomic::AtomicU32::new(0);
        tokio::runtime::Handle::current().block_on(conformance::run(async || {
            let next = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Storage::file_system(&path.join(next.to_string())).expect("a directory of its own for each case")
        }));
    });
    let ended = run.await;
    std::panic::set_hook(quiet);
    match ended {
        Ok(()) => Ok(()),
        Err(error) => {
            let panic = error.into_panic();
            let said = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "a case failed".to_owned());
            Err(Failure::new(ErrorClass::Corrupt, format!("it breaks a promise: {said}")))
        }
    }
}

async fn speed(scratch: &Scratch, mib: u32) -> Result<Vec<Value>, Failure> {
    let storage = scratch.open("speed")?;
    let objects = (u64::from(mib.max(1)) << 20).div_ceil(OBJECT_BYTES as u64);
    let content = Payload::from(conformance::pattern(1, OBJECT_BYTES));
    let names: Vec<String> = (0..objects).map(|n| format!("speed/{n}")).collect();
    let begun = Instant::now();
    for name in &names {
        storage.create(name, content.clone()).await?;
    }
    let written = begun.elapsed();
    let begun = Instant::now();
    for name in &names {
        let read = storage.get(name).await?;
        if read.len() != OBJECT_BYTES {
            return Err(Failure::new(ErrorClass::Corrupt, format!("`{name}` came back with {} bytes", read.len())));
        }
    }
    let read = begun.elapsed();
    let begun = Instant::now();
    const SMALL: u32 = 50;
    for n in 0..SMALL {
        storage.create(&format!("small/{n}"), Payload::from(vec![7; 100])).await?;
    }
    let small = begun.elapsed() / SMALL;
    let bytes = objects * OBJECT_BYTES as u64;
    let rate = |elapsed: std::time::Duration| {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate for people"
        )]
        let rate = (bytes as f64 / elapsed.as_secs_f64().max(1e-6)) as u64;
        rate
    };
    let row = |check: &str, rate: u64| json!({"check": check, "state": "ok", "detail": format!("{}/s, durable, one at a time", ByteCount(rate)), "bytes_per_second": rate});
    let mut reading = row("read", rate(read));
    reading["detail"] = Value::from(format!(
        "{}/s, one at a time, from the cache of this machine where it has one",
        ByteCount(rate(read))
    ));
    Ok(vec![
        row("write", rate(written)),
        reading,
        json!({
            "check": "small object", "state": "ok", "detail": format!("{:.1} ms each, durable", small.as_secs_f64() * 1e3),
            "seconds": small.as_secs_f64(),
        }),
    ])
}
