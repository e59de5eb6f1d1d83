//! Spans on their way to the collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use breakwater_core::Entropy;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter, Tracer,
};
use tokio::runtime::Runtime;
use tracing::{Level, Metadata};

use crate::SystemEntropy;

/// A trace shall be visible soon after its job.
const EXPORT_DELAY: Duration = Duration::from_secs(1);
/// Room for the storage calls of a busy second while one batch is on its way.
const QUEUE_SPANS: usize = 16_384;
const BATCH_SPANS: usize = 1024;
/// How long one batch may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of the program may wait for the last batch.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Crates whose own spans would be noise, or would make the exporter trace its exports.
const FOREIGN: [&str; 7] = ["h2", "hyper", "hyper_util", "tonic", "tower", "opentelemetry", "rustls"];

/// Whether a span or event belongs into the trace of a job.
pub(super) fn is_ours(metadata: &Metadata<'_>) -> bool {
    let root = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::INFO && !FOREIGN.contains(&root) && !root.starts_with("opentelemetry")
}

/// The way to a collector: its address, and a runtime for its connection.
pub(super) struct Exporter {
    spans: Announcing<OtlpExporter>,
    runtime: Runtime,
}

impl Exporter {
    /// The way to the collector at `endpoint`; nothing is connected yet. The error is a sentence for the log.
    pub(super) fn to(endpoint: &str) -> Result<Exporter, String> {
        // Without a scheme the exporter would take `host:port` for TLS; people mean the plain port that collectors open.
        let endpoint = &if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        let complain = |reason: &dyn std::fmt::Display| format!("traces are not exported to `{endpoint}`: {reason}");
        // Its own runtime: spans can be flushed while the program's runtime is busy, blocked or gone.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build()
            .map_err(|error| complain(&error))?;
        let entered = runtime.enter();
        let inner = OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| complain(&error));
        drop(entered);
        match inner {
            Ok(inner) => Ok(Exporter {
                spans: Announcing { inner, endpoint: endpoint.as_str().into(), failing: AtomicBool::new(false) },
                runtime,
            }),
            Err(complaint) => {
                runtime.shutdown_background();
                Err(complaint)
            }
        }
    }
}

/// The source of spans of a program named `service`, exported by `exporter` if there is one.
pub(super) fn provider(service: &'static str, exporter: Option<Exporter>) -> (Tracer, Guard) {
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.instance.id", instance_id()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let mut builder = SdkTracerProvider::builder().with_resource(resource);
    let mut runtime = None;
    if let Some(exporter) = exporter {
        let batches = BatchConfigBuilder::default()
            .with_scheduled_delay(EXPORT_DELAY)
            .with_max_queue_size(QUEUE_SPANS)
            .with_max_export_batch_size(BATCH_SPANS)
            .build();
        let processor = BatchSpanProcessor::builder(exporter.spans).with_batch_config(batches).build();
        builder = builder.with_span_processor(processor);
        runtime = Some(exporter.runtime);
    }
    let provider = builder.build();
    let tracer = provider.tracer("breakwater");
    (tracer, Guard { open: Some(Open { provider, runtime }) })
}

/// Tells this process from others of the same service, earlier ones on this host included.
fn instance_id() -> String {
    let mut id = [0; 16];
    SystemEntropy.fill(&mut id);
    breakwater_core::Uid(id).to_string()
}

/// Keeps telemetry running. Dropping it sends what is queued, waiting at most three seconds; in async code prefer
/// [`shutdown`](Guard::shutdown), which does not block the thread.
#[must_use = "telemetry ends when the guard is dropped"]
pub struct Guard {
    open: Option<Open>,
}

struct Open {
    provider: SdkTracerProvider,
    runtime: Option<Runtime>,
}

impl Guard {
    /// Sends what is queued, waiting at most three seconds, and ends the export.
    pub async fn shutdown(mut self) {
        if let Some(open) = self.open.take() {
            // A failure here was already said by the exporter; the program ends all the same.
            drop(tokio::task::spawn_blocking(move || open.close()).await);
        }
    }

    /// Sends what is queued now, waiting for the collector's answer. Blocks the thread.
    pub fn flush(&self) {
        if let Some(open) = &self.open {
            drop(open.provider.force_flush());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.close();
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("open", &self.open.is_some()).finish()
    }
}

impl Open {
    fn close(self) {
        drop(self.provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        if let Some(runtime) = self.runtime {
            // Never blocks, so it may happen inside of another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Says in the log when a collector begins to fail and when it answers again, not with every batch between.
#[derive(Debug)]
struct Announcing<E> {
    inner: E,
    endpoint: Arc<str>,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Announcing<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        let endpoint = &*self.endpoint;
        match (&result, self.failing.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(endpoint, spans, %error, "traces are not delivered; they are dropped until the collector answers");
            }
            (Ok(()), true) => tracing::info!(endpoint, "traces are delivered again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
