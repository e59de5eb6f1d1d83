//! `recovery`: what can be restored, to when and from where.

use breakwater_core::Timestamp;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::args::restore::{RecoveryArgs, RecoveryCommand};
use crate::client::Client;
use crate::command::{Desk, Ended, Ending, get, lag};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::{offline, view};

const STATUS: Listing = Listing {
    columns: &[
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("EARLIEST", "/earliest", Kind::Moment),
        Column::new("LATEST", "/latest", Kind::Moment),
        Column::new("LATEST IS", "/latest", Kind::Age),
        Column::new("FROM REGIONS", "/regions", Kind::List),
        Column::new("PROVEN", "/proven", Kind::Text),
        Column::new("DETAIL", "/detail", Kind::Text),
    ],
    name: "/source",
    empty: "no source is declared",
};

const WINDOWS: Listing = Listing {
    columns: &[
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("REGION", "/region", Kind::Text),
        Column::new("FROM", "/from", Kind::Moment),
        Column::new("TO", "/to", Kind::Moment),
        Column::new("ANY MOMENT", "/continuous", Kind::Text),
        Column::new("SNAPSHOTS", "/snapshots", Kind::Text),
        Column::wide("LOG FROM", "/start", Kind::Text),
        Column::wide("LOG TO", "/end", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("DETAIL", "/detail", Kind::Text),
    ],
    name: "/region",
    empty: "nothing can be restored yet",
};

const POINTS: Listing = Listing {
    columns: &[
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("KIND", "/kind", Kind::Text),
        Column::new("TIME", "/time", Kind::Moment),
        Column::new("ID OR POSITION", "/id", Kind::Text),
        Column::new("REGIONS", "/regions", Kind::List),
    ],
    name: "/id",
    empty: "nothing can be restored yet",
};

pub(super) async fn run(desk: &Desk, command: RecoveryCommand) -> Ended {
    match command {
        RecoveryCommand::Status(args) => status(desk, args).await,
        RecoveryCommand::Windows(args) => windows(desk, args).await,
        RecoveryCommand::Points(args) => points(desk, args).await,
    }
}

async fn status(desk: &Desk, args: RecoveryArgs) -> Ended {
    let client = desk.client()?;
    let mut items = Vec::new();
    for source in sources(desk, args.source).await? {
        let mut item = json!({
            "source": source, "earliest": null, "latest": null, "regions": [],
            // No drill exists in this version, so nothing was proven, whatever was written.
            "proven": "never", "detail": null,
        });
        match of_source(desk, &client, &source).await {
            Ok(document) => {
                let lag = lag::fetch(desk, &client, &source).await?;
                summarise(&mut item, &document, &lag);
            }
            // One source that cannot be asked about does not hide the others.
            Err(failure) => item["detail"] = Value::from(format!("unknown: {}", failure.message())),
        }
        items.push(item);
    }
    desk.output.list(&STATUS, &items)?;
    Ok(Ending::OK)
}

async fn windows(desk: &Desk, args: RecoveryArgs) -> Ended {
    let client = desk.client()?;
    let mut items = Vec::new();
    for source in sources(desk, args.source).await? {
        items.extend(spans(&of_source(desk, &client, &source).await?));
    }
    desk.output.list(&WINDOWS, &items)?;
    Ok(Ending::OK)
}

async fn points(desk: &Desk, args: RecoveryArgs) -> Ended {
    let documents = match desk.glass().await? {
        Some(glass) => offline::points(&glass, args.source.as_deref()).await?,
        None => {
            let client = desk.client()?;
            let mut documents = Vec::new();
            for source in sources(desk, args.source).await? {
                documents.push(of_source(desk, &client, &source).await?);
            }
            documents
        }
    };
    if desk.output.is_for_people() {
        let rows: Vec<Value> = documents.iter().flat_map(flat).collect();
        desk.output.list(&POINTS, &rows)?;
    } else {
        desk.output.list(&POINTS, &documents)?;
    }
    Ok(Ending::OK)
}

/// The source that was named, or all of them.
async fn sources(desk: &Desk, named: Option<String>) -> Result<Vec<String>, Failure> {
    if let Some(source) = named {
        return Ok(vec![source]);
    }
    let objects = get::objects(desk, "source", "").await?;
    Ok(objects.iter().filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// What an agent finds in each region of the source's repository.
async fn of_source(desk: &Desk, client: &Client, source: &str) -> Result<Value, Failure> {
    let request = v1::PointsRequest { namespace: desk.namespace(), source: source.to_owned() };
    let documents = client.documents(client.operator().points(request)).await?;
    let mut document = documents.into_iter().next().unwrap_or_default();
    view::readable(&mut document);
    Ok(document)
}

fn each<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| Timestamp::parse(text).ok())
}

fn text(time: Option<Timestamp>) -> Value {
    time.map(|time| Value::from(time.to_string())).unwrap_or_default()
}

/// The first and last moment of a source, and the regions that hold the last.
fn summarise(item: &mut Value, document: &Value, lag: &Value) {
    let regions = each(document, "regions");
    let snapshots = regions.iter().flat_map(|region| each(region, "snapshots"));
    let earliest = snapshots.filter_map(|snapshot| time(&snapshot["consistent_at"])).min();
    let ends = regions.iter().chain(each(lag, "rows")).filter_map(|one| time(&one["recoverable"]));
    item["latest"] = text(ends.max().filter(|_| earliest.is_some()));
    item["earliest"] = text(earliest);
    let whole = regions.iter().filter(|region| region["state"] == "ok").map(|region| region["region"].clone());
    item["regions"] = whole.collect();
    let away: Vec<&str> = regions
        .iter()
        .filter(|region| region["state"] == "unreachable")
        .filter_map(|one| one["region"].as_str())
        .collect();
    if !away.is_empty() {
        item["detail"] = Value::from(format!("not known: {}", away.join(", ")));
    } else if earliest.is_none() {
        item["detail"] = Value::from("nothing can be restored yet");
    }
}

/// The spans of each region: stretches of log that a snapshot leads into, else the snapshots by themselves.
fn spans(document: &Value) -> Vec<Value> {
    let mut rows = Vec::new();
    for region in each(document, "regions") {
        let snapshots: Vec<Timestamp> =
            each(region, "snapshots").iter().filter_map(|snapshot| time(&snapshot["consistent_at"])).collect();
        let row = |from: Value, to: Value, continuous: bool| {
            json!({
                "source": document["source"], "region": region["region"], "from": from, "to": to,
                "continuous": continuous, "snapshots": snapshots.len(), "state": region["state"],
                "start": null, "end": null, "detail": region["reason"],
            })
        };
        let restorable = each(region, "intervals").iter().filter(|one| one["restorable"] == true);
        let before = rows.len();
        for interval in restorable {
            let mut row = row(interval["from"].clone(), interval["to"].clone(), true);
            row["start"] = interval["start"].clone();
            row["end"] = interval["end"].clone();
            rows.push(row);
        }
        if rows.len() == before {
            rows.push(row(text(snapshots.iter().min().copied()), text(snapshots.iter().max().copied()), false));
        }
    }
    rows
}

/// One row a snapshot, with all regions that hold it, and one for the end of each stretch of log.
fn flat(document: &Value) -> Vec<Value> {
    let mut rows: Vec<Value> = Vec::new();
    for region in each(document, "regions") {
        let found =
            each(region, "snapshots").iter().map(|snapshot| ("snapshot", &snapshot["id"], &snapshot["consistent_at"]));
        let ends = each(region, "intervals")
            .iter()
            .filter(|interval| interval["restorable"] == true)
            .map(|interval| ("end of log", &interval["end"], &interval["to"]));
        for (kind, id, time) in found.chain(ends) {
            match rows.iter_mut().find(|row| row["kind"] == kind && row["id"] == *id && row["time"] == *time) {
                Some(row) => {
                    if let Some(regions) = row["regions"].as_array_mut() {
                        regions.push(region["region"].clone());
                    }
                }
                None => rows.push(json!({
                    "source": document["source"], "kind": kind, "id": id, "time": time, "regions": [region["region"]],
                })),
            }
        }
    }
    rows.sort_by_key(|row| time(&row["time"]));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        let snapshot = json!({"id": "s1", "consistent_at": "2026-11-20T12:00:00Z"});
        json!({"source": "app", "regions": [
            {
                "region": "east", "state": "ok", "recoverable": "2026-11-20T13:00:00Z", "snapshots": [snapshot],
                "intervals": [
                    {"from": null, "to": null, "start": "0/1", "end": "0/2", "restorable": false},
                    {"from": "2026-11-20T12:00:00Z", "to": "2026-11-20T13:00:00Z", "start": "0/3", "end": "0/9", "restorable": true},
                ],
            },
            {"region": "west", "state": "ok", "recoverable": "2026-11-20T12:00:00Z", "snapshots": [snapshot], "intervals": []},
            {"region": "far", "state": "unreachable", "reason": "away", "snapshots": [], "intervals": []},
        ]})
    }

    #[test]
    fn a_region_has_a_span_for_each_stretch_that_can_be_restored() {
        let rows = spans(&document());
        let shown: Vec<_> =
            rows.iter().map(|row| (row["region"].clone(), row["continuous"].clone(), row["to"].clone())).collect();
        assert_eq!(shown[0], (json!("east"), json!(true), json!("2026-11-20T13:00:00Z")));
        assert_eq!(shown[1], (json!("west"), json!(false), json!("2026-11-20T12:00:00.000000Z")));
        assert_eq!(shown[2], (json!("far"), json!(false), Value::Null));
        assert_eq!((rows.len(), &rows[2]["detail"]), (3, &json!("away")));
    }

    #[test]
    fn a_snapshot_is_one_point_with_all_its_regions() {
        let rows = flat(&document());
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["regions"], json!(["east", "west"]));
        assert_eq!((&rows[1]["kind"], &rows[1]["id"]), (&json!("end of log"), &json!("0/9")));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut item = json!({});
        summarise(&mut item, &document(), &json!({"rows": []}));
        assert_eq!(item["latest"], "2026-11-20T13:00:00.000000Z");
        assert_eq!((&item["regions"], &item["detail"]), (&json!(["east", "west"]), &json!("not known: far")));
        let mut item = json!({});
        summarise(&mut item, &json!({"regions": []}), &json!({"rows": [{"recoverable": "2026-11-20T13:00:00Z"}]}));
        assert_eq!((&item["latest"], &item["detail"]), (&Value::Null, &json!("nothing can be restored yet")));
    }
}
