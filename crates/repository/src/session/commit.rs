//! The commit: the manifest is the first value of the session's register in at least `commit` sync regions.
//!
//! Invariants: a session is called committed only when that many sync regions hold its manifest, and called fenced only
//! when every region's register holds a fence; between the two it is undecided, and stays so until the regions answer.
//! The model in `tests/register_model.rs` checks these steps in this order.

use breakwater_core::{Attempt, SessionId};
use bytes::Bytes;

use super::BackupSession;
use super::writer::{ObjectWriter, RegionAnswer, RegionDecision};
use crate::error::RepositoryError;
use crate::format::ObjectName;
use crate::format::manifest::{Fence, Manifest};
use crate::format::record::{RecordKind, read_json};
use crate::region::{READ_DEADLINE, within};
use crate::regions::Role;
use crate::repository::Repository;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// As many sync regions as asked for hold the manifest and everything it names.
    Committed {
        /// The names of all regions that hold it by now.
        held: Vec<String>,
        /// The names of the regions that will get it.
        owed: Vec<String>,
    },
    /// Another attempt gave the session up; it can never be committed.
    Fenced {
        /// Why, as the fence says.
        reason: String,
    },
    /// Another session has committed this snapshot; nothing was written.
    AlreadyCommitted {
        /// That session.
        session: SessionId,
    },
}

/// A manifest and its bytes.
#[derive(Debug)]
pub(super) struct SealedManifest {
    manifest: Manifest,
    register: Vec<u8>,
}

/// The value of one region's register, as its answer shows.
enum Value {
    Manifest,
    Fence(Fence),
    Unknown(String),
}

impl BackupSession {
    /// Commits the snapshot. Everything that the manifest names must be durable before.
    ///
    /// After an error the session may or may not be committed; calling again with the same manifest is safe and tells.
    pub async fn commit(
        &self,
        writer: &dyn ObjectWriter,
        manifest: &Manifest,
    ) -> Result<CommitOutcome, RepositoryError> {
        let intent = &self.intent;
        if (manifest.snapshot, manifest.session, manifest.source.uid) != (intent.snapshot, self.id(), self.source) {
            return Err(RepositoryError::Invalid("the manifest is that of another session".to_owned()));
        }
        let mut sealed = self.sealed.lock().await;
        let name = ObjectName::Register(self.source, intent.snapshot, self.id());
        let register = match &*sealed {
            Some(sealed) if sealed.manifest == *manifest => sealed.register.clone(),
            Some(_) => {
                return Err(RepositoryError::Invalid(
                    "another manifest of this session may be committed already; it cannot be replaced".to_owned(),
                ));
            }
            None => {
                if self.may_be_second(&name).await?
                    && let Some(session) = self.repository.committed_session(self.source, intent.snapshot).await?
                {
                    return Ok(CommitOutcome::AlreadyCommitted { session });
                }
                let register = self.repository.seal_record(self.source, RecordKind::Manifest, &name, manifest)?;
                *sealed = Some(SealedManifest { manifest: manifest.clone(), register: register.clone() });
                register
            }
        };
        let decisions = writer.create_decided(&name, register.into()).await;
        self.decide(writer, &name, manifest, decisions).await
    }

    /// Whether another session may have committed this snapshot. A later attempt knows that there were others; a first one
    /// finds a fence under its own name where one took over, and need not list what there is.
    async fn may_be_second(&self, register: &ObjectName) -> Result<bool, RepositoryError> {
        let is_first = self.intent.attempt <= Attempt::FIRST;
        Ok(!is_first || self.repository.shows(&self.repository.read_order(), register).await?)
    }

    async fn decide(
        &self,
        writer: &dyn ObjectWriter,
        name: &ObjectName,
        manifest: &Manifest,
        decisions: Vec<RegionDecision>,
    ) -> Result<CommitOutcome, RepositoryError> {
        let mut tally = Tally::default();
        let mut fences = Vec::new();
        for decision in &decisions {
            match self.value(name, decision).await {
                Value::Manifest => tally.hold(decision),
                Value::Fence(fence) => fences.push(fence),
                Value::Unknown(why) => tally.open.push(format!("{}: {why}", decision.name)),
            }
        }
        if tally.held.is_empty() {
            // A region that was never seen is not among the answers, but it may hold the manifest.
            for region in self.repository.regions() {
                if !decisions.iter().any(|decision| decision.name == region.name()) {
                    tally.open.push(format!("{}: not asked, it was never seen", region.name()));
                }
            }
            // Only a fence in every region's register rules out that some region shows the manifest.
            return match fences.into_iter().next() {
                Some(fence) if tally.open.is_empty() => Ok(CommitOutcome::Fenced { reason: fence.reason }),
                _ => Err(self.undecided(&tally)),
            };
        }
        if !fences.is_empty() {
            // A manifest in any region counts, so a region that holds the fence gets it under the other name.
            tally = Tally::default();
            let decisions = write_committed(&self.repository, writer, manifest).await?;
            let (committed, register) = (committed_name(manifest), name);
            for decision in &decisions {
                match self.value(&committed, decision).await {
                    Value::Manifest => tally.hold(decision),
                    Value::Fence(_) => tally.open.push(format!("{}: a fence instead of {register}", decision.name)),
                    Value::Unknown(why) => tally.open.push(format!("{}: {why}", decision.name)),
                }
            }
        }
        if tally.sync < writer.commit() {
            return Err(self.undecided(&tally));
        }
        let held: Vec<String> = tally.held;
        let owed = decisions.iter().map(|decision| decision.name.clone()).filter(|name| !held.contains(name)).collect();
        Ok(CommitOutcome::Committed { held, owed })
    }

    fn undecided(&self, tally: &Tally) -> RepositoryError {
        let held = if tally.held.is_empty() { "no region".to_owned() } else { tally.held.join(", ") };
        let detail = format!("{held} holds the manifest; {}", tally.open.join("; "));
        RepositoryError::Undecided { session: self.id(), detail }
    }

    async fn value(&self, name: &ObjectName, decision: &RegionDecision) -> Value {
        let bytes = match &decision.answer {
            RegionAnswer::Created => return Value::Manifest,
            RegionAnswer::Owed => return Value::Unknown("it is behind and gets the manifest later".to_owned()),
            RegionAnswer::Unreachable(why) => return Value::Unknown(why.clone()),
            RegionAnswer::Exists(bytes) if !bytes.is_empty() => bytes.clone(),
            RegionAnswer::Exists(_) => match self.refetch(name, &decision.name).await {
                Ok(bytes) => bytes,
                Err(why) => return Value::Unknown(why),
            },
        };
        match read_register(&self.repository, name, &bytes) {
            Ok(RegisterValue::Manifest(found)) if found.session == self.id() => Value::Manifest,
            Ok(RegisterValue::Fence(fence)) if fence.session == self.id() => Value::Fence(fence),
            Ok(_) => Value::Unknown("its register is that of another session".to_owned()),
            Err(error) => Value::Unknown(breakwater_core::Chain(&error).to_string()),
        }
    }

    async fn refetch(&self, name: &ObjectName, region: &str) -> Result<Bytes, String> {
        let region = self.repository.region(region).map_err(|error| error.to_string())?;
        let storage = region.ready().await.map_err(|trouble| trouble.to_string())?;
        within(READ_DEADLINE, storage.get(&name.to_string())).await.map_err(|trouble| trouble.to_string())
    }
}

/// Which regions hold a manifest.
#[derive(Default)]
struct Tally {
    held: Vec<String>,
    sync: usize,
    open: Vec<String>,
}

impl Tally {
    fn hold(&mut self, decision: &RegionDecision) {
        self.held.push(decision.name.clone());
        self.sync += usize::from(decision.role == Role::Sync);
    }
}

/// The value of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterValue {
    /// It commits the session.
    Manifest(Box<Manifest>),
    /// It aborts the session.
    Fence(Fence),
}

/// Reads the bytes of the register `name`, and refuses one that speaks of another session or snapshot than its name.
pub fn read_register(
    repository: &Repository,
    name: &ObjectName,
    bytes: &[u8],
) -> Result<RegisterValue, crate::format::FormatError> {
    const WHAT: &str = "commit register";
    let damaged = |detail: &str| crate::format::FormatError::damaged(WHAT, detail);
    let (source, snapshot, session) = match name {
        ObjectName::Register(source, snapshot, session) | ObjectName::Committed(source, snapshot, session) => {
            (*source, *snapshot, *session)
        }
        _ => return Err(damaged("its name is not that of a register")),
    };
    let (kind, json) = repository.open_any_record(source, name, bytes)?;
    match kind {
        RecordKind::Manifest => {
            let manifest: Manifest = read_json(WHAT, &json)?;
            if (manifest.source.uid, manifest.snapshot, manifest.session) != (source, snapshot, session) {
                return Err(damaged("its manifest is that of another session"));
            }
            Ok(RegisterValue::Manifest(Box::new(manifest)))
        }
        RecordKind::Fence => {
            let fence: Fence = read_json(WHAT, &json)?;
            if (fence.snapshot, fence.session) != (snapshot, session) {
                return Err(damaged("its fence is that of another session"));
            }
            Ok(RegisterValue::Fence(fence))
        }
        _ => Err(damaged("it holds neither a manifest nor a fence")),
    }
}

fn committed_name(manifest: &Manifest) -> ObjectName {
    ObjectName::Committed(manifest.source.uid, manifest.snapshot, manifest.session)
}

/// Gives the regions the manifest of a committed session under the name that no fence can hold.
pub(super) async fn write_committed(
    repository: &Repository,
    writer: &dyn ObjectWriter,
    manifest: &Manifest,
) -> Result<Vec<RegionDecision>, RepositoryError> {
    let name = committed_name(manifest);
    let source = manifest.source.uid;
    // The same name holds the same bytes everywhere, so the bytes that somebody wrote before are used again.
    let order = repository.read_order();
    let decode = |bytes: &[u8]| read_register(repository, &name, bytes).map(|_| bytes.to_vec());
    let bytes = match repository.fetch(&order, &name, decode).await {
        Ok((bytes, _)) => bytes,
        Err(error) if error.is_absent() => repository.seal_record(source, RecordKind::Manifest, &name, manifest)?,
        Err(error) => return Err(error),
    };
    Ok(writer.create_decided(&name, bytes.into()).await)
}
