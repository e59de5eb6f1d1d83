//! Sessions: one writer's open write of one snapshot. A session ends in a commit or in nothing.
//!
//! Order on write: records of whom the source leans on, session keys, open record, a look for tombstones of what it names, packs, manifest. Each step is durable
//! before the next one begins.
//!
//! Reading order: this page (begin), [`keys`], [`leaning`], [`pack_writer`], [`writer`], [`commit`], [`fence`], [`settle`], [`resume`].

pub mod commit;
pub mod fence;
pub mod keys;
pub mod leaning;
pub mod pack_writer;
pub mod resume;
pub mod settle;
pub mod writer;

use std::collections::BTreeSet;

use breakwater_core::{Attempt, JobId, RegionId, SessionId, SnapshotId, SourceUid, Timestamp};
use tokio::sync::Mutex;

use crate::error::RepositoryError;
use crate::format::ObjectName;
use crate::format::leaning::Lean;
use crate::format::manifest::SnapshotSession;
use crate::format::open::OpenRecord;
use crate::format::pack::KeyKind;
use crate::format::record::RecordKind;
use crate::repository::Repository;

pub use commit::CommitOutcome;
pub use fence::FenceOutcome;
pub use keys::SessionKey;
pub use pack_writer::{FrameTicket, PackWriter, SealedFrame, SealedPack};
pub use resume::{DeadSession, DeadSessions, PackFooter, SessionFooters};
pub use settle::Settled;
pub use writer::{ObjectWriter, RegionAnswer, RegionDecision, RegionWriter};

/// What a session is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionIntent {
    /// The snapshot that it is to commit.
    pub snapshot: SnapshotId,
    /// The job.
    pub job: JobId,
    /// Which try at the job.
    pub attempt: Attempt,
    /// The snapshots whose packs it may refer to.
    pub bases: Vec<SnapshotSession>,
    /// Dead sessions whose packs it may refer to.
    pub adopts: Vec<SessionId>,
    /// Snapshots of other sources whose verified packs it may refer to.
    pub leans: Vec<Lean>,
}

/// A session that writes one snapshot.
#[derive(Debug)]
pub struct BackupSession {
    repository: Repository,
    source: SourceUid,
    key: SessionKey,
    intent: SessionIntent,
    started: Timestamp,
    /// The manifest that was sealed for the register: a second try must send the same bytes.
    sealed: Mutex<Option<commit::SealedManifest>>,
}

impl BackupSession {
    /// Begins: makes the session secret, stores it sealed to the recipients, then says what the session is about to do.
    /// Nothing of it may be written before both are durable: without the keys no pack could be read, without the open
    /// record what it refers to could go away.
    ///
    /// Then it looks whether something that it named was deleted meanwhile: either the garbage collection has seen the
    /// open record, or this sees the tombstone. What is deleted is left out, so [`intent`](Self::intent) may name fewer
    /// bases and sessions than the caller did, and only those may be referred to.
    pub async fn begin(
        repository: &Repository,
        writer: &dyn ObjectWriter,
        source: SourceUid,
        mut intent: SessionIntent,
    ) -> Result<BackupSession, RepositoryError> {
        loop {
            leaning::mark(repository, writer, source, &intent.leans).await?;
            let (session, held) = Self::open(repository, writer, source, intent.clone()).await?;
            let gone = session.deleted_meanwhile(&held).await?;
            if gone.is_empty() {
                return Ok(session);
            }
            tracing::info!(session = %session.id(), deleted = gone.len(), "what the session refers to was deleted; it begins anew");
            let reason = "something that it refers to was deleted";
            if let Err(error) = repository.fence(writer, source, (intent.snapshot, session.id()), reason).await {
                // It holds nothing; as long as it stays open, it only keeps others from being deleted.
                tracing::warn!(error = %breakwater_core::Chain(&error), "a session that is not needed stays open");
            }
            intent.bases.retain(|base| !gone.contains(&base.session));
            intent.adopts.retain(|session| !gone.contains(session));
            intent.leans.retain(|lean| !gone.contains(&lean.session));
        }
    }

    /// Answers also which regions hold the open record.
    async fn open(
        repository: &Repository,
        writer: &dyn ObjectWriter,
        source: SourceUid,
        intent: SessionIntent,
    ) -> Result<(BackupSession, Vec<RegionId>), RepositoryError> {
        let key = SessionKey::create(repository, writer, source).await?;
        let started = repository.now();
        let record = OpenRecord {
            session: key.id(),
            snapshot: intent.snapshot,
            job: intent.job,
            attempt: intent.attempt,
            bases: intent.bases.clone(),
            adopts: intent.adopts.clone(),
            leans: intent.leans.clone(),
            started,
        };
        let name = ObjectName::Open(source, key.id());
        let bytes = repository.seal_record(source, RecordKind::Open, &name, &record)?;
        let durability = writer.create_all(&name, bytes.into()).await?;
        let sealed = Mutex::new(None);
        let session = BackupSession { repository: repository.clone(), source, key, intent, started, sealed };
        Ok((session, durability.held))
    }

    /// The sessions named in the intent that have a tombstone in a region that holds the open record. Any such region
    /// will do: the garbage collection goes on only when tombstones are in every region, and lists open records in every
    /// region after that.
    async fn deleted_meanwhile(&self, held: &[RegionId]) -> Result<BTreeSet<SessionId>, RepositoryError> {
        let SessionIntent { bases, adopts, leans, .. } = &self.intent;
        let regions = self.repository.regions().iter();
        let held = regions.filter(|region| region.id().is_some_and(|id| held.contains(&id)));
        let held: Vec<&str> = held.map(|region| region.name()).collect();
        let order = self.repository.read_order().narrowed(|region| held.contains(&region));
        let mut gone = BTreeSet::new();
        if !adopts.is_empty() {
            let tombstones = self.repository.tombstones(&order, self.source).await?;
            gone.extend(adopts.iter().filter(|session| tombstones.sessions.contains_key(session)));
        }
        let own = |base: &SnapshotSession| Lean { source: self.source, snapshot: base.snapshot, session: base.session };
        // The tombstone of a snapshot retires what was verified of it, too.
        for snapshot in bases.iter().map(own).chain(leans.iter().copied()) {
            if self.repository.has_tombstone(&order, &snapshot).await? {
                gone.insert(snapshot.session);
            }
        }
        Ok(gone)
    }

    /// The session.
    pub fn id(&self) -> SessionId {
        self.key.id()
    }

    /// The source that it writes.
    pub const fn source(&self) -> SourceUid {
        self.source
    }

    /// What it is about to do.
    pub const fn intent(&self) -> &SessionIntent {
        &self.intent
    }

    /// When it began.
    pub const fn started(&self) -> Timestamp {
        self.started
    }

    /// The repository that it writes to.
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// A writer of packs of content. Several of one session never share a pack.
    pub fn content_packs(&self) -> PackWriter {
        self.key.pack_writer(KeyKind::Content)
    }

    /// A writer of packs of structure: leaves and trees.
    pub fn structure_packs(&self) -> PackWriter {
        self.key.pack_writer(KeyKind::Structure)
    }
}
