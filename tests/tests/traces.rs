//! One backup is one trace: from the controller through the agent to every call of storage. Logs carry the same names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::otlp::{OtlpSink, Span};
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::wait;
use breakwater_tests::Fleet;
use breakwater_tests::brctl::text;
use serde_json::Value;

fn of<'a>(spans: &'a [Span], service: &str, name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.service == service && span.name.starts_with(name)).collect()
}

#[tokio::test]
async fn a_backup_is_one_trace_across_controller_agent_and_storage() -> Result<()> {
    let sink = OtlpSink::start().await?;
    let cluster = Cluster::builder(Version::V15).start().await?;
    let fleet =
        Fleet::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint()).env("BREAKWATER_LOG_FORMAT", "json");
    let mut fleet = fleet.start().await?;
    fleet.protect("app", &cluster).await?;
    let job = fleet.backup("app-plan").await?;
    let (id, trace) = (text(&job, "id")?, text(&job, "trace_id")?);
    ensure!(trace.len() == 32, "the job names its trace: {job:#}");

    let mine = || -> Vec<Span> { sink.spans().into_iter().filter(|span| span.trace_id == trace).collect() };
    let spans = wait::until("the spans of the backup", Duration::from_secs(30), async || {
        let spans = mine();
        let whole = !of(&spans, "breakwater-controller", "job.").is_empty()
            && !of(&spans, "breakwater-agent", "storage.create").is_empty()
            && spans.iter().any(|span| span.service == "breakwater-agent" && span.name.starts_with("job"));
        whole.then_some(spans)
    })
    .await;
    for region in ["east", "west"] {
        let stored = of(&spans, "breakwater-agent", "storage.create");
        let here = stored.iter().filter(|span| span.attributes.get("region").is_some_and(|name| name == region));
        ensure!(here.count() > 0, "calls to {region} are in the trace");
    }
    let with_id = spans.iter().filter(|span| span.attributes.get("job.id").is_some_and(|named| named == id));
    ensure!(with_id.count() >= 2, "controller and agent name the job: {spans:#?}");

    let second = fleet.backup("app-plan").await?;
    let other = text(&second, "trace_id")?;
    ensure!(other != trace, "the next backup is another trace");
    wait::until("the spans of the next backup", Duration::from_secs(30), async || {
        sink.spans().iter().any(|span| span.trace_id == other).then_some(())
    })
    .await;

    for (program, log) in [("controller", fleet.controller.log()), ("agent", fleet.agent().log())] {
        let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(program)?;
        let tells = lines.iter().any(|line| names_job(line, id));
        ensure!(tells, "the log of the {program} names the job as `job.id`:\n{log}");
    }
    Ok(())
}

/// Whether a line of the log, or a span around it, has the field `job.id` with this value.
fn names_job(line: &Value, id: &str) -> bool {
    match line {
        Value::Object(fields) => {
            fields.get("job.id").is_some_and(|value| value == id) || fields.values().any(|value| names_job(value, id))
        }
        Value::Array(items) => items.iter().any(|item| names_job(item, id)),
        _ => false,
    }
}
