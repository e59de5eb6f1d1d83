//! Sealing the secrets of sessions again, to the restore key that is in use, and deleting what an older key opens.
//!
//! Invariant: the old record of a session is deleted in a region only after the new one was read back and opened there, so
//! that stopping at any moment leaves every session open to the present recipients. Packs are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use breakwater_core::{Chain, SessionId, SourceUid};
use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::record::RecordKind;
use crate::region::{self, CALL_DEADLINE, Region, within};
use crate::repository::Repository;

/// What was sealed again.
#[derive(Debug, Default)]
pub struct Resealed {
    /// Sessions looked at.
    pub sessions: u64,
    /// Sessions that a new record was made for.
    pub sealed: u64,
    /// Records written, in all regions.
    pub written: u64,
    /// Records deleted, in all regions.
    pub deleted: u64,
    /// Records of before that are locked, in all regions.
    pub locked: u64,
    /// Where something is left to do. Running it again finishes it.
    pub behind: Vec<Cause>,
}

impl Repository {
    /// Seals every session of every domain to the restore key in use; `seen` hears of each session. Needs a recipient's
    /// key.
    pub async fn reseal(&self, seen: &(dyn Fn(&Resealed) + Send + Sync)) -> Result<Resealed, RepositoryError> {
        self.opener("sealing sessions again")?;
        let order = self.read_order();
        let mut done = Resealed::default();
        let sources = self.sources(&order).await?;
        done.behind.extend(sources.silent);
        for source in sources.uids {
            let names = self.names(&order, &ObjectName::meta_prefix(source, "keys")).await?;
            let mut sessions: BTreeMap<SessionId, BTreeMap<ObjectName, BTreeSet<String>>> = BTreeMap::new();
            for (name, holders) in names.objects {
                let Some(name) = ObjectName::parse(&name) else { continue };
                let (ObjectName::SessionKeys(_, session) | ObjectName::ResealedKeys(_, session, _)) = name else {
                    continue;
                };
                let regions = holders.regions.into_iter().map(|(region, _)| region).collect();
                sessions.entry(session).or_default().insert(name, regions);
            }
            for (session, records) in sessions {
                if let Err(error) = self.reseal_session(source, session, &records, &mut done).await {
                    let trouble = Trouble::Unusable(format!("session {session}: {}", Chain(&error)));
                    done.behind.push(Cause { region: "all".to_owned(), trouble });
                }
                done.sessions += 1;
                seen(&done);
            }
        }
        Ok(done)
    }

    async fn reseal_session(
        &self,
        source: SourceUid,
        session: SessionId,
        records: &BTreeMap<ObjectName, BTreeSet<String>>,
        done: &mut Resealed,
    ) -> Result<(), RepositoryError> {
        let present = self.ring().domain_of(source).present().clone();
        let order = self.read_order();
        // A session that began after the change is sealed to the present key already, under its first name.
        let mut wanted = ObjectName::ResealedKeys(source, session, present.epoch);
        let mut bytes = None;
        for name in [ObjectName::SessionKeys(source, session), wanted.clone()] {
            if !records.contains_key(&name) {
                continue;
            }
            let decode = |bytes: &[u8]| {
                let keys = self.decode_session_keys(source, session, &name, bytes)?;
                Ok((keys, Bytes::copy_from_slice(bytes)))
            };
            if let Ok(((keys, found), _)) = self.fetch(&order, &name, decode).await
                && keys.epoch == present.epoch
            {
                self.unseal_session(source, &keys)?;
                (wanted, bytes) = (name, Some(found));
                break;
            }
        }
        if records.len() == 1 && records.contains_key(&wanted) {
            return Ok(());
        }
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => {
                let secret = self.session_secret(&order, source, session).await?;
                let keys = self.seal_session_to(&present, source, session, &secret)?;
                done.sealed += 1;
                self.seal_record(source, RecordKind::SessionKeys, &wanted, &keys)?.into()
            }
        };
        let holders: BTreeSet<&String> = records.values().flatten().collect();
        for region in self.regions().iter().filter(|region| holders.iter().any(|name| *name == region.name())) {
            match self.reseal_in(region, (source, session), &wanted, &bytes, records, done).await {
                Ok(()) => {}
                Err(trouble) => done.behind.push(region.cause(trouble)),
            }
        }
        Ok(())
    }

    /// Writes the new record in one region, reads it back, and deletes the others there.
    async fn reseal_in(
        &self,
        region: &Arc<Region>,
        (source, session): (SourceUid, SessionId),
        wanted: &ObjectName,
        bytes: &Bytes,
        records: &BTreeMap<ObjectName, BTreeSet<String>>,
        done: &mut Resealed,
    ) -> Result<(), Trouble> {
        let storage = region.ready().await?;
        let holds = |name: &ObjectName| records.get(name).is_some_and(|regions| regions.contains(region.name()));
        if !holds(wanted) {
            let created =
                within(CALL_DEADLINE, storage.create(&wanted.to_string(), Payload::from(bytes.clone()))).await;
            match created {
                Ok(()) => done.written += 1,
                // Another run was faster; what it wrote is judged below.
                Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {}
                Err(trouble) => return Err(trouble),
            }
        }
        let found = region::get(storage, wanted).await?;
        let keys = self.decode_session_keys(source, session, wanted, &found)?;
        self.unseal_session(source, &keys).map_err(|error| Trouble::Unusable(Chain(&error).to_string()))?;
        for name in records.keys().filter(|name| *name != wanted && holds(name)) {
            match within(CALL_DEADLINE, storage.delete(&name.to_string())).await {
                Ok(()) => done.deleted += 1,
                // The key that opens it is gone; it goes itself when this is run after its lock has ended.
                Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::Locked => done.locked += 1,
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }
}
