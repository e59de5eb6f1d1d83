//! What is needed: the references of every snapshot that is there, and of those that undecided sessions name.
//!
//! Invariant: a snapshot whose references cannot be read stops the round; only of a deleted one that a session still names
//! it is enough to leave all packs of its sessions alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use breakwater_core::{SessionId, SourceUid};
use breakwater_crypto::ChunkId;

use super::census::{Census, Pins, Standing};
use super::everywhere::{Everywhere, Stop};
use super::live::{FromRows, LiveRows, SortedLive, from_row, live_row};
use crate::error::RepositoryError;
use crate::format::manifest::Manifest;
use crate::format::moved::MovedFrames;
use crate::format::pack::{KeyKind, PackId};
use crate::format::references::{FrameRange, ReferenceDecoder};
use crate::format::{Class, FormatError, ObjectName};
use crate::frames::FrameReader;

/// Bytes of rows in memory.
const MEMORY: usize = 16 << 20;

/// What a mark found.
#[derive(Debug)]
pub(super) struct Marked {
    pub(super) live: SortedLive,
    /// The same for frames that moved, by their new places.
    pub(super) moved: SortedLive,
    pub(super) pins: Pins,
    /// Sources that lean on this one.
    pub(super) leaners: Vec<SourceUid>,
    /// Snapshots that are there.
    pub(super) snapshots: u64,
    /// Sessions whose keys are needed.
    pub(super) sessions: BTreeSet<SessionId>,
    /// Sessions with a manifest in every region, and an open record that says nothing any more.
    pub(super) settled: Vec<SessionId>,
    /// Runs of which some footer cannot be read: nothing of them is touched.
    pub(super) unclear: BTreeSet<SessionId>,
    /// The sessions that sealed the frames which lie in the packs of a run, needed or not.
    pub(super) origins: BTreeMap<SessionId, BTreeSet<SessionId>>,
}

/// A mark in progress.
struct Marking<'a> {
    all: &'a Everywhere<'a>,
    frames: FrameReader,
    rows: LiveRows,
    /// Rows of other sessions' packs are of no interest.
    wanted: BTreeSet<SessionId>,
    seen: HashSet<ChunkId>,
    sessions: BTreeSet<SessionId>,
}

impl Everywhere<'_> {
    /// Marks; files go into `scratch`.
    pub(super) async fn mark(&self, census: &Census, scratch: &Path) -> Result<Marked, Stop> {
        let mut unclear = BTreeSet::new();
        let mut wanted: BTreeSet<SessionId> = census.tombs.keys().copied().collect();
        let counting = census.runs.iter().filter(|(_, state)| **state == super::census::RunState::Counts);
        let counting: Vec<SessionId> = counting.map(|(run, _)| *run).collect();
        let mut from = FromRows::new(scratch, MEMORY);
        let mut origins: BTreeMap<SessionId, BTreeSet<SessionId>> = BTreeMap::new();
        for run in &counting {
            if !self.moved_frames(*run, &mut from, origins.entry(*run).or_default()).await? {
                unclear.insert(*run);
            }
        }
        wanted.extend(origins.values().flatten());
        wanted.extend(counting);
        let from = from.finish()?;
        let frames = FrameReader::new(self.repository, self.source, self.repository.read_order());
        let rows = LiveRows::new(scratch, MEMORY);
        let mut marking = Marking { all: self, frames, rows, wanted, seen: HashSet::new(), sessions: BTreeSet::new() };
        let (mut settled, mut pins) = (Vec::new(), Pins::default());
        let (snapshots, undecided) = self.committed(census, &mut marking, &mut settled).await?;
        for session in undecided {
            if census.opens.contains(&session) {
                pins.add(&self.open_record(session).await?);
            } else {
                // It was fenced in some region, and what it named is known to none.
                pins.sessions.insert(session);
            }
        }
        pins.bases.extend(self.held(census).await?);
        let leaners = self.leaners().await?;
        for leaner in &leaners {
            self.mark_leaner(*leaner, &mut marking, &mut pins).await?;
        }
        self.bases(census, &mut marking, &mut pins).await?;
        // Where lost chunks were stored anew, older snapshots lean on the packs of the session that did so.
        for key in self.names(&ObjectName::meta_prefix(self.source, "moved")).await?.objects.keys() {
            if let Some(ObjectName::Moved { mover, .. }) = ObjectName::parse(key)
                && !census.runs.contains_key(&mover)
            {
                pins.sessions.insert(mover);
            }
        }
        let (live, mut sessions) = (marking.rows.finish()?, marking.sessions);
        sessions.extend(pins.sessions.iter().copied());
        let mut moved = LiveRows::new(scratch, MEMORY);
        let needed = live.clone();
        let followed = tokio::task::spawn_blocking(move || {
            super::live::follow(&needed, &from, &mut moved)?;
            moved.finish()
        });
        let moved = followed.await.map_err(std::io::Error::other)??;
        Ok(Marked { live, moved, pins, leaners, snapshots, sessions, settled, unclear, origins })
    }

    /// Marks what the committed sessions without tombstone need; answers how many there are, and the sessions that nothing
    /// has decided.
    async fn committed(
        &self,
        census: &Census,
        marking: &mut Marking<'_>,
        settled: &mut Vec<SessionId>,
    ) -> Result<(u64, BTreeSet<SessionId>), Stop> {
        let mut snapshots = 0;
        let mut undecided: BTreeSet<SessionId> =
            census.opens.iter().filter(|session| !census.registers.contains_key(session)).copied().collect();
        for (session, register) in census.registers.iter().filter(|(session, _)| !census.tombs.contains_key(session)) {
            self.go_on()?;
            match self.standing(*session, register).await? {
                Standing::Committed(manifest, everywhere) => {
                    snapshots += 1;
                    marking.manifest(&manifest).await.map_err(|error| Stop::Failed(error.of(&manifest)))?;
                    if everywhere && census.opens.contains(session) {
                        settled.push(*session);
                    }
                }
                Standing::Fenced => {}
                Standing::Undecided => {
                    undecided.insert(*session);
                }
            }
        }
        undecided.retain(|session| !census.tombs.contains_key(session));
        Ok((snapshots, undecided))
    }

    /// Marks what deleted snapshots need that undecided sessions name.
    async fn bases(&self, census: &Census, marking: &mut Marking<'_>, pins: &mut Pins) -> Result<(), Stop> {
        for base in pins.bases.clone() {
            if !census.tombs.contains_key(&base.session) {
                continue;
            }
            // Without a register an earlier round has seen that nobody names it: who did later saw the tombstone.
            let Some(register) = census.registers.get(&base.session) else { continue };
            if let Standing::Committed(manifest, _) = self.standing(base.session, register).await?
                && marking.manifest(&manifest).await.is_err()
            {
                pins.sessions.extend(manifest.sessions.iter().copied());
            }
        }
        Ok(())
    }

    /// Marks what `leaner` needs of this source's packs, and adds what its undecided sessions lean on to `pins`.
    async fn mark_leaner(&self, leaner: SourceUid, marking: &mut Marking<'_>, pins: &mut Pins) -> Result<(), Stop> {
        let other = self.of(leaner);
        let census = other.census_of_leaner().await?;
        let frames = FrameReader::new(self.repository, leaner, self.repository.read_order());
        let own = std::mem::replace(&mut marking.frames, frames);
        let (_, undecided) = other.committed(&census, marking, &mut Vec::new()).await?;
        let mut its_pins = Pins::default();
        for session in undecided.into_iter().filter(|session| census.opens.contains(session)) {
            let record = other.open_record(session).await?;
            its_pins.add(&record);
            pins.add_leaner(&record, self.source);
        }
        its_pins.bases.extend(other.held(&census).await?);
        other.bases(&census, marking, &mut its_pins).await?;
        pins.sessions.extend(its_pins.sessions);
        marking.frames = own;
        Ok(())
    }

    /// Notes where the frames in the packs of `run` were; false when that cannot be told.
    async fn moved_frames(
        &self,
        run: SessionId,
        from: &mut FromRows,
        origins: &mut BTreeSet<SessionId>,
    ) -> Result<bool, Stop> {
        for kind in [KeyKind::Content, KeyKind::Structure] {
            let folder = match kind {
                KeyKind::Content => ObjectName::data_prefix(self.source, "pack"),
                KeyKind::Structure => ObjectName::meta_prefix(self.source, "pack"),
            };
            for key in self.names(&format!("{folder}{run}-")).await?.objects.keys() {
                let Some(name @ (ObjectName::ContentPack(_, pack) | ObjectName::StructurePack(_, pack))) =
                    ObjectName::parse(key)
                else {
                    continue;
                };
                let footer = match self.repository.fetch_footer(&self.repository.read_order(), &name).await {
                    Ok((footer, _)) => footer,
                    Err(RepositoryError::NotFound { .. }) => continue,
                    Err(_) => {
                        self.confirm().await?;
                        return Ok(false);
                    }
                };
                let Ok(places) = MovedFrames::of_footer(&footer.json, footer.frames.len()) else { return Ok(false) };
                origins.extend(footer.origins.iter().map(|origin| origin.pack.session));
                for (frame, place) in footer.frames.iter().zip(places.from) {
                    origins.insert(place.0.session);
                    from.push(from_row(kind, place, &frame.location(pack)))?;
                }
            }
        }
        Ok(true)
    }
}

/// Why a manifest could not be followed.
struct Unmarked(RepositoryError);

impl Unmarked {
    fn of(self, manifest: &Manifest) -> RepositoryError {
        RepositoryError::Refused(format!(
            "what snapshot {} (session {}) needs is not known, so nothing is deleted: {}; hint: repair the repository, or \
             delete the snapshot",
            manifest.snapshot,
            manifest.session,
            breakwater_core::Chain(&self.0)
        ))
    }
}

impl From<RepositoryError> for Unmarked {
    fn from(error: RepositoryError) -> Self {
        Unmarked(error)
    }
}

impl Marking<'_> {
    async fn manifest(&mut self, manifest: &Manifest) -> Result<(), Unmarked> {
        let is_own = self.frames.source() == self.all.source;
        if !is_own && !manifest.leans.iter().any(|leaned_on| leaned_on.source == self.all.source) {
            return Ok(());
        }
        self.sessions.extend(manifest.sessions.iter().copied());
        self.sessions.insert(manifest.session);
        if manifest.references.is_empty() && !manifest.tree.is_empty() {
            let name = ObjectName::Register(manifest.source.uid, manifest.snapshot, manifest.session);
            let error = FormatError::damaged("manifest", "it has no list of references");
            return Err(Unmarked(RepositoryError::format(name, error)));
        }
        for frame in manifest.tree.iter().chain(&manifest.references) {
            self.needed(KeyKind::Structure, frame.pack, FrameRange::of(frame))?;
        }
        for frame in &manifest.references {
            // Equal pieces of lists are one chunk, which many snapshots share.
            if self.seen.contains(&frame.id) {
                continue;
            }
            if self.all.cancel.is_cancelled() {
                return Ok(());
            }
            let content = self.frames.read(KeyKind::Structure, Class::References, frame.pack, &[*frame]).await?;
            for content in content {
                let packs = ReferenceDecoder::default().frame(&content);
                for pack in packs.map_err(|error| RepositoryError::format("list of references", error))? {
                    for range in &pack.ranges {
                        self.needed(pack.kind, pack.pack, *range)?;
                    }
                }
            }
            self.seen.insert(frame.id);
        }
        Ok(())
    }

    fn needed(&mut self, kind: KeyKind, pack: PackId, range: FrameRange) -> Result<(), RepositoryError> {
        if !self.wanted.contains(&pack.session) {
            return Ok(());
        }
        self.rows.push(live_row(kind, pack, range)).map_err(RepositoryError::Scratch)
    }
}
