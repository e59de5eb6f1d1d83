//! What a dead session left behind: packs that a new session may refer to, so that nothing is uploaded twice.
//!
//! Its secret died with it, so nobody can write into it or read it back here; the footers say what it holds.

use std::collections::{BTreeMap, HashSet};

use breakwater_core::{SessionId, SourceUid};

use crate::error::{Cause, RepositoryError};
use crate::fetch::ReadOrder;
use crate::format::ObjectName;
use crate::format::open::OpenRecord;
use crate::format::pack::{Footer, KeyKind, PackId};
use crate::format::record::RecordKind;
use crate::repository::Repository;

/// A session that began and neither committed nor was fenced, as far as the regions that answer know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadSession {
    /// What it said when it began.
    pub open: OpenRecord,
    /// The regions that hold its open record.
    pub regions: Vec<String>,
}

/// The unfinished sessions of a source.
#[derive(Debug, Default)]
pub struct DeadSessions {
    /// The sessions, oldest first. One that is still being written is among them: only its writer knows that.
    pub sessions: Vec<DeadSession>,
    /// Open records that cannot be read.
    pub unreadable: Vec<(ObjectName, RepositoryError)>,
    /// Regions that did not answer.
    pub silent: Vec<Cause>,
}

/// A pack that a session wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackFooter {
    /// The pack.
    pub id: PackId,
    /// What it holds: content or structure.
    pub kind: KeyKind,
    /// Its object.
    pub name: ObjectName,
    /// Its frames.
    pub footer: Footer,
    /// Regions that answered and lack it: they owe it once something refers to it.
    pub missing: Vec<String>,
}

/// The packs of a session, read one after the other.
#[derive(Debug)]
pub struct SessionFooters {
    repository: Repository,
    order: ReadOrder,
    packs: std::vec::IntoIter<(ObjectName, PackId, KeyKind, Vec<String>)>,
    /// Regions that did not answer.
    pub silent: Vec<Cause>,
}

impl Repository {
    /// The sessions of `source` that began and neither committed nor were fenced.
    pub async fn adoptable(&self, source: SourceUid) -> Result<DeadSessions, RepositoryError> {
        let order = self.read_order();
        let open = self.names(&order, &ObjectName::meta_prefix(source, "open")).await?;
        let ended = self.names(&order, &ObjectName::meta_prefix(source, "snap")).await?;
        let ended: HashSet<SessionId> = ended
            .objects
            .keys()
            .filter_map(|name| match ObjectName::parse(name)? {
                ObjectName::Register(_, _, session) | ObjectName::Committed(_, _, session) => Some(session),
                _ => None,
            })
            .collect();
        let mut dead = DeadSessions { silent: open.silent, ..DeadSessions::default() };
        for (key, holders) in open.objects {
            let Some(name @ ObjectName::Open(_, session)) = ObjectName::parse(&key) else { continue };
            if ended.contains(&session) {
                continue;
            }
            let decode = |bytes: &[u8]| self.open_record::<OpenRecord>(source, RecordKind::Open, &name, bytes);
            match self.fetch(&order, &name, decode).await {
                Ok((open, _)) => {
                    let regions = holders.regions.into_iter().map(|(region, _)| region).collect();
                    dead.sessions.push(DeadSession { open, regions });
                }
                Err(error) => dead.unreadable.push((name, error)),
            }
        }
        dead.sessions.sort_by_key(|session| (session.open.started, session.open.session));
        Ok(dead)
    }

    /// The packs of `session` with their footers. What cannot be read is an item of its own and can be left out.
    pub async fn session_footers(
        &self,
        source: SourceUid,
        session: SessionId,
    ) -> Result<SessionFooters, RepositoryError> {
        let order = self.read_order();
        let mut packs = BTreeMap::new();
        let mut silent = Vec::new();
        for (folder, kind) in [
            (ObjectName::data_prefix(source, "pack"), KeyKind::Content),
            (ObjectName::meta_prefix(source, "pack"), KeyKind::Structure),
        ] {
            let listed = self.names(&order, &format!("{folder}{session}-")).await?;
            let away: HashSet<&str> = listed.silent.iter().map(|cause| cause.region.as_str()).collect();
            for (key, holders) in &listed.objects {
                let (name, id) = match ObjectName::parse(key) {
                    Some(name @ (ObjectName::ContentPack(_, id) | ObjectName::StructurePack(_, id))) => (name, id),
                    _ => continue,
                };
                let holds = |region: &str| holders.regions.iter().any(|(holder, _)| holder == region);
                let lacking = order.regions().iter().map(|region| region.name());
                let lacking = lacking.filter(|region| !holds(region) && !away.contains(region));
                packs.insert((folder.clone(), id), (name, id, kind, lacking.map(str::to_owned).collect()));
            }
            if silent.is_empty() {
                silent = listed.silent;
            }
        }
        let packs = packs.into_values().collect::<Vec<_>>().into_iter();
        Ok(SessionFooters { repository: self.clone(), order, packs, silent })
    }
}

impl SessionFooters {
    /// The next pack; `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<PackFooter, RepositoryError>> {
        let (name, id, kind, missing) = self.packs.next()?;
        let footer = self.repository.fetch_footer(&self.order, &name).await;
        Some(footer.map(|(footer, _)| PackFooter { id, kind, name, footer, missing }))
    }

    /// How many packs are left.
    pub fn remaining(&self) -> usize {
        self.packs.len()
    }
}
