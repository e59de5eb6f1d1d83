//! Taking over a stream: the keys of a session, then the claim of the next generation.
//!
//! Invariant: nothing is written under a claim before the claim and the session's keys are durable.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Clock, Entropy, Generation, SessionId};
use breakwater_crypto::Secret;
use breakwater_storage::Payload;

use super::StreamError;
use super::keys::{StreamKeys, salt};
use super::path::Writer;
use crate::Repository;
use crate::format::ObjectName;
use crate::format::log::{Continues, Over, StreamClaim};
use crate::format::record::RecordKind;
use crate::regions::keys::Newest;
use crate::regions::{Listed, RegionError, RegionSet};

/// What a writer needs of its surroundings.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) regions: RegionSet,
    pub(super) keys: StreamKeys,
    /// Seals session secrets.
    pub(super) repository: Repository,
    pub(super) facts: serde_json::Value,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// How long a claim is tried.
    pub(super) patience: Duration,
}

/// A session with its secret.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) secret: Secret,
}

impl Surroundings {
    /// Makes a session and stores its keys.
    pub(super) async fn new_session(&self) -> Result<Session, StreamError> {
        let now = self.clock.now();
        let session = Session { id: SessionId::v7(now, &*self.entropy), secret: Secret::generate(&*self.entropy) };
        let (name, payload) = self.keys.seal_session(&self.repository, session.id, &session.secret)?;
        self.regions.create(&name.to_string(), payload, self.patience).await?;
        Ok(session)
    }

    /// Makes the keys, claims and histories that a region missed its debt: its pieces cannot be read without them, or are on
    /// no path.
    pub(super) async fn owe_records(&self) -> Result<(), StreamError> {
        for kind in ["keys", "stream", "history"] {
            let listing = self.regions.list(&ObjectName::meta_prefix(self.keys.source, kind)).await?;
            let mut objects = listing.objects;
            if kind == "keys" {
                objects = newest(objects);
            }
            for object in objects {
                for handle in self.regions.handles().filter(|handle| !object.regions.contains(&handle.id)) {
                    self.regions.owe(handle.id, &object.name, object.size);
                }
            }
        }
        Ok(())
    }

    /// Claims `generation` for `session`.
    pub(super) async fn claim(
        &self,
        generation: Generation,
        session: &Session,
        continues: Option<Continues>,
    ) -> Result<StreamClaim, StreamError> {
        let claim =
            StreamClaim { generation, session: session.id, continues, facts: self.facts.clone(), at: self.clock.now() };
        let name = ObjectName::StreamClaim(self.keys.source, generation, session.id);
        let sealed =
            self.keys.record().seal(self.keys.suite, RecordKind::StreamClaim, salt(&*self.entropy), &name, &claim);
        let payload = Payload::from(sealed.map_err(StreamError::format(&name))?);
        self.regions.create(&name.to_string(), payload, self.patience).await?;
        tracing::info!(source = %self.keys.source, %generation, session = %session.id, "stream claimed");
        Ok(claim)
    }

    /// Tells the writers before `writer`, from `since` on and but for `own`, that they are over. To be done once its claim is durable: of
    /// two that claim at once, at least one sees the other. An error when a writer after it has claimed the stream.
    pub(super) async fn take_over(
        &self,
        writer: Writer,
        since: Option<Writer>,
        own: &[Writer],
    ) -> Result<(), StreamError> {
        let older = self.claims_before(writer).await?;
        for (generation, session) in older.into_iter().filter(|one| Some(*one) >= since && !own.contains(one)) {
            let over = Over { generation, session };
            let name = over.name(self.keys.source);
            let sealed = over.seal(self.keys.suite, &self.keys.record(), &name).map_err(StreamError::format(&name))?;
            self.regions.create(&name.to_string(), Payload::from(sealed), self.patience).await?;
        }
        Ok(())
    }

    /// An error when a writer after `writer` has claimed the stream. It has left a mark under this one's name, so claims are listed only
    /// where there is one.
    pub(super) async fn check_fence(&self, writer: Writer) -> Result<(), StreamError> {
        let (generation, session) = writer;
        let mark = Over { generation, session }.name(self.keys.source);
        match self.regions.get(&mark.to_string()).await {
            Ok(_) => self.claims_before(writer).await.map(drop),
            Err(RegionError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The writers that have claimed the stream, all of them before `writer`, or the error that one came after it.
    async fn claims_before(&self, writer: Writer) -> Result<Vec<Writer>, StreamError> {
        let listing = self.regions.list(&ObjectName::meta_prefix(self.keys.source, "stream")).await?;
        let mut older = Vec::new();
        for object in listing.objects {
            match ObjectName::parse(&object.name) {
                Some(ObjectName::StreamClaim(_, other, by)) if (other, by) > writer => {
                    return Err(StreamError::Fenced(other.0));
                }
                Some(ObjectName::StreamClaim(_, other, by)) if (other, by) < writer => older.push((other, by)),
                _ => {}
            }
        }
        Ok(older)
    }
}

/// Of each session the key record that counts; what it has replaced is owed to nobody.
fn newest(records: Vec<Listed>) -> Vec<Listed> {
    let mut newest = Newest::default();
    let mut kept = Vec::new();
    for record in records {
        let name = record.name.clone();
        kept.extend(newest.push(&name, record));
    }
    kept.extend(newest.end());
    kept
}
