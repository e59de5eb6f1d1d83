//! The keys of a stream: what its structure is read with, and the session secrets that open its bytes.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::{Entropy, RepositoryId, SessionId, SourceUid};
use breakwater_crypto::{Secret, Suite};
use breakwater_storage::Payload;

use super::StreamError;
use crate::format::ObjectName;
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
            id_key: repository.id_key_of(source).clone(),
            structure: repository.structure_key(source),
        }
    }

    pub(crate) fn record(&self) -> RecordKey<'_> {
        RecordKey { repository: self.repository, structure: &self.structure }
    }

    /// The record that gives `secret` to those who may open the domain.
    pub(crate) fn seal_session(
        &self,
        repository: &Repository,
        session: SessionId,
        secret: &Secret,
    ) -> Result<(ObjectName, Payload), StreamError> {
        let record = repository.seal_session(self.source, session, secret).map_err(StreamError::secret(session))?;
        let name = ObjectName::SessionKeys(self.source, session);
        let bytes = self
            .record()
            .seal(self.suite, RecordKind::SessionKeys, repository.salt(), &name, &record)
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

/// Session secrets opened with the key that the repository was opened with.
#[derive(Debug)]
struct OpenedSecrets {
    regions: RegionSet,
    source: SourceUid,
    repository: Repository,
    known: Mutex<HashMap<SessionId, Secret>>,
}

impl StreamKeys {
    /// Opens the session secrets of this source with the key that `repository` was opened with.
    pub fn secrets(
        &self,
        repository: &Repository,
        regions: &RegionSet,
    ) -> Result<Arc<dyn SecretSource>, RepositoryError> {
        repository.needs_content("reading the log")?;
        let (regions, repository) = (regions.clone(), repository.clone());
        Ok(Arc::new(OpenedSecrets { regions, source: self.source, repository, known: Mutex::default() }))
    }
}

#[async_trait::async_trait]
impl SecretSource for OpenedSecrets {
    async fn secret(&self, session: SessionId) -> Result<Secret, StreamError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&session).cloned();
        if let Some(secret) = known {
            return Ok(secret);
        }
        if let Some(granted) = self.repository.granted(session) {
            return granted.map_err(StreamError::secret(session));
        }
        let mut first = None;
        for name in self.repository.session_key_names(self.source, session) {
            let opened = async {
                let decode = |bytes: &[u8]| self.repository.decode_session_keys(self.source, session, &name, bytes);
                let keys =
                    self.regions.get_with(&name.to_string(), decode).await?.map_err(StreamError::format(&name))?;
                self.repository.unseal_session(self.source, &keys).map_err(StreamError::secret(session))
            };
            match opened.await {
                Ok(secret) => {
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(session, secret.clone());
                    return Ok(secret);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.expect("a session's keys have at least one name"))
    }
}
