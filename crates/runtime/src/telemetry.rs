//! Logs to stderr, and traces to a collector where one is named.
//!
//! Invariant: telemetry never holds up or fails the program. The exporter has a thread and a runtime of its own; what a
//! collector does not take is dropped, and said once in the log.
//!
//! Spans exist also without a collector, so that the trace context passes through a program that exports nothing.

mod export;
mod propagation;

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use export::Guard;
pub use propagation::{current_traceparent, set_parent, traceparent_of};

use export::Exporter;

/// The environment variable with directives for the log, like `info,breakwater_repository=debug`.
pub const LOG_VARIABLE: &str = "BREAKWATER_LOG";

/// The environment variable with the form of the log, `text` or `json`, which comes before the configuration's.
pub const FORMAT_VARIABLE: &str = "BREAKWATER_LOG_FORMAT";

/// The environment variable that names the collector where the configuration does not.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What a program says about itself, and where.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// The program: `breakwater-agent`.
    pub service: &'static str,
    /// The collector's OTLP/gRPC address, like `http://127.0.0.1:4317`. `None`: that of `OTEL_EXPORTER_OTLP_ENDPOINT`, else
    /// traces go nowhere.
    pub otlp_endpoint: Option<String>,
    /// The form of the log; `BREAKWATER_LOG_FORMAT` comes before it.
    pub log_format: LogFormat,
    /// The least severe level in the log; `BREAKWATER_LOG` comes before it.
    pub level: Level,
}

impl TelemetryConfig {
    /// Text at level `info`, and the collector that the environment names.
    pub fn new(service: &'static str) -> TelemetryConfig {
        TelemetryConfig { service, otlp_endpoint: None, log_format: LogFormat::Text, level: Level::INFO }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = BadLogFormat;
    fn from_str(text: &str) -> Result<Self, BadLogFormat> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(BadLogFormat(text.to_owned())),
        }
    }
}

/// A text that is not a form of log lines.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLogFormat(String);

impl std::fmt::Display for BadLogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is not a log format: use text or json", self.0)
    }
}

impl std::error::Error for BadLogFormat {}

/// Starts logging and tracing for this process. Keep the guard until the end of the program, then call
/// [`Guard::shutdown`], or the last spans are lost.
///
/// A wrong endpoint, filter or format is a warning in the log, never an error. When the process has a subscriber already, that
/// one stays and this call changes nothing.
pub fn init(config: &TelemetryConfig) -> Guard {
    let endpoint = config.otlp_endpoint.clone().or_else(|| std::env::var(ENDPOINT_VARIABLE).ok());
    let directives = std::env::var(LOG_VARIABLE).ok();
    let format = std::env::var(FORMAT_VARIABLE).ok();
    let ansi = std::io::stderr().is_terminal();
    let parts = Parts { endpoint, directives, format, ansi, writer: BoxMakeWriter::new(std::io::stderr) };
    let (dispatch, guard, complaints) = assemble(config, parts);
    if dispatch.try_init().is_err() {
        tracing::debug!("a tracing subscriber is set already and stays");
    }
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    guard
}

/// What [`init`] takes from the process around it.
struct Parts {
    endpoint: Option<String>,
    directives: Option<String>,
    format: Option<String>,
    ansi: bool,
    writer: BoxMakeWriter,
}

/// The subscriber, the guard of its exporter, and what is wrong with the configuration.
fn assemble(config: &TelemetryConfig, parts: Parts) -> (Dispatch, Guard, Vec<String>) {
    let mut complaints = Vec::new();
    let exporter = match parts.endpoint.filter(|endpoint| !endpoint.is_empty()).map(|endpoint| Exporter::to(&endpoint))
    {
        Some(Ok(exporter)) => Some(exporter),
        Some(Err(complaint)) => {
            complaints.push(complaint);
            None
        }
        None => None,
    };
    let (tracer, guard) = export::provider(config.service, exporter);
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(tracing_subscriber::filter::filter_fn(export::is_ours));

    let filter = filter(config.level, parts.directives.as_deref(), &mut complaints);
    let lines = tracing_subscriber::fmt::layer().with_writer(parts.writer).with_ansi(parts.ansi);
    let format = log_format(config.log_format, parts.format.as_deref(), &mut complaints);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    (Registry::default().with(spans).with(lines.with_filter(filter)).into(), guard, complaints)
}

fn log_format(configured: LogFormat, named: Option<&str>, complaints: &mut Vec<String>) -> LogFormat {
    match named.filter(|named| !named.is_empty()).map(str::parse) {
        Some(Ok(format)) => format,
        Some(Err(error)) => {
            complaints.push(format!("{FORMAT_VARIABLE} is ignored: {error}"));
            configured
        }
        None => configured,
    }
}

fn filter(level: Level, directives: Option<&str>, complaints: &mut Vec<String>) -> EnvFilter {
    // The exporter reports its trouble itself, once; the SDK would do so with every batch.
    const QUIET: &str = "opentelemetry=off";
    if let Some(directives) = directives.filter(|directives| !directives.trim().is_empty()) {
        match EnvFilter::try_new(format!("{QUIET},{directives}")) {
            Ok(filter) => return filter,
            Err(error) => complaints.push(format!("{LOG_VARIABLE} is not understood and ignored: {error}")),
        }
    }
    EnvFilter::new(format!("{},{QUIET}", LevelFilter::from_level(level)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What the log holds after an error, a warning and a debug line inside a span.
    fn log(config: &TelemetryConfig, directives: Option<&str>) -> (String, Vec<String>) {
        let lines = Lines::default();
        let sink = lines.clone();
        let parts = Parts {
            endpoint: None,
            directives: directives.map(str::to_owned),
            format: None,
            ansi: false,
            writer: BoxMakeWriter::new(move || sink.clone()),
        };
        let (dispatch, guard, complaints) = assemble(config, parts);
        tracing::dispatcher::with_default(&dispatch, || {
            let _job = tracing::info_span!("job", job = "j1").entered();
            tracing::warn!(bytes = 7, "slow region");
            tracing::debug!("detail");
            tracing::error!(target: "opentelemetry_sdk", "noise of the exporter");
        });
        drop(guard);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        (text, complaints)
    }

    #[test]
    fn text_lines_obey_the_level() {
        let (text, complaints) = log(&TelemetryConfig::new("test"), None);
        assert!(text.contains("WARN job{job=\"j1\"}") && text.contains("slow region bytes=7"), "{text}");
        assert!(!text.contains("detail") && !text.contains("noise"), "{text}");
        assert!(complaints.is_empty());
    }

    #[test]
    fn the_environment_comes_before_the_level() {
        let (text, _) = log(&TelemetryConfig::new("test"), Some("debug"));
        assert!(text.contains("detail"), "{text}");
        let (text, _) = log(&TelemetryConfig::new("test"), Some("error"));
        assert_eq!(text, "");
    }

    #[test]
    fn a_bad_filter_is_a_complaint_not_silence() {
        let (text, complaints) = log(&TelemetryConfig::new("test"), Some("info,x=nonsense"));
        assert!(text.contains("slow region"), "{text}");
        assert!(complaints[0].contains("BREAKWATER_LOG"), "{complaints:?}");
    }

    #[test]
    fn the_environment_names_the_format() {
        let mut complaints = Vec::new();
        let mut named = |name: &str| log_format(LogFormat::Text, Some(name), &mut complaints);
        assert_eq!((named("json"), named(""), named("xml")), (LogFormat::Json, LogFormat::Text, LogFormat::Text));
        assert!(complaints[0].contains("BREAKWATER_LOG_FORMAT") && complaints[0].contains("xml"), "{complaints:?}");
    }

    #[test]
    fn json_lines_are_json() {
        let config = TelemetryConfig { log_format: "json".parse().unwrap(), ..TelemetryConfig::new("test") };
        let (text, _) = log(&config, None);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&line["level"], &line["fields"]["bytes"]), (&"WARN".into(), &7.into()));
        assert_eq!(line["span"]["job"], "j1");
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
