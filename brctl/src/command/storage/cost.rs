//! What a place would cost a month: pure arithmetic over a table of prices, which its owner can replace.

use std::collections::BTreeMap;
use std::path::Path;

use breakwater_core::ByteCount;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::Failure;

/// The table that comes with the program.
const SAMPLE: &str = include_str!("prices.json");

/// Bytes of a pack: how much one put stores.
const PACK_BYTES: u64 = 64 << 20;

/// Puts a day beside those of packs: open record, recipes, manifest and tails of a plan that streams, with room.
const SMALL_PUTS_PER_DAY: u64 = 2000;

/// Bytes that one ranged get brings back, on average, when everything is read.
const GET_BYTES: u64 = 8 << 20;

const DAYS: u64 = 30;

/// Prices of every kind of place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    currency: String,
    note: String,
    places: BTreeMap<String, PlacePrices>,
}

/// Prices of one kind of place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacePrices {
    location: String,
    egress_per_gib: f64,
    tiers: BTreeMap<String, TierPrices>,
}

/// Prices of one tier.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierPrices {
    stored_per_gib_month: f64,
    put_per_1000: f64,
    get_per_1000: f64,
    read_per_gib: f64,
}

/// What is kept there and how it is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Bytes that lie there.
    pub(super) stored: ByteCount,
    /// New bytes a day, as stored.
    pub(super) daily: ByteCount,
}

impl Prices {
    /// The table in `file`, or the sample.
    pub(super) fn read(file: Option<&Path>) -> Result<Prices, Failure> {
        let Some(path) = file else {
            return Ok(serde_json::from_str(SAMPLE).expect("the sample that comes with the program is well-formed"));
        };
        let text = std::fs::read_to_string(path).map_err(|error| Failure::io(path.display(), &error))?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!("--prices {}: {error}", path.display()))
                .hint("the table that comes with the program is shown by: brctl storage prices")
        })
    }

    /// The sample as it is written.
    pub(super) const fn sample() -> &'static str {
        SAMPLE
    }

    /// A row for each tier of places of `scheme`; none where the table has no such place.
    pub(super) fn rows(&self, scheme: &str, load: Load) -> Vec<Value> {
        let Some(place) = self.places.get(scheme) else { return Vec::new() };
        let row = |(tier, prices): (&String, &TierPrices)| self.row(place, tier, prices, load);
        place.tiers.iter().map(row).collect()
    }

    fn row(&self, place: &PlacePrices, tier: &str, prices: &TierPrices, load: Load) -> Value {
        let stored = gib(load.stored.as_u64());
        let month = load.daily.as_u64().saturating_mul(DAYS);
        let puts = month.div_ceil(PACK_BYTES) + SMALL_PUTS_PER_DAY * DAYS;
        let gets = load.stored.as_u64().div_ceil(GET_BYTES);
        let keeping = stored * prices.stored_per_gib_month;
        let writing = thousands(puts) * prices.put_per_1000;
        let reading = thousands(gets) * prices.get_per_1000 + stored * (prices.read_per_gib + place.egress_per_gib);
        json!({
            "check": "cost",
            "state": "estimate",
            "tier": tier,
            "currency": self.currency,
            "per_month": cents(keeping + writing),
            "keeping_per_month": cents(keeping),
            "writing_per_month": cents(writing),
            "reading_everything_once": cents(reading),
            "puts_per_month": puts,
            "detail": format!(
                "{tier}: {:.2} {} a month for {} kept and {} new a day ({puts} puts); reading all of it once: {:.2} ({}, {})",
                keeping + writing, self.currency, load.stored, load.daily, reading, place.location, self.note
            ),
        })
    }
}

fn cents(amount: f64) -> f64 {
    (amount * 100.0).round() / 100.0
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn thousands(count: u64) -> f64 {
    count as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"{"currency":"EUR","note":"n","places":{"s3":{"location":"here","egress_per_gib":0.1,
        "tiers":{"hot":{"stored_per_gib_month":0.02,"put_per_1000":1.0,"get_per_1000":2.0,"read_per_gib":0.3}}}}}"#;

    #[test]
    fn the_sum_is_what_paper_says() {
        let prices: Prices = serde_json::from_str(TABLE).unwrap();
        let load = Load { stored: ByteCount(1 << 40), daily: ByteCount(1 << 30) };
        let rows = prices.rows("s3", load);
        // 1024 GiB at 0.02; 30 GiB in packs of 64 MiB are 480 puts, and 60,000 small ones, at 1.00 a thousand.
        assert_eq!((&rows[0]["keeping_per_month"], &rows[0]["writing_per_month"]), (&json!(20.48), &json!(60.48)));
        // 131,072 gets of 8 MiB at 2.00 a thousand, and 1024 GiB at 0.40.
        assert_eq!(rows[0]["reading_everything_once"], json!(671.74));
        assert!(prices.rows("sftp", load).is_empty());
    }

    #[test]
    fn the_sample_has_every_tier_of_every_cloud() {
        let prices = Prices::read(None).unwrap();
        let load = Load { stored: ByteCount(1 << 40), daily: ByteCount(1 << 30) };
        for scheme in ["s3", "azure", "gs"] {
            assert_eq!(prices.rows(scheme, load).len(), 4, "{scheme}");
        }
    }
}
