//! The beginning of a backup: what is there already to compare with and to go on from, then a session of this attempt's own.

use std::collections::BTreeSet;

use breakwater_core::{Attempt, ErrorClass, SessionId, SnapshotId, SourceUid};
use breakwater_repository::format::manifest::{Manifest, SnapshotSession};
use breakwater_repository::verified::VerifiedSet;
use breakwater_repository::{BackupSession, FenceOutcome, Repository, Selector, SessionIntent};

use super::lineage::Lineage;
use crate::error::AgentError;
use crate::jobs::context::JobContext;
use crate::repositories::OpenRepository;
use crate::sources::Source;

/// Dead sessions whose packs one backup may use.
const ADOPTED_MAX: usize = 64;

/// Sources that one backup leans on anew.
const LEANED_ON_MAX: usize = 8;

/// How a backup begins.
pub(super) enum Begun {
    /// In a session of its own.
    Session(Box<Start>),
    /// An earlier attempt has committed the snapshot.
    AlreadyThere(Box<Manifest>),
}

/// What a backup starts from.
pub(super) struct Start {
    /// The session.
    pub(super) session: BackupSession,
    /// What it compares with.
    pub(super) base: Option<Manifest>,
    /// What it may lean on of other sources.
    pub(super) verified: Vec<VerifiedSet>,
    /// Whether something of the source is on record as lost.
    pub(super) has_losses: bool,
}

/// Opens the session of this attempt: with the newest snapshot to compare with, and with what dead sessions left behind.
pub(super) async fn begin(
    open: &OpenRepository,
    lineage: &Lineage,
    source: &Source,
    context: &JobContext,
    snapshot: SnapshotId,
) -> Result<Begun, AgentError> {
    let repository = &open.repository;
    let doing = |what: &'static str| AgentError::repository(what);
    let writer = open.writer();
    let remembered = match lineage.take(repository.id(), source.uid).await {
        // A later attempt has to find what the earlier ones left, wherever they ran.
        Some(noted) if context.attempt <= Attempt::FIRST && noted.snapshot != snapshot => {
            remembered(repository, source.uid, noted).await
        }
        _ => None,
    };
    let mut adopts = Vec::new();
    let mut earlier = Vec::new();
    if remembered.is_none() {
        (adopts, earlier) = unfinished(repository, source.uid, snapshot).await?;
    }
    // A note is made only where nothing was lost, and whoever finds a loss after that leaves a mark first.
    let doing_losses = || doing("looking for losses on record");
    let lost = match remembered.is_some() && !repository.has_losses(source.uid).await.map_err(doing_losses())? {
        true => BTreeSet::new(),
        false => repository.lost_packs(source.uid).await.map_err(doing_losses())?,
    };
    adopts.retain(|session| !lost.iter().any(|pack| pack.session == *session));
    let base = match (lost.is_empty(), remembered) {
        (true, Some(manifest)) => Some(manifest),
        (true, None) => newest(repository, source.uid).await?,
        (false, _) => {
            // What is on record as lost must not be referred to again; it is stored anew with everything else.
            tracing::warn!(packs = lost.len(), "packs are on record as lost: everything is read and stored anew");
            None
        }
    };
    let bases = base.iter().map(|base| SnapshotSession { snapshot: base.snapshot, session: base.session }).collect();
    // While something is on record as lost, what can be stored anew is.
    let verified = if lost.is_empty() { neighbours(repository, source.uid).await } else { Vec::new() };
    let leans = verified.iter().map(|set| set.lean).collect();
    let intent = SessionIntent { snapshot, job: context.id, attempt: context.attempt, bases, adopts, leans };
    let session = BackupSession::begin(repository, &writer, source.uid, intent)
        .await
        .map_err(doing("opening a session in the repository"))?;
    // It may have been deleted a moment ago; then nothing may refer to it.
    let base = base.filter(|base| session.intent().bases.iter().any(|named| named.session == base.session));
    // Only now: a fenced session is no longer found as unfinished, so what it left behind must be named in a session of
    // this attempt's own before, or it would be uploaded again should this attempt be cut off here.
    let reason = format!("attempt {} of job {} takes over", context.attempt, context.id);
    for earlier in earlier {
        let fenced = repository.fence(&writer, source.uid, (snapshot, earlier), &reason).await;
        match fenced.map_err(doing("fencing an earlier attempt"))? {
            FenceOutcome::Committed(manifest) => {
                let reason = format!("session {earlier} has committed the snapshot");
                let given_up = repository.fence(&writer, source.uid, (snapshot, session.id()), &reason).await;
                if let Err(error) = given_up {
                    // It holds nothing; the next backup finds it as unfinished.
                    tracing::warn!(error = %breakwater_core::Chain(&error), "a session that is not needed stays open");
                }
                return Ok(Begun::AlreadyThere(manifest));
            }
            FenceOutcome::Established => {}
            FenceOutcome::Open(causes) => {
                let regions: Vec<&str> = causes.iter().map(|cause| cause.region.as_str()).collect();
                // If it turns out to be committed there, both are the same snapshot and the lower attempt counts.
                tracing::warn!(session = %earlier, ?regions, "an earlier attempt may still commit there");
            }
        }
    }
    Ok(Begun::Session(Box::new(Start { session, base, verified, has_losses: !lost.is_empty() })))
}

/// What this agent committed last, unless it is not there any more: then the regions are asked for what is.
async fn remembered(repository: &Repository, source: SourceUid, noted: SnapshotSession) -> Option<Manifest> {
    match repository.remembered(source, noted).await {
        Ok(found) => found,
        Err(error) => {
            tracing::info!(snapshot.id = %noted.snapshot, error = %breakwater_core::Chain(&error), "the last snapshot cannot be asked for by name");
            None
        }
    }
}

/// The sessions that began and came to no end: those whose packs this one may use, the latest first, and those of earlier attempts at
/// `snapshot`.
async fn unfinished(
    repository: &Repository,
    source: SourceUid,
    snapshot: SnapshotId,
) -> Result<(Vec<SessionId>, Vec<SessionId>), AgentError> {
    let dead = repository.adoptable(source).await.map_err(AgentError::repository("looking for unfinished sessions"))?;
    for (name, error) in &dead.unreadable {
        tracing::warn!(object = %name, error = %breakwater_core::Chain(error), "an unfinished session cannot be read");
    }
    let (mut adopts, mut earlier) = (Vec::new(), Vec::new());
    for session in dead.sessions.iter().rev() {
        for id in std::iter::once(session.open.session).chain(session.open.adopts.iter().copied()) {
            if adopts.len() < ADOPTED_MAX && !adopts.contains(&id) {
                adopts.push(id);
            }
        }
        if session.open.snapshot == snapshot {
            earlier.push(session.open.session);
        }
    }
    Ok((adopts, earlier))
}

/// What restorers vouch for of other sources of the domain, the newest of each. Not knowing it costs bytes and nothing else.
async fn neighbours(repository: &Repository, source: SourceUid) -> Vec<VerifiedSet> {
    let mut sets = match repository.verified_sets().await {
        Ok(sets) => sets,
        Err(error) => {
            tracing::warn!(error = %breakwater_core::Chain(&error), "nothing of other sources is used again");
            return Vec::new();
        }
    };
    let mut seen = BTreeSet::from([source]);
    sets.retain(|set| seen.insert(set.lean.source));
    sets.truncate(LEANED_ON_MAX);
    sets
}

/// The newest snapshot of the source, to compare with. Not having one costs bytes and nothing else.
async fn newest(repository: &Repository, source: SourceUid) -> Result<Option<Manifest>, AgentError> {
    let order = repository.read_order();
    let found = match repository.find_snapshot(&order, Some(source), &Selector::Latest).await {
        Ok(found) => found,
        Err(error) if error.class() == ErrorClass::NotFound => return Ok(None),
        Err(error) => {
            tracing::warn!(error = %breakwater_core::Chain(&error), "no snapshot to compare with; everything is read as new");
            return Ok(None);
        }
    };
    match repository.manifest(&order, source, found.id, found.session).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) => {
            tracing::warn!(snapshot.id = %found.id, error = %breakwater_core::Chain(&error), "the newest snapshot cannot be compared with");
            Ok(None)
        }
    }
}
