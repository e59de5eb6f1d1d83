//! `region`: the places that hold repositories.

use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work;
use serde_json::{Value, json};

use crate::args::repository::RegionCommand;
use crate::command::{Desk, Ended, Ending, get, lag, repository};
use crate::output::table::{Column, Kind, Listing};
use crate::view;

const REGIONS: Listing = Listing {
    columns: &[
        Column::new("REPOSITORY", "/repository", Kind::Text),
        Column::new("REGION", "/region", Kind::Text),
        Column::new("ROLE", "/role", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("SOURCES", "/sources", Kind::Text),
        Column::new("PENDING", "/pending_bytes", Kind::Bytes),
        Column::new("ERRORS", "/errors", Kind::Text),
        Column::wide("LATENCY", "/latency_seconds", Kind::Seconds),
        Column::new("STORED", "/stored_bytes", Kind::Bytes),
        Column::wide("ADDED IN 7D", "/added_7d_bytes", Kind::Bytes),
        Column::wide("COUNTED", "/counted_at", Kind::Age),
        Column::new("TIER", "/tier", Kind::Text),
        Column::new("LOCK", "/lock", Kind::Text),
        Column::new("SEEN BY", "/agents", Kind::List),
        Column::new("URL", "/url", Kind::Text),
        Column::new("DETAIL", "/detail", Kind::Brief),
    ],
    name: "/region",
    empty: "no repository is declared",
};

/// The worst state speaks for the region.
const WORST_FIRST: [&str; 5] = ["unreachable", "unknown", "behind", "never", "ok"];

pub(super) async fn run(desk: &Desk, command: RegionCommand) -> Ended {
    match command {
        RegionCommand::List => list(desk).await,
        RegionCommand::Usage(args) => {
            let work = Work::Usage(v1::UsageSpec { regions: args.regions });
            repository::perform(desk, args.name, work, args.work).await
        }
    }
}

async fn list(desk: &Desk) -> Ended {
    let client = desk.client()?;
    let request = v1::RegionsRequest { namespace: desk.namespace(), repository: String::new() };
    let seen = client.call(client.operator().regions(request)).await?;
    let plans = get::objects(desk, "plan", "").await?;
    let lag = lag::fetch(desk, &client, "").await?;
    let rows = lag["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let items: Vec<Value> = seen.rows.iter().map(|row| region(&view::region(row), &plans, rows)).collect();
    desk.output.list(&REGIONS, &items)?;
    Ok(Ending::OK)
}

/// What is said of a region: how far behind it is of the sources that a plan brings there, how it answers the agents, and
/// how much lay there when that was last counted.
fn region(seen: &Value, plans: &[Value], rows: &[Value]) -> Value {
    let covers = |source: &Value| {
        plans.iter().any(|plan| {
            plan["spec"]["repository"] == seen["repository"]
                && plan["spec"]["sources"].as_array().is_some_and(|sources| sources.contains(source))
        })
    };
    let here: Vec<&Value> =
        rows.iter().filter(|row| row["region"] == seen["region"] && covers(&row["source"])).collect();
    let sights = seen["sights"].as_array().map_or(&[][..], Vec::as_slice);
    let unreachable = sights.iter().any(|sight| sight["reachable"] == false);
    let worst = WORST_FIRST.into_iter().find(|state| here.iter().any(|row| row["state"] == *state));
    // Nobody writes there yet, so nobody can say how it is.
    let state = if unreachable { "unreachable" } else { worst.unwrap_or("unknown") };
    let pending: u64 = here.iter().filter_map(|row| row["pending_bytes"].as_u64()).sum();
    let details = here.iter().map(|row| &row["detail"]).chain(sights.iter().map(|sight| &sight["last_error"]));
    let sum = |rows: &[Value], name: &str| -> Option<u64> {
        let figures: Vec<u64> = rows.iter().filter_map(|row| row[name].as_u64()).collect();
        (!figures.is_empty()).then(|| figures.iter().sum())
    };
    let tiers = seen["usage"].as_array().map_or(&[][..], Vec::as_slice);
    let slowest = sights.iter().filter_map(|sight| sight["latency_p95_seconds"].as_f64()).reduce(f64::max);
    let mut item = seen.clone();
    let shown = json!({
        "state": state,
        "sources": here.len(),
        "pending_bytes": pending,
        "errors": errors(sum(sights, "recent_errors"), sum(sights, "recent_requests")),
        "latency_seconds": slowest,
        "stored_bytes": sum(tiers, "bytes"),
        "stored_objects": sum(tiers, "objects"),
        "added_7d_bytes": sum(tiers, "added_7d"),
        "agents": sights.iter().map(|sight| &sight["agent"]).collect::<Vec<_>>(),
        "detail": details.into_iter().find(|detail| !detail.is_null()),
    });
    if let (Some(item), Some(shown)) = (item.as_object_mut(), shown.as_object()) {
        item.extend(shown.clone());
    }
    item
}

/// The share of requests of the last minutes that ended in trouble, for people.
fn errors(errors: Option<u64>, requests: Option<u64>) -> Option<String> {
    let (errors, requests) = (errors?, requests?);
    (requests > 0).then(|| format!("{errors} of {requests}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_source_speaks_for_a_region() {
        let plans = [json!({"spec": {"repository": "main", "sources": ["a", "b"]}})];
        let row =
            |source: &str, state: &str| json!({"source": source, "region": "one", "state": state, "pending_bytes": 5});
        let rows = [row("a", "ok"), row("b", "behind"), row("stranger", "never")];
        let seen = |name: &str, sights: Value| json!({"repository": "main", "region": name, "sights": sights});
        let one = region(&seen("one", json!([])), &plans, &rows);
        assert_eq!((&one["state"], &one["pending_bytes"]), (&json!("behind"), &json!(10)));
        let two = region(&seen("two", json!([])), &plans, &rows);
        assert_eq!(two["state"], "unknown", "a region that nobody reports on is not ok");
        let away = json!([{"agent": "x", "reachable": true}, {"agent": "y", "reachable": false, "last_error": "gone"}]);
        let away = region(&seen("one", away), &plans, &rows);
        assert_eq!((&away["state"], &away["detail"]), (&json!("unreachable"), &json!("gone")));
    }

    #[test]
    fn figures_that_nobody_has_are_no_zeros() {
        let seen = json!({"repository": "main", "region": "one", "sights": [{"agent": "x", "reachable": true}]});
        let item = region(&seen, &[], &[]);
        assert_eq!(
            (&item["errors"], &item["stored_bytes"], &item["latency_seconds"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        let sights = json!([{"agent": "x", "reachable": true, "recent_requests": 20, "recent_errors": 3, "latency_p95_seconds": 0.5}]);
        let usage = json!([{"tier": "hot", "bytes": 4, "objects": 1, "added_7d": 1}, {"tier": "cold", "bytes": 6, "objects": 2, "added_7d": 0}]);
        let seen = json!({"repository": "main", "region": "one", "sights": sights, "usage": usage});
        let item = region(&seen, &[], &[]);
        assert_eq!(
            (&item["errors"], &item["stored_bytes"], &item["added_7d_bytes"]),
            (&json!("3 of 20"), &json!(10), &json!(1))
        );
    }
}
