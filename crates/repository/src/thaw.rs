//! Data that lies in an archive and must be thawed before it can be read: what of it is needed, from which region, how long that
//! takes, and asking for all of it at once.
//!
//! Invariant: nothing is asked to be thawed that some region can deliver now; what is needed is known as a whole before the
//! first object is asked for, since waiting times run side by side and begin with the request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::SourceUid;
use breakwater_storage::{Availability, ObjectMeta, Thaw, ThawSpeed, Tier};
use futures::{StreamExt, TryStreamExt};

use crate::error::{Cause, RepositoryError, Trouble};
use crate::fetch::ReadOrder;
use crate::format::moved::Moved;
use crate::format::pack::KeyKind;
use crate::format::record::RecordKind;
use crate::format::{FormatError, ObjectName};
use crate::gc::Figure;
use crate::region::{CALL_DEADLINE, READ_DEADLINE, Region, within};
use crate::region_policy::tier_for;
use crate::repository::Repository;

/// Calls on their way at once into one region.
const AT_ONCE: usize = 32;
/// How often frames that have moved are followed: repacking again and again makes a chain.
const MOVES_MAX: usize = 16;

/// What of some objects has to be thawed.
#[derive(Debug, Default)]
pub struct ThawPlan {
    /// By region, in the order of reading; only those that something is to come from.
    pub regions: Vec<RegionThaw>,
    /// Objects that can be read now.
    pub ready: Figure,
    /// Objects that no region has; who reads them will find out why.
    pub missing: u64,
    /// Regions that did not answer: what they could deliver is not known.
    pub silent: Vec<Cause>,
}

/// What is to be thawed in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionThaw {
    /// The region.
    pub region: String,
    /// What kind of place it is: the scheme of its URL.
    pub scheme: String,
    /// How many objects, and their bytes.
    pub figure: Figure,
    /// How many of them are on their way already.
    pub thawing: u64,
    names: Vec<String>,
}

impl ThawPlan {
    /// Whether everything can be read now.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// How many objects have to be thawed.
    pub fn objects(&self) -> u64 {
        self.regions.iter().map(|one| one.figure.objects).sum()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|one| one.figure.bytes).sum()
    }
}

impl Repository {
    /// Whether any region in `order` that answers has an archive.
    pub async fn may_be_archived(&self, order: &ReadOrder) -> bool {
        let asked = order.regions().iter().map(|region| region.features());
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().any(|features| features.tiers.contains(&Tier::Archive))
    }

    /// What of `needed` has to be thawed before it can be read from the regions in `order`.
    pub async fn plan_thaw(
        &self,
        order: &ReadOrder,
        needed: BTreeSet<ObjectName>,
    ) -> Result<ThawPlan, RepositoryError> {
        let mut plan = ThawPlan::default();
        // Of more than one where the snapshot leans on packs of others.
        let sources: BTreeSet<SourceUid> = needed.iter().filter_map(ObjectName::source).collect();
        let mut views = Vec::new();
        let mut archives = false;
        for region in order.regions() {
            let looking = async {
                let archives = region.features().await?.tiers.contains(&Tier::Archive);
                Ok::<_, Trouble>((archives, look(region, &sources).await?))
            };
            match looking.await {
                Ok((has_archive, view)) => {
                    archives |= has_archive;
                    views.push((region, view));
                }
                Err(trouble) => plan.silent.push(region.cause(trouble)),
            }
        }
        if !archives {
            return Ok(plan);
        }
        let needed =
            self.followed(order, &sources, needed, |key| views.iter().any(|(_, view)| view.contains_key(key))).await?;
        look_closer(&mut views, &needed).await?;
        for name in needed.iter().filter(|name| tier_for(name, Tier::Archive) != Tier::Hot) {
            let key = name.to_string();
            let found =
                |wanted| views.iter().position(|(_, view)| view.get(&key).is_some_and(|(state, _)| *state == wanted));
            let size = views.iter().find_map(|(_, view)| view.get(&key)).map_or(0, |(_, size)| *size);
            if found(Availability::Ready).is_some() {
                plan.ready.add(size);
                continue;
            }
            let (thawing, archived) = (found(Availability::Thawing), found(Availability::Archived));
            let Some((region, _)) = thawing.or(archived).and_then(|index| views.get(index)) else {
                plan.missing += 1;
                continue;
            };
            let slot = match plan.regions.iter().position(|one| one.region == region.name()) {
                Some(slot) => slot,
                None => {
                    let scheme = region.place().location().split(':').next().unwrap_or_default().to_owned();
                    let (region, figure) = (region.name().to_owned(), Figure::default());
                    plan.regions.push(RegionThaw { region, scheme, figure, thawing: 0, names: Vec::new() });
                    plan.regions.len() - 1
                }
            };
            if let Some(one) = plan.regions.get_mut(slot) {
                one.figure.add(size);
                one.thawing += u64::from(thawing.is_some());
                one.names.push(key);
            }
        }
        let rank = |one: &RegionThaw| order.regions().iter().position(|region| region.name() == one.region);
        plan.regions.sort_by_key(rank);
        Ok(plan)
    }

    /// Asks for everything in `plan` at once. When it is dropped on the way, what was asked for is thawed all the same.
    pub async fn begin_thaw(&self, plan: &ThawPlan, thaw: Thaw) -> Result<(), RepositoryError> {
        for one in &plan.regions {
            let region = self.region(&one.region)?;
            let asks = one.names.iter().map(|key| async move {
                let asked = async { within(CALL_DEADLINE, region.ready().await?.thaw(key, thaw)).await };
                asked.await.map_err(|trouble| unthawed(region, key, trouble))
            });
            // Collected: a stream over the closure would keep the compiler from seeing that callers can be spawned.
            let asks: Vec<_> = asks.collect();
            futures::stream::iter(asks).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// What of `plan` cannot be read yet.
    pub async fn still_thawing(&self, plan: &ThawPlan) -> Result<Figure, RepositoryError> {
        let mut left = Figure::default();
        for one in &plan.regions {
            let region = self.region(&one.region)?;
            let looks = one.names.iter().map(|key| async move {
                let head = async { within(READ_DEADLINE, region.ready().await?.head(key)).await };
                head.await.map_err(|trouble| unthawed(region, key, trouble))
            });
            let looks: Vec<_> = looks.collect();
            let mut looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
            while let Some(meta) = looks.try_next().await? {
                if meta.availability != Availability::Ready {
                    left.add(meta.size);
                }
            }
        }
        Ok(left)
    }

    /// The same objects, and for those that `is_there` does not know, the ones that their frames have moved to.
    async fn followed(
        &self,
        order: &ReadOrder,
        sources: &BTreeSet<SourceUid>,
        mut needed: BTreeSet<ObjectName>,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<ObjectName>, RepositoryError> {
        let mut moves: Option<BTreeMap<ObjectName, Vec<ObjectName>>> = None;
        for _ in 0..MOVES_MAX {
            let gone: Vec<ObjectName> = needed
                .iter()
                .filter(|name| matches!(name, ObjectName::ContentPack(..)) && !is_there(&name.to_string()))
                .cloned()
                .collect();
            if gone.is_empty() {
                break;
            }
            if moves.is_none() {
                moves = Some(self.moves(order, sources).await?);
            }
            let mut more = false;
            for name in gone {
                if let Some(to) = moves.as_ref().and_then(|moves| moves.get(&name)) {
                    needed.remove(&name);
                    needed.extend(to.iter().cloned());
                    more = true;
                }
            }
            if !more {
                break;
            }
        }
        Ok(needed)
    }

    /// Where the frames of packs of content have moved to.
    async fn moves(
        &self,
        order: &ReadOrder,
        sources: &BTreeSet<SourceUid>,
    ) -> Result<BTreeMap<ObjectName, Vec<ObjectName>>, RepositoryError> {
        let mut moves: BTreeMap<ObjectName, Vec<ObjectName>> = BTreeMap::new();
        for source in sources {
            for key in self.names(order, &ObjectName::meta_prefix(*source, "moved")).await?.objects.keys() {
                let Some(name @ ObjectName::Moved { kind: KeyKind::Content, pack, .. }) = ObjectName::parse(key) else {
                    continue;
                };
                let decode = |bytes: &[u8]| -> Result<Moved, FormatError> {
                    let moved: Moved = self.open_record(*source, RecordKind::Moved, &name, bytes)?;
                    moved.check(&name)?;
                    Ok(moved)
                };
                // One that is damaged leads nowhere; who reads the frames will say so.
                if let Ok((moved, _)) = self.fetch(order, &name, decode).await {
                    let to = moved.to.into_iter().map(|pack| ObjectName::ContentPack(*source, pack));
                    moves.entry(ObjectName::ContentPack(*source, pack)).or_default().extend(to);
                }
            }
        }
        Ok(moves)
    }
}

/// What a region holds: the names, whether they can be read, and their sizes.
type View = BTreeMap<String, (Availability, u64)>;

/// The data of `sources` in a region, and whether it can be read.
async fn look(region: &Region, sources: &BTreeSet<SourceUid>) -> Result<View, Trouble> {
    let storage = region.ready().await?;
    let mut view = View::new();
    for source in sources {
        let mut listing = storage.list(&format!("data/{source}/"));
        while let Some(meta) = within(READ_DEADLINE, listing.try_next()).await? {
            view.insert(meta.key, (meta.availability, meta.size));
        }
    }
    // What an empty mount does not list may be there.
    region.ask().await?;
    Ok(view)
}

/// Asks for each of `needed` that no list knows as readable: not every place says in a list that something was thawed.
async fn look_closer(views: &mut [(&Arc<Region>, View)], needed: &BTreeSet<ObjectName>) -> Result<(), RepositoryError> {
    let keys = needed.iter().map(ToString::to_string);
    let is_ready = |key: &String| {
        views.iter().any(|(_, view)| view.get(key).is_some_and(|(state, _)| *state == Availability::Ready))
    };
    let keys: Vec<String> = keys.filter(|key| !is_ready(key)).collect();
    for (region, view) in views {
        let region: &Region = region;
        let archived =
            keys.iter().filter(|key| view.get(*key).is_some_and(|(state, _)| *state == Availability::Archived));
        let asks = archived.map(|key| async move {
            let head = async { within(READ_DEADLINE, region.ready().await?.head(key)).await };
            head.await.map_err(|trouble| unthawed(region, key, trouble))
        });
        let asks: Vec<_> = asks.collect();
        let answers: Vec<ObjectMeta> = futures::stream::iter(asks).buffer_unordered(AT_ONCE).try_collect().await?;
        view.extend(answers.into_iter().map(|meta| (meta.key, (meta.availability, meta.size))));
    }
    Ok(())
}

fn unthawed(region: &Region, key: &str, trouble: Trouble) -> RepositoryError {
    match trouble {
        Trouble::Storage(source) => RepositoryError::Region { region: region.name().to_owned(), source },
        trouble => RepositoryError::Unreadable { name: key.to_owned(), causes: vec![region.cause(trouble)] },
    }
}

/// How long a provider says that thawing takes: from, to. None where it does not say, or what it keeps is read at once.
///
/// Sources: Amazon S3 User Guide, "Understanding archive retrieval options" (both archive classes); Microsoft Learn, "Blob
/// rehydration from the archive tier" (objects of less than 10 GB); Google Cloud Storage reads every class at once.
pub fn expected_wait(scheme: &str, speed: ThawSpeed) -> Option<(Duration, Duration)> {
    const fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }
    const fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }
    match (scheme, speed) {
        ("s3", ThawSpeed::Bulk) => Some((hours(5), hours(48))),
        ("s3", ThawSpeed::Standard) => Some((hours(3), hours(12))),
        ("s3", ThawSpeed::Fast) => Some((minutes(1), minutes(5))),
        ("azure" | "az", ThawSpeed::Bulk | ThawSpeed::Standard) => Some((hours(1), hours(15))),
        ("azure" | "az", ThawSpeed::Fast) => Some((minutes(10), hours(1))),
        _ => None,
    }
}
