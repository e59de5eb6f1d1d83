//! Figures for monitoring, as OpenMetrics text on `/metrics` of the controller's address: the same as people see, read when
//! they are asked for.
//!
//! Moments are exported, not ages: a figure that nobody renews grows old by itself.

use std::fmt;
use std::sync::atomic::AtomicU64;

use breakwater_core::Timestamp;
use breakwater_proto::v1;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::Value;

use crate::catalogue;
use crate::error::ControlError;
use crate::overview::Overview;

/// The type of content of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// All figures now.
pub async fn text(overview: &Overview) -> Result<String, ControlError> {
    let figures = Figures::new();
    for namespace in catalogue::namespaces(&overview.book).await? {
        for row in overview.regions(&namespace, "").await?.rows {
            figures.region(&row);
        }
        for row in overview.lag(&namespace, "").await?.rows {
            figures.source(&row);
        }
    }
    figures.encode().map_err(|error| ControlError::answer(breakwater_core::ErrorClass::Internal, error.to_string()))
}

/// Every figure that there is.
struct Figures {
    registry: Registry,
    reachable: Gauges,
    observed: Gauges,
    last_success: Gauges,
    owed_objects: Gauges,
    owed_bytes: Gauges,
    requests: Gauges,
    errors: Gauges,
    bytes_up: Gauges,
    bytes_down: Gauges,
    latency: Gauges,
    stored_objects: Gauges,
    stored_bytes: Gauges,
    added_bytes: Gauges,
    counted: Gauges,
    recoverable: Gauges,
    pending_bytes: Gauges,
    source_observed: Gauges,
}

impl Figures {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("breakwater");
        let mut add = |name: &str, help: &str, unit: Option<Unit>| {
            let gauges = Gauges::default();
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauges.clone()),
                None => registry.register(name, help, gauges.clone()),
            }
            gauges
        };
        let moment = || Some(Unit::Seconds);
        let bytes = || Some(Unit::Bytes);
        Figures {
            reachable: add("region_reachable", "1 while the agent gets answers from the region", None),
            observed: add("region_observed_timestamp", "When the agent last said so", moment()),
            last_success: add("region_last_success_timestamp", "When the region last answered well", moment()),
            owed_objects: add("region_owed_objects", "Objects that the region misses", None),
            owed_bytes: add("region_owed", "What the region misses", bytes()),
            requests: add("region_requests", "Requests since the agent began to count", None),
            errors: add("region_errors", "Requests of those that ended in trouble", None),
            bytes_up: add("region_sent", "Content sent since the agent began to count", bytes()),
            bytes_down: add("region_received", "Content received since the agent began to count", bytes()),
            latency: add("region_latency", "Time that small calls took lately", moment()),
            stored_objects: add("region_stored_objects", "Objects in the region when they were last counted", None),
            stored_bytes: add("region_stored", "What lay in the region when it was last counted", bytes()),
            added_bytes: add("region_added", "What of it was then younger than the window", bytes()),
            counted: add("region_counted_timestamp", "When that was", moment()),
            recoverable: add(
                "source_recoverable_timestamp",
                "Up to when the source can be restored from the region alone",
                moment(),
            ),
            pending_bytes: add("source_pending", "What of the source the region misses", bytes()),
            source_observed: add("source_observed_timestamp", "When that was last measured", moment()),
            registry,
        }
    }

    fn region(&self, row: &v1::RegionRow) {
        let Some(region) = &row.region else { return };
        let labels = || {
            vec![
                ("namespace", row.namespace.clone()),
                ("repository", row.repository.clone()),
                ("region", region.name.clone()),
            ]
        };
        for sight in &row.sights {
            let Some(health) = &sight.health else { continue };
            let mut labels = labels();
            labels.push(("agent", sight.agent.clone()));
            set(&self.reachable, &labels, if health.reachable { 1.0 } else { 0.0 });
            set_moment(&self.observed, &labels, health.observed);
            set(&self.owed_objects, &labels, number(health.owed_objects));
            set(&self.owed_bytes, &labels, number(health.owed_bytes));
            if let Some(traffic) = &health.traffic {
                self.traffic(&labels, traffic);
            }
        }
        self.usage(&labels(), &region.name, &row.usage_json);
    }

    fn traffic(&self, labels: &Labels, traffic: &v1::RegionTraffic) {
        set(&self.requests, labels, number(traffic.requests));
        set(&self.errors, labels, number(traffic.errors));
        set(&self.bytes_up, labels, number(traffic.bytes_up));
        set(&self.bytes_down, labels, number(traffic.bytes_down));
        set_moment(&self.last_success, labels, traffic.last_success);
        for (quantile, micros) in [("0.5", traffic.latency_p50_micros), ("0.95", traffic.latency_p95_micros)] {
            if micros != 0 {
                set(&self.latency, &with(labels, "quantile", quantile), number(micros) / 1e6);
            }
        }
    }

    fn usage(&self, labels: &Labels, region: &str, usage_json: &str) {
        let Ok(usage) = serde_json::from_str::<Value>(usage_json) else { return };
        let rows = usage["regions"].as_array().map_or(&[][..], Vec::as_slice);
        for row in rows.iter().filter(|row| row["region"] == region) {
            let labels = with(labels, "tier", row["tier"].as_str().unwrap_or_default());
            let figure = |name: &str| row[name].as_u64().map(number);
            for (gauges, value) in [(&self.stored_objects, figure("objects")), (&self.stored_bytes, figure("bytes"))] {
                value.into_iter().for_each(|value| set(gauges, &labels, value));
            }
            for window in ["1d", "7d", "30d"] {
                if let Some(value) = figure(&format!("added_{window}")) {
                    set(&self.added_bytes, &with(&labels, "window", window), value);
                }
            }
            set_moment(&self.counted, &labels, usage["counted_at"].as_i64().unwrap_or(0));
        }
    }

    fn source(&self, row: &v1::LagRow) {
        let labels = vec![
            ("namespace", row.namespace.clone()),
            ("source", row.source.clone()),
            ("region", row.region.clone()),
            ("role", row.role.clone()),
        ];
        set_moment(&self.recoverable, &labels, row.recoverable);
        set_moment(&self.source_observed, &labels, row.observed);
        if row.observed != 0 {
            set(&self.pending_bytes, &labels, number(row.pending_bytes));
        }
    }

    fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

fn set(gauges: &Gauges, labels: &Labels, value: f64) {
    gauges.get_or_create(labels).set(value);
}

/// A moment in seconds; one that never was is left out.
fn set_moment(gauges: &Gauges, labels: &Labels, micros: i64) {
    if micros != 0 {
        set(gauges, labels, Timestamp::from_micros(micros).as_seconds_f64());
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of monitoring are floating-point numbers")]
fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_said_and_nothing_else() {
        let figures = Figures::new();
        let health =
            v1::RegionHealth { region: "east".into(), reachable: true, observed: 5_000_000, ..Default::default() };
        let usage =
            r#"{"counted_at":7000000,"regions":[{"region":"east","tier":"cold","objects":2,"bytes":10,"added_1d":4}]}"#;
        figures.region(&v1::RegionRow {
            repository: "main".into(),
            namespace: "default".into(),
            region: Some(v1::RegionSpec { name: "east".into(), ..Default::default() }),
            sights: vec![v1::AgentSight { agent: "db-1".into(), health: Some(health) }],
            usage_json: usage.into(),
        });
        let text = figures.encode().unwrap();
        let where_ = r#"namespace="default",repository="main",region="east""#;
        for line in [
            format!(r#"breakwater_region_reachable{{{where_},agent="db-1"}} 1.0"#),
            format!(r#"breakwater_region_observed_timestamp_seconds{{{where_},agent="db-1"}} 5.0"#),
            format!(r#"breakwater_region_stored_bytes{{{where_},tier="cold"}} 10.0"#),
            format!(r#"breakwater_region_added_bytes{{{where_},tier="cold",window="1d"}} 4.0"#),
            format!(r#"breakwater_region_counted_timestamp_seconds{{{where_},tier="cold"}} 7.0"#),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        // Nothing was counted, and nobody answered well: there is no such figure, not a zero.
        assert!(
            !text.contains("breakwater_region_requests{") && !text.contains("last_success_timestamp_seconds{"),
            "{text}"
        );
    }
}
