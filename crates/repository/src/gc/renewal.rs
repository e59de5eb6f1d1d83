//! Making the locks of what snapshots need longer before they run out.
//!
//! Each object has its own beat: half of the lock's period, counted from when it came into the region. Its lock is renewed for
//! a whole period once in each beat, so there is always about half a period left, and nothing is asked of an object in between. A run that
//! knows when the last whole one began renews what has passed a beat since, and asks only what came later; a run that knows
//! nothing asks everything once.
//!
//! Invariants: what may be needed is renewed; only what a round of the collection would delete is not. When a region does not
//! answer, or what a snapshot needs cannot be read, nothing is known to be garbage, and everything is renewed. A region is
//! renewed by itself: others that are away do not let its locks run out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use breakwater_core::{Chain, RegionId, SessionId, SourceUid, Timestamp};
use breakwater_storage::{ObjectMeta, StorageErrorKind};
use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::everywhere::{Everywhere, Stop};
use super::sweep::Verdict;
use super::verdicts::VerdictReader;
use crate::error::{RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::pack::{KeyKind, PackId};
use crate::region::{CALL_DEADLINE, READ_DEADLINE, Region, within};
use crate::region_policy::{LockPolicy, is_locked};
use crate::repository::Repository;

/// Calls on their way at once into one region.
const AT_ONCE: usize = 16;

/// How locks are to be renewed.
#[derive(Clone, Debug, Default)]
pub struct RenewalOptions {
    /// When the last renewal of each region began that got to its end under the same policy, where that is known.
    pub since: BTreeMap<RegionId, Timestamp>,
    /// A directory for files of this run; none: the system's.
    pub scratch: Option<PathBuf>,
    /// Ends the run at the next object.
    pub cancel: CancellationToken,
}

/// What became of the locks of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionRenewal {
    /// The region's name.
    pub region: String,
    /// Its id.
    pub id: RegionId,
    /// Its policy.
    pub lock: LockPolicy,
    /// When it began.
    pub begun: Timestamp,
    /// Objects that its policy locks and that are not garbage.
    pub objects: u64,
    /// Objects whose lock was looked up.
    pub asked: u64,
    /// Objects whose lock is longer now.
    pub renewed: u64,
    /// Objects whose lock could not be renewed.
    pub failed: u64,
    /// Why it did not get to its end, or the first failure.
    pub trouble: Option<String>,
}

impl RegionRenewal {
    /// Whether everything that is needed in the region is locked for half a period from when this began.
    pub fn is_complete(&self) -> bool {
        self.failed == 0 && self.trouble.is_none()
    }
}

/// What is known to be garbage of a source.
#[derive(Debug, Default)]
struct Garbage {
    packs: Option<VerdictReader>,
    sessions: BTreeSet<SessionId>,
}

impl Repository {
    /// Renews the locks of all regions that have a policy for them. Regions that cannot be used are told of in the answer.
    pub async fn renew_locks(&self, options: &RenewalOptions) -> Result<Vec<RegionRenewal>, RepositoryError> {
        let mut renewals = Vec::new();
        for region in self.regions() {
            let (Some(lock), Some(id)) = (region.policy().lock, region.id()) else { continue };
            let (region, begun) = (region.name().to_owned(), self.now());
            renewals.push(RegionRenewal {
                region,
                id,
                lock,
                begun,
                objects: 0,
                asked: 0,
                renewed: 0,
                failed: 0,
                trouble: None,
            });
        }
        if renewals.is_empty() {
            return Ok(renewals);
        }
        for renewal in &mut renewals {
            let region = self.region(&renewal.region)?;
            let signs = [ObjectName::Descriptor, ObjectName::Region].map(|name| name.to_string());
            let run = Run { repository: self, region, since: options.since.get(&renewal.id).copied() };
            for sign in signs {
                run.prefix(renewal, &sign, &options.cancel, |_| true).await;
            }
        }
        let sources = self.sources(&self.read_order()).await?;
        for source in sources.uids {
            let all = Everywhere { repository: self, source, cancel: &options.cancel };
            let mut garbage = all.garbage(options).await?;
            for renewal in &mut renewals {
                let region = self.region(&renewal.region)?;
                let run = Run { repository: self, region, since: options.since.get(&renewal.id).copied() };
                run.source(renewal, source, &mut garbage, &options.cancel).await?;
            }
        }
        Ok(renewals)
    }
}

impl Everywhere<'_> {
    /// What a round of the collection would delete now; nothing where that is not known.
    async fn garbage(&self, options: &RenewalOptions) -> Result<Garbage, RepositoryError> {
        match self.known_garbage(options).await {
            Ok(garbage) => Ok(garbage),
            Err(Stop::Failed(error @ RepositoryError::Scratch(_))) => Err(error),
            Err(Stop::Failed(error)) => {
                tracing::warn!(source.uid = %self.source, error = %Chain(&error), "what is needed is not known; all locks are renewed");
                Ok(Garbage::default())
            }
            Err(Stop::Away(_) | Stop::Cancelled | Stop::Overtaken) => Ok(Garbage::default()),
        }
    }

    async fn known_garbage(&self, options: &RenewalOptions) -> Result<Garbage, Stop> {
        self.confirm().await?;
        let directory = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let census = self.census(true).await?;
        let marked = self.mark(&census, &directory).await?;
        let (swept, verdicts, _) = self.sweep(&census, &marked, 0, &directory).await?;
        let needed = |session: &SessionId| {
            swept.kept.contains(session)
                || marked.sessions.contains(session)
                || !marked.unclear.is_empty()
                || marked.origins.values().any(|origins| origins.contains(session))
                || marked.pins.bases.iter().any(|base| base.session == *session)
        };
        let sessions = census.tombs.keys().filter(|session| !needed(session)).copied().collect();
        Ok(Garbage { packs: Some(verdicts.deletes), sessions })
    }
}

/// The renewal of one region.
struct Run<'a> {
    repository: &'a Repository,
    region: &'a Region,
    since: Option<Timestamp>,
}

/// What became of one object.
#[derive(Clone, Copy, Debug, Default)]
struct Touched {
    asked: bool,
    renewed: bool,
}

impl Run<'_> {
    async fn source(
        &self,
        renewal: &mut RegionRenewal,
        source: SourceUid,
        garbage: &mut Garbage,
        cancel: &CancellationToken,
    ) -> Result<(), RepositoryError> {
        for folder in ["source", "leans/", "losses", "keys/", "snap/", "stream/", "history/", "moved/", "gc/"] {
            let needed =
                |name: &ObjectName| session_of(name).is_none_or(|session| !garbage.sessions.contains(&session));
            self.prefix(renewal, &format!("meta/{source}/{folder}"), cancel, needed).await;
        }
        self.prefix(renewal, &ObjectName::data_prefix(source, "log"), cancel, |_| true).await;
        if let Some(packs) = &mut garbage.packs {
            packs.rewind().map_err(RepositoryError::Scratch)?;
        }
        // Garbage comes in the order of the listings: content, then structure.
        let mut doomed = Doomed { packs: garbage.packs.as_mut(), head: None };
        self.prefix(renewal, &ObjectName::data_prefix(source, "pack"), cancel, |name| !doomed.has(name)).await;
        self.prefix(renewal, &ObjectName::meta_prefix(source, "pack"), cancel, |name| !doomed.has(name)).await;
        Ok(())
    }

    /// Renews what is due below `prefix`. What goes wrong is noted in `renewal`.
    async fn prefix(
        &self,
        renewal: &mut RegionRenewal,
        prefix: &str,
        cancel: &CancellationToken,
        mut needed: impl FnMut(&ObjectName) -> bool,
    ) {
        if renewal.trouble.is_some() && renewal.failed == 0 {
            return;
        }
        let storage = match self.region.ready().await {
            Ok(storage) => storage,
            Err(trouble) => return renewal.trouble = Some(trouble.to_string()),
        };
        let mut listing = storage.list(prefix);
        loop {
            if cancel.is_cancelled() {
                return renewal.trouble = Some("stopped on request".to_owned());
            }
            let mut batch = Vec::new();
            while batch.len() < AT_ONCE {
                match within(READ_DEADLINE, listing.try_next()).await {
                    Ok(Some(meta)) => {
                        let Some(name) = ObjectName::parse(&meta.key) else { continue };
                        let sign = matches!(name, ObjectName::Descriptor | ObjectName::Region);
                        if (is_locked(&name) || sign) && needed(&name) {
                            renewal.objects += 1;
                            batch.push(meta);
                        }
                    }
                    Ok(None) => break,
                    Err(trouble) => return renewal.trouble = Some(format!("listing `{prefix}`: {trouble}")),
                }
            }
            if batch.is_empty() {
                return;
            }
            let touches = batch.into_iter().map(|meta| self.touch(renewal.lock, renewal.begun, meta));
            let touched: Vec<_> = futures::stream::iter(touches).buffered(AT_ONCE).collect().await;
            for one in touched {
                match one {
                    Ok(touched) => {
                        renewal.asked += u64::from(touched.asked);
                        renewal.renewed += u64::from(touched.renewed);
                    }
                    Err((key, trouble)) => {
                        renewal.failed += 1;
                        renewal.trouble.get_or_insert(format!("`{key}`: {trouble}"));
                    }
                }
            }
        }
    }

    async fn touch(&self, lock: LockPolicy, begun: Timestamp, meta: ObjectMeta) -> Result<Touched, (String, Trouble)> {
        let touching = async {
            let (storage, mut touched) = (self.region.ready().await?, Touched::default());
            let due = match self.since.filter(|since| meta.modified <= *since) {
                Some(since) => beats(lock, meta.modified, since) < beats(lock, meta.modified, begun),
                None => {
                    touched.asked = true;
                    let protection = within(CALL_DEADLINE, storage.protection(&meta.key)).await?;
                    let least = locked_at_least_until(lock, meta.modified, begun);
                    protection.retention.is_none_or(|now| now.mode < lock.mode || now.until < least)
                }
            };
            if due {
                match within(CALL_DEADLINE, storage.retain(&meta.key, lock.from(self.repository.now()))).await {
                    Ok(()) => touched.renewed = true,
                    // Somebody has locked it for longer.
                    Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::Locked => {}
                    Err(trouble) => return Err(trouble),
                }
            }
            Ok(touched)
        };
        match touching.await {
            // The collection or a stream took it since it was listed.
            Err(trouble) if trouble.is_not_found() => Ok(Touched::default()),
            answer => answer.map_err(|trouble| (meta.key.clone(), trouble)),
        }
    }
}

/// How many beats the object that came at `created` has passed at `at`.
fn beats(lock: LockPolicy, created: Timestamp, at: Timestamp) -> i64 {
    at.micros_since(created).max(0) / lock.half_micros().max(1)
}

/// Until when the object must be locked at `now` so that nothing has to be done before its next beat: that, and half a period
/// more, but for what clocks may differ.
fn locked_at_least_until(lock: LockPolicy, created: Timestamp, now: Timestamp) -> Timestamp {
    let half = lock.half_micros();
    let beats = beats(lock, created, now).saturating_add(2);
    created.plus_micros(beats.saturating_mul(half)).plus_micros(-half / 8)
}

/// The session whose end makes the object garbage.
fn session_of(name: &ObjectName) -> Option<SessionId> {
    match name {
        ObjectName::SessionKeys(_, session)
        | ObjectName::ResealedKeys(_, session, _)
        | ObjectName::Register(_, _, session)
        | ObjectName::Committed(_, _, session) => Some(*session),
        _ => None,
    }
}

/// Packs that would be deleted, laid beside a listing in the same order.
struct Doomed<'a> {
    packs: Option<&'a mut VerdictReader>,
    head: Option<(KeyKind, PackId)>,
}

impl Doomed<'_> {
    fn has(&mut self, name: &ObjectName) -> bool {
        let wanted = match name {
            ObjectName::ContentPack(_, pack) => (KeyKind::Content, *pack),
            ObjectName::StructurePack(_, pack) => (KeyKind::Structure, *pack),
            _ => return false,
        };
        loop {
            match self.head {
                Some(head) if head < wanted => self.head = None,
                Some(head) => return head == wanted,
                None => match self.packs.as_mut().and_then(|packs| packs.next()) {
                    Some(Ok(Verdict::Delete(pack) | Verdict::Repack(pack, _))) => {
                        self.head = Some((pack.kind, pack.pack))
                    }
                    // Without a list nothing is garbage.
                    Some(Err(_)) | None => {
                        self.packs = None;
                        return false;
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_storage::LockMode;
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 3600 * 1_000_000;

    proptest! {
        /// An object that is written locked, looked at by runs at random moments that are at most a quarter of a period
        /// apart, some of which have forgotten when the last one was.
        #[test]
        fn a_lock_never_runs_out_and_is_renewed_once_a_beat(
            days in 4u32..90,
            gaps in prop::collection::vec((1i64..1000, any::<bool>()), 1..200),
        ) {
            let lock = LockPolicy { mode: LockMode::Compliance, days };
            let half = lock.half_micros();
            let created = Timestamp(7 * DAY + 5);
            let mut until = lock.from(created).until;
            let (mut now, mut since) = (created, None);
            let mut renewed: BTreeMap<i64, u32> = BTreeMap::new();
            for (gap, forgets) in gaps {
                now = now.plus_micros(gap * (half / 2) / 1000);
                prop_assert!(until > now, "it ran out");
                if forgets {
                    since = None;
                }
                let due = match since.filter(|since| created <= *since) {
                    Some(since) => beats(lock, created, since) < beats(lock, created, now),
                    None => until < locked_at_least_until(lock, created, now),
                };
                if due {
                    until = lock.from(now).until;
                    *renewed.entry(beats(lock, created, now)).or_default() += 1;
                }
                since = Some(now);
                prop_assert!(until.micros_since(now) > half / 2, "half a period but for a quarter of it is left");
            }
            prop_assert!(renewed.values().all(|count| *count == 1), "{renewed:?}");
        }
    }
}
