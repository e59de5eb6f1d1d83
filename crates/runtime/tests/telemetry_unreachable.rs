//! A collector that is not there, or accepts and never answers, costs nothing but the traces.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use breakwater_runtime::telemetry::{self, TelemetryConfig};

#[tokio::test]
async fn an_unreachable_collector_neither_blocks_nor_fails() {
    // Bound and never accepted from: connections open and then stay silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoints =
        [format!("http://{}", silent.local_addr().unwrap()), format!("http://{refused}"), "not an address".to_owned()];
    // The first call sets the subscriber of this process; spans go to the silent collector.
    for endpoint in endpoints {
        let guard = telemetry::init(&TelemetryConfig {
            otlp_endpoint: Some(endpoint.clone()),
            ..TelemetryConfig::new("breakwater-test")
        });
        let begun = Instant::now();
        for _ in 0..20_000 {
            tracing::info_span!("work").in_scope(|| ());
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{endpoint}: spans took {:?}", begun.elapsed());
        let begun = Instant::now();
        guard.shutdown().await;
        assert!(begun.elapsed() < Duration::from_secs(6), "{endpoint}: shutdown took {:?}", begun.elapsed());
    }
}
