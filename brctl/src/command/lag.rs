//! `lag`: how far each region is behind each source.

use std::time::Duration;

use breakwater_proto::v1;
use serde_json::Value;

use crate::args::Format;
use crate::args::job::LagArgs;
use crate::client::Client;
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::moment;
use crate::output::table::{Column, Kind, Listing};
use crate::view;

const EVERY: Duration = Duration::from_secs(2);

pub(crate) const LAG: Listing = Listing {
    columns: &[
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("REGION", "/region", Kind::Text),
        Column::new("ROLE", "/role", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("RECOVERABLE TO", "/recoverable", Kind::Moment),
        Column::new("EXPOSURE", "/exposure_seconds", Kind::Seconds),
        Column::new("LAG", "/lag_seconds", Kind::Seconds),
        Column::new("PENDING", "/pending_bytes", Kind::Bytes),
        Column::wide("ITEMS", "/pending_items", Kind::Text),
        Column::new("DRAINED IN", "/drain_seconds", Kind::Seconds),
        Column::wide("POSITION", "/position", Kind::Text),
        Column::new("OBSERVED", "/observed", Kind::Age),
        Column::new("DETAIL", "/detail", Kind::Brief),
    ],
    name: "/region",
    empty: "no source has a region yet (a plan brings a source into a repository)",
};

pub(super) async fn run(desk: &Desk, args: LagArgs) -> Ended {
    let client = desk.client()?;
    let source = args.source.unwrap_or_default();
    if !args.watch {
        let value = fetch(desk, &client, &source).await?;
        show(desk, &value)?;
        return Ok(Ending::OK);
    }
    let mut lost = false;
    loop {
        match fetch(desk, &client, &source).await {
            Ok(value) => {
                lost = false;
                if desk.output.is_for_people() {
                    clear(desk)?;
                }
                show(desk, &value)?;
            }
            // What cannot pass later ends the watch; a controller that is away does not.
            Err(failure) if failure.is_transient() => {
                if !lost {
                    desk.output.note(&failure);
                }
                lost = true;
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = breakwater_runtime::shutdown_signal() => return Ok(Ending::OK),
        }
    }
}

/// The lag of all regions, or of one source's.
pub(super) async fn fetch(desk: &Desk, client: &Client, source: &str) -> Result<Value, Failure> {
    let request = v1::LagRequest { namespace: desk.namespace(), source: source.to_owned() };
    Ok(view::lag(&client.call(client.operator().lag(request)).await?))
}

fn show(desk: &Desk, value: &Value) -> Result<(), Failure> {
    let rows = value["rows"].as_array().map_or(&[][..], Vec::as_slice);
    match desk.output.format() {
        Format::Json | Format::Yaml => desk.output.document(value),
        Format::Table | Format::Wide | Format::Name | Format::Ndjson => desk.output.list(&LAG, rows),
    }
}

/// Empties the screen, where there is one.
fn clear(desk: &Desk) -> Result<(), Failure> {
    use std::io::IsTerminal;
    if std::io::stdout().is_terminal() {
        desk.output.text("\x1b[2J\x1b[H")?;
    }
    let now = breakwater_core::Clock::now(&breakwater_runtime::SystemClock);
    desk.output.text(&format!("{}\n", moment::to_the_second(now)))
}
