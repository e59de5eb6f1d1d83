//! `status`: one screen.

use breakwater_proto::v1;
use serde_json::Value;

use crate::command::{Desk, Ended, Ending};
use crate::output::table::{Column, Kind, Listing};
use crate::view;

const SOURCES: Listing = Listing {
    columns: &[
        Column::new("SOURCE", "/name", Kind::Text),
        Column::new("ENGINE", "/engine", Kind::Text),
        Column::new("PROTECTION", "/protection", Kind::Text),
        Column::new("EXPOSURE", "/exposure_seconds", Kind::Seconds),
        Column::new("LAST BACKUP", "/last_backup", Kind::Age),
        Column::new("STREAM", "/stream_state", Kind::Text),
        Column::wide("PLAN", "/plan", Kind::Text),
        Column::wide("AGENT", "/agent", Kind::Text),
        Column::wide("SNAPSHOT", "/last_backup_id", Kind::Id),
        Column::new("REASON", "/reason", Kind::Brief),
    ],
    name: "/name",
    empty: "no source is declared",
};

const AGENTS: Listing = Listing {
    columns: &[
        Column::new("AGENT", "/name", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("LAST SEEN", "/last_seen", Kind::Age),
        Column::new("SOURCES", "/sources", Kind::Text),
        Column::wide("HOST", "/host", Kind::Text),
        Column::wide("VERSION", "/version", Kind::Text),
    ],
    name: "/name",
    empty: "no agent is enrolled",
};

const JOBS: Listing = Listing {
    columns: &[
        Column::new("RECENT JOB", "/id", Kind::Id),
        Column::new("KIND", "/kind", Kind::Text),
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("CREATED", "/created", Kind::Age),
        Column::new("FAILURE", "/failure/message", Kind::Brief),
    ],
    name: "/id",
    empty: "no job ran yet",
};

pub(super) async fn run(desk: &Desk) -> Ended {
    let client = desk.client()?;
    let request = v1::StatusRequest { namespace: desk.namespace() };
    let response = client.call(client.operator().status(request)).await?;
    let value = view::status(&response);
    if desk.output.is_for_people() {
        desk.output.text(&screen(&value, desk.output.format() == crate::args::Format::Wide))?;
    } else if desk.output.format() == crate::args::Format::Name {
        desk.output.list(&SOURCES, items(&value, "sources"))?;
    } else {
        desk.output.document(&value)?;
    }
    Ok(Ending::OK)
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn screen(value: &Value, wide: bool) -> String {
    let mut text = String::new();
    for (listing, field) in [(&SOURCES, "sources"), (&AGENTS, "agents"), (&JOBS, "recent_jobs")] {
        match items(value, field) {
            [] => text.push_str(&format!("{}\n", listing.empty)),
            some => text.push_str(&listing.table(some, wide)),
        }
        text.push('\n');
    }
    match items(value, "next_steps") {
        [] => text.push_str("nothing is waiting for you\n"),
        steps => {
            text.push_str("next:\n");
            for step in steps {
                text.push_str(&format!("  {}\n", step.as_str().unwrap_or_default()));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_says_what_to_do_next() {
        let response = v1::StatusResponse {
            now: 10_000_000,
            sources: vec![v1::SourceStatus {
                name: "app".to_owned(),
                engine: "sqlite".to_owned(),
                protection: "never".to_owned(),
                reason: "it was never backed up".to_owned(),
                stream_state: "none".to_owned(),
                exposure_micros: -1,
                ..v1::SourceStatus::default()
            }],
            next_steps: vec!["app: brctl backup run app".to_owned()],
            ..v1::StatusResponse::default()
        };
        let text = screen(&view::status(&response), false);
        assert!(text.contains("never") && text.contains("it was never backed up"), "{text}");
        assert!(text.contains("next:\n  app: brctl backup run app"), "{text}");
        assert!(text.contains("no agent is enrolled"), "{text}");
        assert!(!text.contains("0.0s"), "nothing unknown is shown as zero: {text}");
    }
}
