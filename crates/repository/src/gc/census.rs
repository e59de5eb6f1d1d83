//! What the regions say of a source's sessions: step (1) tombstones, (2) open records, (3) registers, in this order.
//!
//! Invariant: a tombstone counts in this round only if it was durable in every region before the open records were listed.
//! That holds for the tombstones of sources that lean on this one too; those are not spread by this round.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{SessionId, SnapshotId, SourceUid};
use breakwater_storage::Payload;
use futures::{StreamExt, TryStreamExt};

use super::Pin;
use super::everywhere::{Everywhere, Put, Stop};
use crate::error::RepositoryError;
use crate::fetch::Names;
use crate::format::gc_plan::GcFence;
use crate::format::manifest::{Manifest, SnapshotSession};
use crate::format::open::OpenRecord;
use crate::format::record::{RecordKey, RecordKind};
use crate::format::tombstone::Tombstone;
use crate::format::{FormatError, ObjectName};
use crate::session::commit::{RegisterValue, read_register};

/// Small reads at once.
const AT_ONCE: usize = 16;

/// One session's register, by both names: which regions hold it, and with how many bytes.
#[derive(Clone, Debug)]
pub(super) struct Register {
    pub(super) snapshot: SnapshotId,
    pub(super) first: Vec<(String, u64)>,
    pub(super) second: Vec<(String, u64)>,
}

/// How a session stands.
#[derive(Debug)]
pub(super) enum Standing {
    /// It is committed; whether every region says so in its register.
    Committed(Box<Manifest>, bool),
    /// Every region holds a fence.
    Fenced,
    /// Neither.
    Undecided,
}

/// Whether what a run moved counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    /// Every region's register says so.
    Counts,
    /// Some region's register holds a fence.
    Killed,
    /// It may still be at it.
    Open,
}

/// What is known in a round.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// The tombstones that count.
    pub(super) tombs: BTreeMap<SessionId, SnapshotId>,
    pub(super) opens: BTreeSet<SessionId>,
    pub(super) registers: BTreeMap<SessionId, Register>,
    pub(super) runs: BTreeMap<SessionId, RunState>,
}

impl Everywhere<'_> {
    fn prefix(&self, folder: &str) -> String {
        ObjectName::meta_prefix(self.source, folder)
    }

    /// Steps (1) to (3). A dry run writes nothing, and takes what it would have written as written.
    pub(super) async fn census(&self, dry_run: bool) -> Result<Census, Stop> {
        let runs = self.runs(dry_run).await?;
        let tombs = self.tombs(dry_run).await?;
        let opens = open_sessions(&self.names(&self.prefix("open")).await?);
        let registers = registers(&self.names(&self.prefix("snap")).await?);
        Ok(Census { tombs, opens, registers, runs })
    }

    /// The open records and registers only: before anything is decided.
    pub(super) async fn look(&self) -> Result<Census, Stop> {
        let opens = open_sessions(&self.names(&self.prefix("open")).await?);
        let names = self.names(&self.prefix("snap")).await?;
        let tombs = tombstones(&names).into_keys().collect();
        Ok(Census { tombs, opens, registers: registers(&names), runs: BTreeMap::new() })
    }

    /// What is to be known of another source that leans on the one of this round. Nothing is written for it.
    pub(super) async fn census_of_leaner(&self) -> Result<Census, Stop> {
        let tombs = self.opened_tombs(Spread::No).await?;
        let opens = open_sessions(&self.names(&self.prefix("open")).await?);
        let registers = registers(&self.names(&self.prefix("snap")).await?);
        Ok(Census { tombs, opens, registers, runs: BTreeMap::new() })
    }

    /// The tombstones that open, made durable in every region.
    async fn tombs(&self, dry_run: bool) -> Result<BTreeMap<SessionId, SnapshotId>, Stop> {
        self.opened_tombs(if dry_run { Spread::Pretend } else { Spread::Yes }).await
    }

    /// The tombstones that open and are in every region, or have been brought there.
    async fn opened_tombs(&self, spread: Spread) -> Result<BTreeMap<SessionId, SnapshotId>, Stop> {
        let found = tombstones(&self.names(&self.prefix("snap")).await?);
        let regions = self.repository.regions().len();
        let found = found.into_iter().filter(|(_, holders)| spread != Spread::No || *holders == regions);
        let reads = found.map(|((session, snapshot), holders)| async move {
            self.go_on()?;
            let name = ObjectName::Tombstone(self.source, snapshot, session);
            let structure = self.repository.structure_key(self.source);
            let key = RecordKey { repository: self.repository.id(), structure: &structure };
            let decode = |bytes: &[u8]| Tombstone::open(&key, &name, bytes);
            let tombstone = match self.repository.fetch(&self.repository.read_order(), &name, decode).await {
                Ok((tombstone, _)) => tombstone,
                // A name alone deletes nothing: anybody who can write into a region can write a name.
                Err(error) if error.class() == breakwater_core::ErrorClass::Corrupt => {
                    tracing::error!(object = %name, error = %breakwater_core::Chain(&error), "a tombstone that does not open is not heeded");
                    return Ok(None);
                }
                Err(error) => return Err(Stop::Failed(error)),
            };
            if holders < regions && spread == Spread::Yes {
                let owed = self.repository.bury(self.source, &tombstone).await?;
                if !owed.is_empty() {
                    return Err(Stop::Away(owed));
                }
            }
            Ok(Some((session, snapshot)))
        });
        futures::stream::iter(reads)
            .buffer_unordered(AT_ONCE)
            .try_filter_map(|one| async move { Ok(one) })
            .try_collect()
            .await
    }

    /// How the session with this register stands.
    pub(super) async fn standing(&self, session: SessionId, register: &Register) -> Result<Standing, Stop> {
        let name = ObjectName::Register(self.source, register.snapshot, session);
        let second = ObjectName::Committed(self.source, register.snapshot, session);
        let regions = self.repository.regions().len();
        let (mut fences, mut found) = (0, None);
        for (name, holders) in [(&name, &register.first), (&second, &register.second)] {
            // Registers of one length are one object: a fence is always shorter than a manifest.
            let mut by_size: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
            for (region, size) in holders {
                by_size.entry(*size).or_default().push(region);
            }
            for holders in by_size.into_values() {
                let order = self.repository.read_order().narrowed(|region| holders.contains(&region));
                let decode = |bytes: &[u8]| read_register(self.repository, name, bytes);
                match self.repository.fetch(&order, name, decode).await {
                    Ok((RegisterValue::Manifest(manifest), _)) => {
                        let everywhere = holders.len() == regions;
                        let before = found.take().is_some_and(|(_, everywhere)| everywhere);
                        found = Some((manifest, everywhere || before));
                    }
                    Ok((RegisterValue::Fence(_), _)) => fences += holders.len(),
                    Err(error) => return Err(self.unreadable(error).await),
                }
            }
        }
        Ok(match found {
            Some((manifest, everywhere)) => Standing::Committed(manifest, everywhere),
            None if fences == regions => Standing::Fenced,
            None => Standing::Undecided,
        })
    }

    /// Something that must be known cannot be read: it is damaged, or another worker deletes it just now.
    pub(super) async fn unreadable(&self, error: RepositoryError) -> Stop {
        if let Err(stop) = self.confirm().await {
            return stop;
        }
        if matches!(error, RepositoryError::NotFound { .. }) { Stop::Overtaken } else { Stop::Failed(error) }
    }

    /// What an undecided session said when it began.
    pub(super) async fn open_record(&self, session: SessionId) -> Result<OpenRecord, Stop> {
        let name = ObjectName::Open(self.source, session);
        let decode = |bytes: &[u8]| {
            let record: OpenRecord = self.repository.open_record(self.source, RecordKind::Open, &name, bytes)?;
            if record.session != session {
                return Err(FormatError::damaged("open record", "it is that of another session"));
            }
            Ok(record)
        };
        match self.repository.fetch(&self.repository.read_order(), &name, decode).await {
            Ok((record, _)) => Ok(record),
            Err(error) => Err(self.unreadable(error).await),
        }
    }

    /// The runs that moved something, or are about to. Those that may still be at it are fenced: that costs them their
    /// work and nothing else, and what they left can be told from what counts.
    async fn runs(&self, dry_run: bool) -> Result<BTreeMap<SessionId, RunState>, Stop> {
        let names = self.names(&self.prefix("gc")).await?;
        let mut decided: BTreeMap<SessionId, bool> = BTreeMap::new();
        for key in names.objects.keys() {
            match ObjectName::parse(key) {
                Some(ObjectName::GcPlan(_, run)) => decided.entry(run).or_insert(false),
                Some(ObjectName::GcDecision(_, run)) => decided.entry(run).insert_entry(true).into_mut(),
                _ => continue,
            };
        }
        let reads = decided.into_iter().map(|(run, decided)| async move {
            let state = match (decided, dry_run) {
                (false, true) => RunState::Open,
                (false, false) => self.kill(run).await?,
                (true, _) => match self.run_state(run).await? {
                    RunState::Open if !dry_run => self.kill(run).await?,
                    state => state,
                },
            };
            Ok::<_, Stop>((run, state))
        });
        futures::stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// What the registers of `run` say.
    async fn run_state(&self, run: SessionId) -> Result<RunState, Stop> {
        let name = ObjectName::GcDecision(self.source, run);
        let mut counts = 0;
        for region in self.repository.regions() {
            let only = self.repository.read_only_from(region.name())?;
            let decode = |bytes: &[u8]| self.repository.open_any_record(self.source, &name, bytes);
            match self.repository.fetch(&only, &name, decode).await {
                Ok(((RecordKind::Fence, _), _)) => return Ok(RunState::Killed),
                Ok(_) => counts += 1,
                Err(RepositoryError::NotFound { .. }) => {}
                Err(error) => return Err(Stop::Failed(error)),
            }
        }
        Ok(if counts == self.repository.regions().len() { RunState::Counts } else { RunState::Open })
    }

    /// Fences a run, unless every region says already that it counts.
    async fn kill(&self, run: SessionId) -> Result<RunState, Stop> {
        let name = ObjectName::GcDecision(self.source, run);
        let fence = GcFence { run, reason: "another run began".to_owned(), at: self.repository.now() };
        let bytes = self.repository.seal_record(self.source, RecordKind::Fence, &name, &fence)?;
        let puts = self.create(&name, &Payload::from(bytes)).await?;
        if puts.contains(&Put::Mine) { Ok(RunState::Killed) } else { self.run_state(run).await }
    }
}

/// What is to be done with tombstones that some region lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// They are brought there.
    Yes,
    /// They are taken as if that had been done.
    Pretend,
    /// They do not count.
    No,
}

fn open_sessions(names: &Names) -> BTreeSet<SessionId> {
    let session = |key: &String| match ObjectName::parse(key) {
        Some(ObjectName::Open(_, session)) => Some(session),
        _ => None,
    };
    names.objects.keys().filter_map(session).collect()
}

/// The tombstones among `names`, and how many regions hold each.
fn tombstones(names: &Names) -> BTreeMap<(SessionId, SnapshotId), usize> {
    let tombstone = |(key, holders): (&String, &crate::fetch::Holders)| match ObjectName::parse(key) {
        Some(ObjectName::Tombstone(_, snapshot, session)) => Some(((session, snapshot), holders.regions.len())),
        _ => None,
    };
    names.objects.iter().filter_map(tombstone).collect()
}

fn registers(names: &Names) -> BTreeMap<SessionId, Register> {
    let mut registers: BTreeMap<SessionId, Register> = BTreeMap::new();
    for (key, holders) in &names.objects {
        let name = ObjectName::parse(key);
        let Some(ObjectName::Register(_, snapshot, session) | ObjectName::Committed(_, snapshot, session)) = &name
        else {
            continue;
        };
        let none = || Register { snapshot: *snapshot, first: Vec::new(), second: Vec::new() };
        let register = registers.entry(*session).or_insert_with(none);
        match name {
            Some(ObjectName::Register(..)) => register.first.clone_from(&holders.regions),
            _ => register.second.clone_from(&holders.regions),
        }
    }
    registers
}

/// What undecided sessions keep.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pub(super) pins: Vec<Pin>,
    /// Snapshots that they may refer to.
    pub(super) bases: BTreeSet<SnapshotSession>,
    /// Sessions all of whose packs stay.
    pub(super) sessions: BTreeSet<SessionId>,
}

impl Pins {
    /// Adds what an undecided session of another source leans on in `source`.
    pub(super) fn add_leaner(&mut self, record: &OpenRecord, source: SourceUid) {
        let leans = record.leans.iter().filter(|lean| lean.source == source);
        let bases: BTreeSet<SnapshotSession> =
            leans.map(|lean| SnapshotSession { snapshot: lean.snapshot, session: lean.session }).collect();
        // By its own bases it may keep something too.
        if !bases.is_empty() || !record.bases.is_empty() {
            self.pins.push(Pin { session: record.session, started: record.started });
        }
        self.bases.extend(bases);
    }

    /// Adds what an undecided session named when it began.
    pub(super) fn add(&mut self, record: &OpenRecord) {
        self.pins.push(Pin { session: record.session, started: record.started });
        self.bases.extend(record.bases.iter().copied());
        self.sessions.extend(record.adopts.iter().copied());
        self.sessions.insert(record.session);
    }
}
