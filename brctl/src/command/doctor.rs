//! `doctor`: is the way to the controller good, and do its agents and regions answer?

use breakwater_core::{Clock, ErrorClass};
use breakwater_proto::v1;
use breakwater_runtime::SystemClock;
use serde_json::{Value, json};

use crate::client::Client;
use crate::command::{Desk, Ended, Ending};
use crate::context;
use crate::failure::Failure;
use crate::output::moment::{seconds, span};
use crate::output::table::{Column, Kind, Listing};
use crate::view;

/// Clocks further apart than this make ages and expiries wrong enough to matter.
const SKEW_MAX_MICROS: i64 = 5_000_000;

/// Certificates that end sooner than this should have been renewed.
const EXPIRY_MICROS: i64 = 24 * 3600 * 1_000_000;

const CHECKS: Listing = Listing {
    columns: &[
        Column::new("CHECK", "/check", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("DETAIL", "/detail", Kind::Text),
        Column::new("NEXT", "/hint", Kind::Text),
    ],
    name: "/check",
    empty: "nothing was checked",
};

/// What was found, and the exit code of the worst.
#[derive(Debug, Default)]
struct Report {
    checks: Vec<Value>,
    code: u8,
}

impl Report {
    fn ok(&mut self, check: &str, detail: impl Into<String>) {
        self.checks.push(json!({"check": check, "state": "ok", "detail": detail.into(), "hint": null}));
    }

    fn warning(&mut self, check: &str, detail: impl Into<String>, hint: &str) {
        self.checks.push(json!({"check": check, "state": "warning", "detail": detail.into(), "hint": hint}));
    }

    fn failed(&mut self, check: &str, failure: &Failure) {
        self.checks.push(json!({
            "check": check, "state": "failed", "detail": failure.message(), "hint": failure.next_step(),
        }));
        if self.code == 0 {
            self.code = failure.code();
        }
    }
}

pub(super) async fn run(desk: &Desk) -> Ended {
    let mut report = Report::default();
    examine(desk, &mut report).await;
    desk.output.list(&CHECKS, &report.checks)?;
    Ok(Ending(report.code))
}

/// Goes as far as it can: what needs an answer is not asked of somebody who does not give one.
async fn examine(desk: &Desk, report: &mut Report) {
    let context = match context::find(&desk.settings.choice) {
        Ok(context) => context,
        Err(failure) => return report.failed("context", &failure),
    };
    report.ok("context", format!("{} from {}", context.controller, context.origin));
    let client = match Client::new(&context, desk.settings.timeout) {
        Ok(client) => client,
        Err(failure) => return report.failed("certificate authority", &failure),
    };
    let asked = SystemClock.now();
    let version = match client.call(client.operator().version(v1::VersionRequest {})).await {
        Ok(version) => version,
        Err(failure) => return report.failed("controller", &failure),
    };
    let answered = SystemClock.now();
    report.ok("controller", format!("answers in {}", span(answered.micros_since(asked))));
    report.ok("state store", version.state_store.clone());
    let ours = env!("CARGO_PKG_VERSION");
    if version.version == ours {
        report.ok("version", ours);
    } else {
        let detail = format!("brctl {ours}, controller {}", version.version);
        report.warning("version", detail, "use the brctl of the controller's version");
    }
    clock(report, version.now, asked.as_micros(), answered.as_micros());
    let request = v1::StatusRequest { namespace: desk.namespace() };
    match client.call(client.operator().status(request)).await {
        Ok(status) => {
            agents(report, &status);
            sources(report, &status);
        }
        Err(failure) => report.failed("status", &failure),
    }
}

/// The controller's clock against ours; the time of the call is its uncertainty.
fn clock(report: &mut Report, theirs: i64, asked: i64, answered: i64) {
    let skew = if theirs < asked { asked - theirs } else { (theirs - answered).max(0) };
    let detail = format!(
        "the controller's is {:.1}s {} this machine's",
        seconds(skew),
        if theirs < asked { "behind" } else { "ahead of" }
    );
    if skew > SKEW_MAX_MICROS {
        report.warning("clock", detail, "let both follow a time server");
    } else {
        report.ok("clock", detail);
    }
}

fn agents(report: &mut Report, status: &v1::StatusResponse) {
    if status.agents.is_empty() {
        report.warning("agents", "no agent is enrolled", "brctl agent token create");
    }
    for agent in &status.agents {
        let check = format!("agent {}", agent.name);
        match agent.state.as_str() {
            "connected" => match agent.certificate_expires - status.now {
                left if left < EXPIRY_MICROS => {
                    let detail = format!("connected; its certificate ends in {}", span(left));
                    report.warning(&check, detail, "look at the agent's log: it should have renewed it");
                }
                _ => report.ok(&check, format!("connected, {}", agent.version)),
            },
            "locked" => {
                let hint = format!("brctl agent unlock {}, once it may come back", agent.name);
                report.warning(&check, "locked", &hint);
            }
            other => {
                let failure = Failure::new(ErrorClass::Unavailable, format!("it is {other}"));
                report.failed(&check, &failure.hint("is breakwater-agent running on its host?"));
            }
        }
    }
}

fn sources(report: &mut Report, status: &v1::StatusResponse) {
    for source in &status.sources {
        let check = format!("source {}", source.name);
        if source.protection == "protected" {
            report.ok(&check, "protected");
        } else {
            report.warning(&check, format!("{}: {}", source.protection, source.reason), "brctl status");
        }
        for row in &source.lag {
            let check = format!("source {}, region {}", source.name, row.region);
            let value = view::lag_row(row);
            let detail = value["detail"].as_str().unwrap_or_default();
            match row.state.as_str() {
                "ok" => report.ok(&check, "ok"),
                "unreachable" => {
                    let failure = Failure::new(ErrorClass::Unavailable, format!("unreachable: {detail}"));
                    report.failed(&check, &failure.hint("brctl lag"));
                }
                other => report.warning(&check, format!("{other} {detail}").trim_end(), "brctl lag"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skewed_clocks_are_told_and_call_time_is_not_skew() {
        let check = |theirs: i64, state: &str| {
            let mut report = Report::default();
            clock(&mut report, theirs, 100_000_000, 130_000_000);
            assert_eq!(report.checks[0]["state"], state, "{:?}", report.checks);
        };
        check(115_000_000, "ok");
        check(94_000_000, "warning");
        check(136_000_000, "warning");
    }

    #[test]
    fn silent_agents_and_lost_regions_are_failures() {
        let agent = |state: &str| v1::Agent { name: "a".to_owned(), state: state.to_owned(), ..v1::Agent::default() };
        let row = v1::LagRow { region: "one".to_owned(), state: "unreachable".to_owned(), ..v1::LagRow::default() };
        let source = v1::SourceStatus { name: "s".to_owned(), lag: vec![row], ..v1::SourceStatus::default() };
        let status = v1::StatusResponse { agents: vec![agent("silent")], ..v1::StatusResponse::default() };
        let mut report = Report::default();
        agents(&mut report, &status);
        assert_eq!(report.code, 8);
        let mut report = Report::default();
        sources(&mut report, &v1::StatusResponse { sources: vec![source], ..v1::StatusResponse::default() });
        assert_eq!(report.code, 8);
    }
}
