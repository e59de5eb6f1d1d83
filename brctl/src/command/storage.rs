//! `storage check`: whether a place keeps the promises that a region needs, what it offers beyond them, how fast it is, and
//! what it would cost, before anybody trusts it.

mod cost;
mod scratch;
mod speed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use breakwater_core::{ErrorClass, PlaceUrl};
use breakwater_runtime::SystemClock;
use breakwater_storage::meter::Requests;
use breakwater_storage::{Features, Meter, Storage, conformance, probe};
use serde_json::{Value, json};

use crate::args::repository::{StorageCheckArgs, StorageCommand};
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use cost::{Load, Prices};
use scratch::Scratch;

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
    match command {
        StorageCommand::Check(args) => check(desk, args).await,
        StorageCommand::Prices => {
            desk.output.text(Prices::sample())?;
            Ok(Ending::OK)
        }
    }
}

async fn check(desk: &Desk, args: StorageCheckArgs) -> Ended {
    let prices = Prices::read(args.prices.as_deref())?;
    let (_, url) = crate::settings::region(&args.url)?;
    let place: PlaceUrl =
        url.parse().map_err(|error: breakwater_core::PlaceUrlError| Failure::usage(error.to_string()))?;
    let scratch = Scratch::make(breakwater_agent::wiring::places(), &place).await?;
    let checked = rows(&scratch, &args).await;
    // Also after a failure, whose error is the one that matters.
    let cleared = scratch.clear().await;
    let (mut checks, code) = checked?;
    let left = cleared?;
    if left > 0 {
        desk.output.note(format!("note: {left} objects in {scratch} cannot be deleted yet, as they are locked"));
    }
    let load = Load { stored: args.stored, daily: args.daily };
    checks.extend(prices.rows(place.scheme(), load));
    desk.output.list(&CHECKS, &checks)?;
    Ok(Ending(code))
}

/// A row for each thing that was checked, and the exit code.
async fn rows(scratch: &Scratch, args: &StorageCheckArgs) -> Result<(Vec<Value>, u8), Failure> {
    let (mut rows, mut code) = (Vec::new(), 0);
    let mut note = |check: &str, outcome: Result<String, Failure>| {
        let (state, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(failure) => {
                code = if code == 0 { failure.code() } else { code };
                ("failed", failure.message().to_owned())
            }
        };
        rows.push(json!({"check": check, "state": state, "detail": detail}));
    };
    note("promises", promises(scratch).await);
    let features = scratch.open("features").await?.features().await;
    note("offers", features.map(|features| offers(&features)).map_err(Failure::from));
    note("conformance", conforms(scratch, args.extras).await);
    if code == 0 {
        let meter = Meter::new(scratch.open("speed").await?.backend(), Arc::new(SystemClock));
        rows.extend(speed::measure(&Storage::new(Arc::new(meter.clone())), args.size).await?);
        rows.push(requests(meter.figures().requests()));
    }
    Ok((rows, code))
}

async fn promises(scratch: &Scratch) -> Result<String, Failure> {
    let capabilities = probe(&scratch.open("probe").await?, "").await?;
    Ok(format!("kept; its clock is {:+.3} s from ours", crate::output::moment::seconds(capabilities.clock_skew_micros)))
}

fn offers(features: &Features) -> String {
    let tiers: Vec<&str> = features.tiers.iter().map(|tier| tier.as_str()).collect();
    let word = |has: bool| if has { "yes" } else { "no" };
    format!(
        "locks: {}; holds: {}; keeps old versions: {}; compares checksums: {}; tiers: {}",
        word(features.locks),
        word(features.holds),
        word(features.versions),
        word(features.checksums),
        if tiers.is_empty() { "one".to_owned() } else { tiers.join(", ") }
    )
}

/// The suite that every backend passes, on this very place. A broken promise is a panic that says which.
async fn conforms(scratch: &Scratch, extras: bool) -> Result<String, Failure> {
    let scratch = scratch.clone();
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let run = tokio::task::spawn_blocking(move || {
        let number = AtomicU32::new(0);
        let make = async || {
            let name = format!("case-{}", number.fetch_add(1, Ordering::Relaxed));
            scratch.open(&name).await.unwrap_or_else(|failure| panic!("{}", failure.message()))
        };
        tokio::runtime::Handle::current().block_on(async {
            match extras {
                true => conformance::run(make).await,
                false => conformance::promises(make).await,
            }
        });
    });
    let ended = run.await;
    std::panic::set_hook(quiet);
    match ended {
        Ok(()) if extras => Ok("all cases passed, those of locks, holds and tiers among them".to_owned()),
        Ok(()) => Ok("all cases passed; locks, holds and tiers were not tried (--extras does)".to_owned()),
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

/// What the measurement asked of the place, as providers bill it.
fn requests(asked: Requests) -> Value {
    let Requests { writes, lists, reads, deletes } = asked;
    json!({
        "check": "requests",
        "state": "ok",
        "detail": format!("the speed test made {writes} writes, {reads} reads, {lists} lists, {deletes} deletes"),
        "writes": writes,
        "reads": reads,
        "lists": lists,
        "deletes": deletes,
    })
}
