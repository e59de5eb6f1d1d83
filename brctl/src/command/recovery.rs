//! `recovery`: what can be restored, to when and from where.

use breakwater_core::Timestamp;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::args::restore::{RecoveryArgs, RecoveryCommand};
use crate::client::Client;
use crate::command::{Desk, Ended, Ending, get, lag};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::view;

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
        Column::new("STATE", "/state", Kind::Text),
        Column::new("CONTINUOUS", "/continuous", Kind::Text),
    ],
    name: "/source",
    empty: "nothing can be restored yet",
};

const POINTS: Listing = Listing {
    columns: &[
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("KIND", "/kind", Kind::Text),
        Column::new("TIME", "/time", Kind::Moment),
        Column::new("POSITION", "/position", Kind::Text),
        Column::new("ID", "/id", Kind::Text),
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
            Ok(points) => {
                let lag = lag::fetch(desk, &client, &source).await?;
                summarise(&mut item, &points, &lag);
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
        let points = of_source(desk, &client, &source).await?;
        let lag = lag::fetch(desk, &client, &source).await?;
        items.extend(spans(&source, &points, &lag));
    }
    desk.output.list(&WINDOWS, &items)?;
    Ok(Ending::OK)
}

async fn points(desk: &Desk, args: RecoveryArgs) -> Ended {
    let client = desk.client()?;
    let mut items = Vec::new();
    for source in sources(desk, args.source).await? {
        items.extend(of_source(desk, &client, &source).await?);
    }
    desk.output.list(&POINTS, &items)?;
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

async fn of_source(desk: &Desk, client: &Client, source: &str) -> Result<Vec<Value>, Failure> {
    let request = v1::PointsRequest { namespace: desk.namespace(), source: source.to_owned() };
    let documents = client.documents(client.operator().points(request)).await?;
    Ok(documents.into_iter().flat_map(|document| flat(document, source)).collect())
}

/// The points of a document, each with its source.
fn flat(mut document: Value, source: &str) -> Vec<Value> {
    view::readable(&mut document);
    let points = match document {
        Value::Array(points) => points,
        Value::Object(mut fields) => match fields.remove("points") {
            Some(Value::Array(points)) => points,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    let with_source = |mut point: Value| {
        point["source"] = Value::from(source);
        point
    };
    points.into_iter().filter(Value::is_object).map(with_source).collect()
}

fn rows(lag: &Value) -> &[Value] {
    lag["rows"].as_array().map_or(&[], Vec::as_slice)
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| Timestamp::parse(text).ok())
}

/// The first and last moment of a source, and the regions that hold the last.
fn summarise(item: &mut Value, points: &[Value], lag: &Value) {
    let earliest = points.iter().filter_map(|point| time(&point["time"])).min();
    let ends = || rows(lag).iter().filter_map(|row| Some((time(&row["recoverable"])?, row)));
    let latest = ends().map(|(end, _)| end).chain(points.iter().filter_map(|point| time(&point["time"]))).max();
    let regions: Vec<Value> =
        ends().filter(|(_, row)| row["state"] == "ok").map(|(_, row)| row["region"].clone()).collect();
    item["earliest"] = earliest.map(|time| Value::from(time.to_string())).unwrap_or_default();
    item["latest"] = latest.map(|time| Value::from(time.to_string())).unwrap_or_default();
    item["regions"] = Value::Array(regions);
    if points.is_empty() {
        item["detail"] = Value::from("nothing can be restored yet");
    }
}

/// One span a region: from the first snapshot it holds to its recoverable point.
fn spans(source: &str, points: &[Value], lag: &Value) -> Vec<Value> {
    let held = |region: &Value| {
        let here = |point: &&Value| point["regions"].as_array().is_none_or(|regions| regions.contains(region));
        points.iter().filter(here).filter_map(|point| time(&point["time"])).collect::<Vec<_>>()
    };
    rows(lag)
        .iter()
        .map(|row| {
            let times = held(&row["region"]);
            let end = time(&row["recoverable"]).or(times.iter().max().copied());
            json!({
                "source": source,
                "region": row["region"],
                "from": times.iter().min().map(|time| time.to_string()),
                "to": end.map(|time| time.to_string()),
                "state": row["state"],
                // Without a log only the snapshots themselves can be restored.
                "continuous": row["position"].is_string(),
            })
        })
        .collect()
}
