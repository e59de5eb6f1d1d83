//! The keys of a stream: what its structure is read with, and the session secrets that open its bytes.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::{Entropy, RepositoryId, SessionId, SourceUid, Timestamp};
use breakwater_crypto::recipient::{Purpose, Recipient, RecipientSecret, seal_for_all};
use breakwater_crypto::{Secret, Suite};
use breakwater_storage::Payload;

use super::StreamError;
use crate::format::ObjectName;
use crate::format::open::SessionKeys;
use crate::format::record::{RecordKey, RecordKind};
use crate::regions::RegionSet;
use crate::{Repository, RepositoryError};

/// What reading the structure of one source's stream, and naming its chunks, takes. Opens no log bytes.
#[derive(Clone, Debug)]
pub struct StreamKeys {
    /// The repository.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceUid,
    /// How new objects are sealed.
    pub suite: Suite,
    pub(crate) id_key: Secret,
    pub(crate) structure: Secret,
}

impl StreamKeys {
    /// The keys of `source` in an opened repository.
    pub fn of(repository: &Repository, source: SourceUid) -> StreamKeys {
        StreamKeys {
            repository: repository.id(),
            source,
            suite: repository.suite(),
            id_key: repository.id_key().clone(),
            structure: repository.structure_key(source),
        }
    }

    pub(crate) fn record(&self) -> RecordKey<'_> {
        RecordKey { repository: self.repository, structure: &self.structure }
    }

    /// The record that gives `secret` to the recipients.
    pub(crate) fn seal_session(
        &self,
        session: SessionId,
        secret: &Secret,
        recipients: &[Recipient],
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(ObjectName, Payload), StreamError> {
        let purpose = Purpose::SessionSecret { repository: self.repository, source: self.source, session };
        let sealed = seal_for_all(recipients, &purpose, secret, entropy)
            .map_err(|source| StreamError::Keys { session, source })?;
        let record = SessionKeys { session, created: now, secret: sealed };
        let name = ObjectName::SessionKeys(self.source, session);
        let bytes = self
            .record()
            .seal(self.suite, RecordKind::SessionKeys, salt(entropy), &name, &record)
            .map_err(StreamError::format(&name))?;
        Ok((name, Payload::from(bytes)))
    }
}

/// Thirty-two random bytes.
pub(crate) fn salt(entropy: &dyn Entropy) -> [u8; 32] {
    let mut salt = [0; 32];
    entropy.fill(&mut salt);
    salt
}

/// Opens session secrets: a recipient's key over the session records, or a grant.
#[async_trait::async_trait]
pub trait SecretSource: Send + Sync + Debug {
    /// The secret of `session`.
    async fn secret(&self, session: SessionId) -> Result<Secret, StreamError>;
}

/// Session secrets opened with a recipient's key.
#[derive(Debug)]
struct RecipientSecrets {
    regions: RegionSet,
    keys: StreamKeys,
    recipient: RecipientSecret,
    known: Mutex<HashMap<SessionId, Secret>>,
}

impl StreamKeys {
    /// Opens the session secrets of this source with the recipient's key that `repository` was opened with.
    pub fn secrets(
        &self,
        repository: &Repository,
        regions: &RegionSet,
    ) -> Result<Arc<dyn SecretSource>, RepositoryError> {
        let recipient = repository.recipient("reading the log")?.secret.clone();
        let (regions, keys) = (regions.clone(), self.clone());
        Ok(Arc::new(RecipientSecrets { regions, keys, recipient, known: Mutex::default() }))
    }
}

#[async_trait::async_trait]
impl SecretSource for RecipientSecrets {
    async fn secret(&self, session: SessionId) -> Result<Secret, StreamError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&session).cloned();
        if let Some(secret) = known {
            return Ok(secret);
        }
        let name = ObjectName::SessionKeys(self.keys.source, session);
        let bytes = self.regions.get(&name.to_string()).await?;
        let record: SessionKeys =
            self.keys.record().open(RecordKind::SessionKeys, &name, &bytes).map_err(StreamError::format(&name))?;
        let purpose = Purpose::SessionSecret { repository: self.keys.repository, source: self.keys.source, session };
        let secret =
            self.recipient.open(&purpose, &record.secret).map_err(|source| StreamError::Keys { session, source })?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(session, secret.clone());
        Ok(secret)
    }
}
