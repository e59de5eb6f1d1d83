//! Traces as a collector receives them: over gRPC on loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use breakwater_runtime::telemetry::{self, LogFormat, TelemetryConfig};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;

const PATIENCE: Duration = Duration::from_secs(20);

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
    let address = listener.local_addr().expect("a bound socket has an address");
    let (sender, receiver) = mpsc::channel(64);
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, receiver)
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One process has one global subscriber, so this is one test with the whole life of a program in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_one_trace_at_the_collector() {
    let (address, mut received) = collector().await;
    let config = TelemetryConfig {
        // As people write it, without a scheme.
        otlp_endpoint: Some(address.to_string()),
        log_format: LogFormat::Json,
        ..TelemetryConfig::new("breakwater-test")
    };
    let guard = telemetry::init(&config);
    assert_eq!(telemetry::current_traceparent(), None, "outside of spans there is no context");

    // A job that comes from elsewhere with the trace of its sender.
    let job = tracing::info_span!("job.run", job = "j1");
    assert!(!telemetry::set_parent(&job, "nonsense"));
    assert!(telemetry::set_parent(&job, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    let inside = async {
        tracing::info_span!("storage.create", bytes = 42_i64).in_scope(|| tracing::info!("stored"));
        tracing::debug_span!("detail").in_scope(|| ());
        telemetry::current_traceparent().unwrap()
    };
    let context = inside.instrument(job).await;
    assert!(context.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{context}");

    // Without any flush the batch comes by itself, soon.
    let begun = Instant::now();
    let batch = tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let resource = batch.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), Some(Value::StringValue("breakwater-test".to_owned())));
    assert!(
        matches!(attribute(&resource.attributes, "service.instance.id"), Some(Value::StringValue(id)) if id.len() == 32)
    );

    let spans: Vec<Span> = batch.resource_spans[0].scope_spans.iter().flat_map(|scope| scope.spans.clone()).collect();
    let named = |name: &str| spans.iter().find(|span| span.name == name);
    let (job, create) = (named("job.run").unwrap(), named("storage.create").unwrap());
    assert!(named("detail").is_none(), "debug spans stay at home");
    assert_eq!(hex(&job.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&job.parent_span_id), "b7ad6b7169203331");
    assert_eq!(context, format!("00-{}-{}-01", hex(&job.trace_id), hex(&job.span_id)));
    assert_eq!((&create.trace_id, &create.parent_span_id), (&job.trace_id, &job.span_id));
    assert_eq!(attribute(&create.attributes, "bytes"), Some(Value::IntValue(42)));
    assert_eq!(create.events[0].name, "stored");

    // The last spans of a program arrive by its shutdown.
    tracing::info_span!("last").in_scope(|| ());
    guard.shutdown().await;
    let batch = received.try_recv().expect("the shutdown waits for the collector's answer");
    assert_eq!(batch.resource_spans[0].scope_spans[0].spans[0].name, "last");
}
