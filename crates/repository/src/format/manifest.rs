//! Manifests and fences: the two values of a commit register.

use breakwater_core::{Attempt, DomainName, JobId, LogPosition, SessionId, SnapshotId, SourceUid, Timestamp};
use serde::{Deserialize, Serialize};

use super::FrameLocation;
use super::leaning::LeanedOn;

/// Everything about one snapshot that is not in its tree. Written last: a region that shows it holds all that it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The session that committed it.
    pub session: SessionId,
    /// The job.
    pub job: JobId,
    /// Which try at the job.
    pub attempt: Attempt,
    /// The source.
    pub source: ManifestSource,
    /// The source's domain.
    pub domain: DomainName,
    /// The time that it was scheduled for; none for manual ones.
    pub scheduled: Option<Timestamp>,
    /// When the session began.
    pub started: Timestamp,
    /// When the read was over.
    pub finished: Timestamp,
    /// The moment on the source's clock that the copy shows.
    pub consistent_at: Timestamp,
    /// Replay begins here; none where the copy is consistent by itself.
    pub start: Option<LogPosition>,
    /// The copy is consistent once replay has reached this.
    pub end: Option<LogPosition>,
    /// The frames of the tree, in order.
    pub tree: Vec<FrameLocation>,
    /// The frames of the list of what the snapshot needs of packs (`references`), in order. The list names every frame but these.
    pub references: Vec<FrameLocation>,
    /// All sessions that packs named by tree and leaves belong to.
    pub sessions: Vec<SessionId>,
    /// Those of them that belong to other sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leans: Vec<LeanedOn>,
    /// The snapshots that it was compared with.
    pub bases: Vec<SnapshotSession>,
    /// Figures.
    pub totals: Totals,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Files that could not be read, so that the snapshot is only a part of the source.
    #[serde(default, skip_serializing_if = "Unreadable::is_none")]
    pub unreadable: Unreadable,
    /// Which extents were read whole although the source said that they had not changed: counts up from backup to backup.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rotation: u64,
    /// The source's list of changed pages was found to lack a change, so this snapshot may lack others: the next backup
    /// reads everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubtful: bool,
    /// What the engine wants to find again at restore.
    pub facts: serde_json::Value,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Files that a source listed and did not give.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub paths: Vec<UnreadablePath>,
}

/// One path that is not in a snapshot although it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadablePath {
    /// Escaped as in the tree. A directory stands for all in it.
    pub path: String,
    /// Why, for people.
    pub reason: String,
}

impl Unreadable {
    /// Everything could be read.
    pub const fn is_none(&self) -> bool {
        self.count == 0
    }
}

/// The source of a snapshot, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestSource {
    /// The source.
    pub uid: SourceUid,
    /// What people call it.
    pub name: String,
    /// The word of its engine.
    pub engine: String,
}

/// One committed session of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotSession {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The session.
    pub session: SessionId,
}

/// Figures of one backup. Bytes are before compression unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Directories and links.
    pub others: u64,
    /// Bytes of all files: what a restore writes.
    pub bytes: u64,
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes that were not stored before.
    pub new: u64,
    /// Bytes that earlier sessions had stored.
    pub reused: u64,
    /// Bytes of zeros, which are not stored.
    pub zeros: u64,
    /// Bytes sent to one region, after compression and sealing.
    pub stored: u64,
}

/// Why a session will never commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The snapshot it was for.
    pub snapshot: SnapshotId,
    /// The session.
    pub session: SessionId,
    /// For people.
    pub reason: String,
    /// When it was fenced.
    pub at: Timestamp,
}
