//! How much lies in each region: objects and bytes by tier, and what came to it lately.
//!
//! Invariant: figures of a region are of one list that got to its end; a list that broke off is no figure.

use std::collections::BTreeMap;

use breakwater_core::{Chain, Clock, Timestamp};
use breakwater_proto::v1;
use breakwater_repository::Region;
use breakwater_runtime::SystemClock;
use breakwater_storage::{ObjectMeta, Tier};
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

const DAY: i64 = 24 * 3600 * 1_000_000;

/// Bytes that are there now and were created within so many days.
const WINDOWS: [(&str, i64); 3] = [("added_1d", DAY), ("added_7d", 7 * DAY), ("added_30d", 30 * DAY)];

/// Counts what lies in the regions.
pub(super) async fn perform(place: &Workplace, spec: &v1::UsageSpec) -> Result<Outcome, AgentError> {
    let all = place.repository.regions();
    if let Some(unknown) = spec.regions.iter().find(|name| !all.iter().any(|region| region.name() == **name)) {
        return Err(AgentError::NotFound(format!("repository `{}` has no region `{unknown}`", place.name)));
    }
    let wanted =
        |region: &&std::sync::Arc<Region>| spec.regions.is_empty() || spec.regions.contains(&region.name().to_owned());
    let now = SystemClock.now();
    let (mut rows, mut troubles) = (Vec::new(), Vec::new());
    for region in all.iter().filter(wanted) {
        match count(region, now).await {
            Ok(tally) => rows.extend(tally.rows(region.name())),
            Err(why) => troubles.push(format!("region {}: {why}", region.name())),
        }
    }
    let summary = json!({ "counted_at": now, "regions": rows, "troubles": troubles });
    if troubles.is_empty() {
        return Ok(Outcome::done(summary));
    }
    let missing = format!("not every region was counted: {} (hint: count again once it answers)", troubles.join("; "));
    Ok(match rows.is_empty() {
        true => Outcome::failed(summary, AgentError::Unavailable(missing)),
        false => Outcome::partial(summary, missing),
    })
}

async fn count(region: &Region, now: Timestamp) -> Result<Tally, String> {
    let storage = region.ready().await.map_err(|trouble| trouble.to_string())?;
    let mut tally = Tally { now, use_of: BTreeMap::new() };
    let mut listing = storage.list("");
    while let Some(object) = listing.try_next().await.map_err(|error| Chain(&error).to_string())? {
        tally.add(&object);
    }
    Ok(tally)
}

/// What was counted so far.
struct Tally {
    now: Timestamp,
    use_of: BTreeMap<Tier, Use>,
}

#[derive(Default)]
struct Use {
    objects: u64,
    bytes: u64,
    added: [u64; WINDOWS.len()],
}

impl Tally {
    fn add(&mut self, object: &ObjectMeta) {
        let one = self.use_of.entry(object.tier).or_default();
        one.objects += 1;
        one.bytes += object.size;
        for (added, (_, window)) in one.added.iter_mut().zip(WINDOWS) {
            if self.now.micros_since(object.modified) < window {
                *added += object.size;
            }
        }
    }

    /// A row for each tier; an empty region has one too.
    fn rows(mut self, region: &str) -> Vec<Value> {
        if self.use_of.is_empty() {
            self.use_of.insert(Tier::Hot, Use::default());
        }
        let row = |(tier, one): (&Tier, &Use)| {
            let mut row = json!({
                "region": region, "tier": tier.as_str(), "objects": one.objects, "bytes": one.bytes,
            });
            for (added, (name, _)) in one.added.iter().zip(WINDOWS) {
                row[name] = Value::from(*added);
            }
            row
        };
        self.use_of.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_count_by_tier_and_age() {
        let now = Timestamp::from_micros(100 * DAY);
        let mut tally = Tally { now, use_of: BTreeMap::new() };
        for (age, tier) in [(0, Tier::Hot), (3, Tier::Hot), (20, Tier::Cold), (90, Tier::Cold)] {
            let modified = now.plus_micros(-age * DAY);
            tally.add(&ObjectMeta { tier, ..ObjectMeta::new("data/x", 10, modified) });
        }
        assert_eq!(
            tally.rows("east"),
            [
                json!({"region": "east", "tier": "hot", "objects": 2, "bytes": 20, "added_1d": 10, "added_7d": 20, "added_30d": 20}),
                json!({"region": "east", "tier": "cold", "objects": 2, "bytes": 20, "added_1d": 0, "added_7d": 0, "added_30d": 10}),
            ]
        );
        assert_eq!(Tally { now, use_of: BTreeMap::new() }.rows("west")[0]["objects"], 0);
    }
}
