//! A collector for traces inside the test: programs send spans to it by OTLP over gRPC, the test reads them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::wait;

/// One finished span as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits; `None` for the root of a trace.
    pub parent_id: Option<String>,
    /// What was done.
    pub name: String,
    /// The resource's `service.name`: the program that did it.
    pub service: String,
    /// The span's own attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether its status is an error, and the message of that.
    pub error: Option<String>,
    /// Nanoseconds since the Unix epoch.
    pub start_nanos: u64,
    /// Nanoseconds since the Unix epoch.
    pub end_nanos: u64,
}

type Spans = Arc<Mutex<Vec<Span>>>;

/// The collector. It ends when dropped.
#[derive(Debug)]
pub struct OtlpSink {
    endpoint: String,
    spans: Spans,
    server: JoinHandle<()>,
}

impl OtlpSink {
    /// Listens on a free port of the loopback interface.
    pub async fn start() -> Result<OtlpSink> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen for spans")?;
        let endpoint = format!("http://{}", listener.local_addr().context("find the collector's port")?);
        let spans = Spans::default();
        let service = TraceServiceServer::new(Collector { spans: Arc::clone(&spans) });
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("the collector of spans broke down: {error}");
            }
        });
        Ok(OtlpSink { endpoint, spans, server })
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All spans that arrived so far, in the order of their arrival.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a span for which `wanted` is true has arrived, and gives it. Exporters send in batches, so this may take as
    /// long as their interval.
    pub async fn wait_for(&self, description: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        wait::until(description, Duration::from_secs(30), async || self.spans().into_iter().find(&wanted)).await
    }
}

impl Drop for OtlpSink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Collector {
    spans: Spans,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut arrived = Vec::new();
        for resource_spans in request.into_inner().resource_spans {
            let resource = texts(resource_spans.resource.unwrap_or_default().attributes);
            let service = resource.get("service.name").cloned().unwrap_or_default();
            for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let status = span.status.unwrap_or_default();
                arrived.push(Span {
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent_id: Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty()),
                    name: span.name,
                    service: service.clone(),
                    attributes: texts(span.attributes),
                    // 2 is STATUS_CODE_ERROR.
                    error: (status.code == 2).then_some(status.message),
                    start_nanos: span.start_time_unix_nano,
                    end_nanos: span.end_time_unix_nano,
                });
            }
        }
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(arrived);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan};

    use super::*;

    fn attribute(key: &str, value: &str) -> KeyValue {
        let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
        KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
    }

    #[tokio::test]
    async fn spans_arrive_with_their_trace_and_service() {
        let sink = OtlpSink::start().await.unwrap();
        let mut client = TraceServiceClient::connect(sink.endpoint().to_owned()).await.unwrap();
        let span = WireSpan {
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            parent_span_id: vec![2; 8],
            name: "put".to_owned(),
            attributes: vec![attribute("region", "north")],
            ..WireSpan::default()
        };
        let root = WireSpan { parent_span_id: Vec::new(), name: "job".to_owned(), ..span.clone() };
        let resource = Resource { attributes: vec![attribute("service.name", "agent")], ..Resource::default() };
        let scope_spans = vec![ScopeSpans { spans: vec![span, root], ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
        client.export(ExportTraceServiceRequest { resource_spans }).await.unwrap();

        let put = sink.wait_for("the span `put`", |span| span.name == "put").await;
        assert_eq!((put.service.as_str(), put.attributes["region"].as_str()), ("agent", "north"));
        assert_eq!((put.trace_id.len(), put.parent_id.as_deref()), (32, Some("0202020202020202")));
        assert_eq!(sink.spans()[1].parent_id, None);
    }
}
