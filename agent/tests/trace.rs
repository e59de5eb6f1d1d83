//! One trace for a job: what the controller decided, what the agent did, and every call into a region. In a process of its
//! own, because a process has one collector.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[allow(dead_code, reason = "a part of the other tests' lab is enough here")]
#[path = "agent/lab.rs"]
mod lab;

use std::collections::BTreeSet;

use breakwater_runtime::telemetry::{self, TelemetryConfig};
use breakwater_testkit::otlp::OtlpSink;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_one_trace_from_the_request_to_the_last_put() {
    let sink = OtlpSink::start().await.unwrap();
    let config =
        TelemetryConfig { otlp_endpoint: Some(sink.endpoint().to_owned()), ..TelemetryConfig::new("breakwater-agent") };
    let guard = telemetry::init(&config);
    let lab = lab::Lab::new().await;
    let file = lab.path("app.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
    lab.declare(&format!("sqlite: {{path: {}}}", file.display())).await;
    let job = lab.backup().await;
    assert_eq!(job.trace_id.len(), 32, "the job knows its trace");

    let ours = |span: &breakwater_testkit::otlp::Span| span.trace_id == job.trace_id;
    sink.wait_for("the span of the job", |span| ours(span) && span.name == "job").await;
    // The exporter sends in batches; what ended before the job span may still be in the next one.
    guard.shutdown().await;
    let spans: Vec<_> = sink.spans().into_iter().filter(ours).collect();
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    for expected in ["job.accept", "job.dispatch", "job", "probing", "reading", "storage.create", "storage.list"] {
        assert!(names.contains(expected), "no span `{expected}` among {names:?}");
    }
    let root = spans.iter().find(|span| span.name == "job").unwrap();
    assert_eq!((root.attributes["job.kind"].as_str(), root.attributes["source.name"].as_str()), ("backup", "app"));
    assert_eq!(root.attributes["job.attempt"], "1");
    let puts = spans.iter().filter(|span| span.name == "storage.create");
    let regions: BTreeSet<&str> = puts.clone().map(|span| span.attributes["region"].as_str()).collect();
    assert_eq!(regions.into_iter().collect::<Vec<_>>(), ["east", "west"]);
    for kind in ["/snap/", "/pack/"] {
        assert!(puts.clone().any(|span| span.attributes["key"].contains(kind)), "no put of {kind} in the trace");
    }
    let known: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let lost: Vec<_> = spans
        .iter()
        .filter(|span| span.parent_id.as_ref().is_some_and(|parent| !known.contains(parent.as_str())))
        .map(|span| &span.name)
        .collect();
    assert!(lost.is_empty(), "every span hangs on another one of the trace: {lost:?}");
}
