//! `region`: the places that hold repositories.

use serde_json::{Value, json};

use crate::args::repository::RegionCommand;
use crate::command::{Desk, Ended, Ending, get, lag};
use crate::output::table::{Column, Kind, Listing};

const REGIONS: Listing = Listing {
    columns: &[
        Column::new("REPOSITORY", "/repository", Kind::Text),
        Column::new("REGION", "/region", Kind::Text),
        Column::new("ROLE", "/role", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("SOURCES", "/sources", Kind::Text),
        Column::new("PENDING", "/pending_bytes", Kind::Bytes),
        Column::new("URL", "/url", Kind::Text),
        Column::new("DETAIL", "/detail", Kind::Brief),
    ],
    name: "/region",
    empty: "no repository is declared",
};

/// The worst state speaks for the region.
const WORST_FIRST: [&str; 5] = ["unreachable", "unknown", "behind", "never", "ok"];

pub(super) async fn run(desk: &Desk, command: RegionCommand) -> Ended {
    let RegionCommand::List = command;
    let client = desk.client()?;
    let repositories = get::objects(desk, "repository", "").await?;
    let plans = get::objects(desk, "plan", "").await?;
    let lag = lag::fetch(desk, &client, "").await?;
    let rows = lag["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let items = regions(&repositories, &plans, rows);
    desk.output.list(&REGIONS, &items)?;
    Ok(Ending::OK)
}

fn regions(repositories: &[Value], plans: &[Value], rows: &[Value]) -> Vec<Value> {
    let mut items = Vec::new();
    for repository in repositories {
        let name = &repository["metadata"]["name"];
        let covers = |source: &Value| {
            plans.iter().any(|plan| {
                plan["spec"]["repository"] == *name
                    && plan["spec"]["sources"].as_array().is_some_and(|sources| sources.contains(source))
            })
        };
        for region in repository["spec"]["regions"].as_array().map_or(&[][..], Vec::as_slice) {
            let here: Vec<&Value> =
                rows.iter().filter(|row| row["region"] == region["name"] && covers(&row["source"])).collect();
            let worst = WORST_FIRST.into_iter().find(|state| here.iter().any(|row| row["state"] == *state));
            let pending: u64 = here.iter().filter_map(|row| row["pending_bytes"].as_u64()).sum();
            let detail = here.iter().map(|row| &row["detail"]).find(|detail| !detail.is_null());
            items.push(json!({
                "repository": name,
                "region": region["name"],
                "role": region["role"],
                "url": region["url"],
                // Nobody writes there yet, so nobody can say how it is.
                "state": worst.unwrap_or("unknown"),
                "sources": here.len(),
                "pending_bytes": pending,
                "detail": detail,
            }));
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_source_speaks_for_a_region() {
        let repositories =
            [json!({"metadata": {"name": "main"}, "spec": {"regions": [{"name": "one"}, {"name": "two"}]}})];
        let plans = [json!({"spec": {"repository": "main", "sources": ["a", "b"]}})];
        let row =
            |source: &str, state: &str| json!({"source": source, "region": "one", "state": state, "pending_bytes": 5});
        let rows = [row("a", "ok"), row("b", "unreachable"), row("stranger", "behind")];
        let items = regions(&repositories, &plans, &rows);
        assert_eq!((&items[0]["state"], &items[0]["pending_bytes"]), (&json!("unreachable"), &json!(10)));
        assert_eq!(items[1]["state"], "unknown", "a region that nobody reports on is not ok");
    }
}
