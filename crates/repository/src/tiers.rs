//! Moving data that is old, or that newer snapshots do not need, to colder tiers.
//!
//! Invariants: only `data/` is moved, and only to a colder tier than it is in; a run can be stopped and repeated, since what is
//! in its tier already is passed over.

use std::collections::BTreeSet;
use std::time::Duration;

use breakwater_core::{SourceUid, Timestamp};
use breakwater_storage::{ObjectMeta, Tier};
use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use crate::error::{RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::gc::Figure;
use crate::region::{CALL_DEADLINE, READ_DEADLINE, Region, within};
use crate::region_policy::tier_for;
use crate::repository::Repository;
use crate::snapshots::SnapshotStatus;

/// Calls on their way at once into one region.
const AT_ONCE: usize = 16;

/// What is to be moved.
#[derive(Clone, Debug, Default)]
pub struct TierOptions {
    /// The regions; none: all.
    pub regions: Vec<String>,
    /// Where data of at least this age goes; none: as the policy of each region says.
    pub to: Option<(Tier, Duration)>,
    /// Packs that a snapshot needs which shows this moment or a later one stay.
    pub unneeded_since: Option<Timestamp>,
    /// Counts, and moves nothing.
    pub dry_run: bool,
    /// Ends the run at the next object.
    pub cancel: CancellationToken,
}

/// What became of the data of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionTiers {
    /// The region.
    pub region: String,
    /// Objects below `data/` that were looked at.
    pub seen: Figure,
    /// Those that were moved, or would be.
    pub moved: Figure,
    /// Old enough, but needed by newer snapshots.
    pub needed: Figure,
    /// Those that could not be moved.
    pub failed: u64,
    /// Why it did not get to its end, or the first failure.
    pub trouble: Option<String>,
}

impl Repository {
    /// Moves data to colder tiers. A region that does not take part says why in its answer.
    pub async fn move_tiers(&self, options: &TierOptions) -> Result<Vec<RegionTiers>, RepositoryError> {
        for name in &options.regions {
            self.region(name)?;
        }
        let wanted = |name: &str| options.regions.is_empty() || options.regions.iter().any(|one| one == name);
        let mut runs = Vec::new();
        for region in self.regions().iter().filter(|region| wanted(region.name())) {
            if options.to.is_none() && region.policy().moves.is_empty() {
                continue;
            }
            runs.push((region, RegionTiers { region: region.name().to_owned(), ..RegionTiers::default() }));
        }
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let sources = self.sources(&self.read_order()).await?.uids;
        // Of all sources before any moves: one may lean on packs of another.
        let mut needed = BTreeSet::new();
        if let Some(since) = options.unneeded_since {
            for source in &sources {
                needed.extend(self.needed_since(*source, since).await?);
            }
        }
        for source in sources {
            for (region, run) in &mut runs {
                if run.trouble.is_none() || run.failed > 0 {
                    let moving = self.move_in(region, source, &needed, options, run).await;
                    if let Err(trouble) = moving {
                        run.trouble = Some(trouble.to_string());
                    }
                }
            }
        }
        Ok(runs.into_iter().map(|(_, run)| run).collect())
    }

    /// The packs of content that snapshots need which show `since` or a later moment.
    async fn needed_since(&self, source: SourceUid, since: Timestamp) -> Result<BTreeSet<ObjectName>, RepositoryError> {
        let order = self.read_order();
        let list = self.snapshots(&order, Some(source)).await?;
        if let Some((name, error)) = list.damaged.into_iter().next() {
            return Err(RepositoryError::Refused(format!(
                "what newer snapshots need is not known: {name}: {}; hint: repair the repository, or move by age alone",
                breakwater_core::Chain(&error)
            )));
        }
        let mut needed = BTreeSet::new();
        let newer =
            |one: &&crate::SnapshotSummary| one.consistent_at >= since && one.status == SnapshotStatus::Committed;
        for one in list.snapshots.iter().filter(newer) {
            let manifest = self.manifest(&order, source, one.id, one.session).await?;
            needed.extend(self.packs_of(&order, &manifest).await?);
        }
        Ok(needed)
    }

    async fn move_in(
        &self,
        region: &Region,
        source: SourceUid,
        needed: &BTreeSet<ObjectName>,
        options: &TierOptions,
        run: &mut RegionTiers,
    ) -> Result<(), Trouble> {
        let storage = region.ready().await?;
        let offered = &region.features().await?.tiers;
        let now = self.now();
        let mut listing = storage.list(&format!("data/{source}/"));
        loop {
            let mut batch: Vec<(ObjectMeta, Tier)> = Vec::new();
            while batch.len() < AT_ONCE {
                if options.cancel.is_cancelled() {
                    return Err(Trouble::Unusable("stopped on request".to_owned()));
                }
                let Some(meta) = within(READ_DEADLINE, listing.try_next()).await? else { break };
                let Some(name) = ObjectName::parse(&meta.key) else { continue };
                run.seen.add(meta.size);
                let age = Duration::from_micros(u64::try_from(now.micros_since(meta.modified)).unwrap_or(0));
                let tier = match options.to {
                    Some((tier, older_than)) if age >= older_than => tier,
                    Some(_) => continue,
                    None => region.policy().tier_after(age),
                };
                let tier = tier_for(&name, tier);
                if tier <= meta.tier {
                    continue;
                }
                if !offered.contains(&tier) {
                    return Err(Trouble::Unusable(format!("{} has no tier `{tier}`", storage.location())));
                }
                if needed.contains(&name) {
                    run.needed.add(meta.size);
                } else {
                    batch.push((meta, tier));
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            let moves = batch.into_iter().map(|(meta, tier)| async move {
                if options.dry_run {
                    return Ok(meta.size);
                }
                match within(CALL_DEADLINE, storage.set_tier(&meta.key, tier)).await {
                    Ok(()) => Ok(meta.size),
                    Err(trouble) => Err((meta.key, trouble)),
                }
            });
            let moved: Vec<_> = futures::stream::iter(moves).buffered(AT_ONCE).collect().await;
            for one in moved {
                match one {
                    Ok(size) => run.moved.add(size),
                    Err((_, trouble)) if trouble.is_not_found() => {}
                    Err((key, trouble)) => {
                        run.failed += 1;
                        run.trouble.get_or_insert(format!("`{key}`: {trouble}"));
                    }
                }
            }
        }
    }
}
