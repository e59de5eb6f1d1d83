//! The secrets of sessions: sealed to the restore key of their domain, opened by whoever has its private half.

use breakwater_core::{SessionId, SourceUid};
use breakwater_crypto::{Purpose, Seal, SealError, Secret};

use super::ring::RestoreKey;
use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::open::SessionKeys;
use crate::format::record::RecordKind;
use crate::format::{FormatError, ObjectName};
use crate::repository::Repository;

impl Repository {
    /// The record that gives the secret of a session of `source` to those who may open the source's domain.
    pub(crate) fn seal_session(
        &self,
        source: SourceUid,
        session: SessionId,
        secret: &Secret,
    ) -> Result<SessionKeys, RepositoryError> {
        self.seal_session_to(&self.ring().domain_of(source).present(), source, session, secret)
    }

    pub(crate) fn seal_session_to(
        &self,
        restore: &RestoreKey,
        source: SourceUid,
        session: SessionId,
        secret: &Secret,
    ) -> Result<SessionKeys, RepositoryError> {
        let purpose = Purpose::SessionSecret { repository: self.id(), source, session };
        let seal = Seal::to(&restore.public, &purpose, secret.expose(), self.entropy().as_ref());
        let secret = seal.map_err(|_| {
            let name = format!("restore key of epoch {}", restore.epoch);
            let what = "the session secret cannot be sealed".to_owned();
            RepositoryError::Key { what, source: SealError::BadRecipient { name } }
        })?;
        Ok(SessionKeys { session, created: self.now(), epoch: restore.epoch, secret })
    }

    /// The secret in a session's key record. Needs a key that opens content.
    pub fn unseal_session(&self, source: SourceUid, keys: &SessionKeys) -> Result<Secret, RepositoryError> {
        self.needs_content("opening content")?;
        let domain = self.ring().domain_of(source);
        let what = || format!("the secret of session {} cannot be opened", keys.session);
        let restore = domain.restore.iter().find(|restore| restore.epoch == keys.epoch);
        let Some(secret) = restore.and_then(|restore| restore.secret.as_ref()) else {
            return Err(RepositoryError::NoRestoreKey {
                session: keys.session,
                domain: domain.name.clone(),
                epoch: keys.epoch,
            });
        };
        let purpose = Purpose::SessionSecret { repository: self.id(), source, session: keys.session };
        secret.open_secret(&purpose, &keys.secret).map_err(|source| RepositoryError::Key { what: what(), source })
    }

    /// The names that the key record of a session may have, the likeliest first: as it was written, then as it was sealed
    /// again after a change of keys, newest first.
    pub fn session_key_names(&self, source: SourceUid, session: SessionId) -> Vec<ObjectName> {
        let epochs = self.ring().domain_of(source).restore.iter().rev().map(|restore| restore.epoch);
        let again = epochs.map(|epoch| ObjectName::ResealedKeys(source, session, epoch));
        std::iter::once(ObjectName::SessionKeys(source, session)).chain(again).collect()
    }

    /// Reads and opens the secret of a session.
    pub async fn session_secret(
        &self,
        order: &ReadOrder,
        source: SourceUid,
        session: SessionId,
    ) -> Result<Secret, RepositoryError> {
        self.needs_content("opening content")?;
        if let Some(granted) = self.granted(session) {
            return granted;
        }
        let mut first = None;
        for name in self.session_key_names(source, session) {
            let decode = |bytes: &[u8]| self.decode_session_keys(source, session, &name, bytes);
            let tried = match self.fetch(order, &name, decode).await {
                Ok((keys, _)) => self.unseal_session(source, &keys),
                Err(error) => Err(error),
            };
            match tried {
                Ok(secret) => return Ok(secret),
                Err(error) => first = first.or(Some(error)),
            }
        }
        let name = ObjectName::SessionKeys(source, session).to_string();
        Err(first.unwrap_or(RepositoryError::NotFound { name }))
    }

    /// The secret out of a grant, or that it is not in it; `None` where the handle was not opened with one.
    pub(crate) fn granted(&self, session: SessionId) -> Option<Result<Secret, RepositoryError>> {
        let grant = self.ring().grant.as_ref()?;
        // Sessions of other sources are in it where the snapshot leans on them.
        let secret = grant.secrets.sessions.get(&session);
        Some(secret.cloned().ok_or(RepositoryError::NotGranted { session, snapshot: grant.grant.snapshot }))
    }

    /// Opens the bytes of a key record.
    pub(crate) fn decode_session_keys(
        &self,
        source: SourceUid,
        session: SessionId,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<SessionKeys, FormatError> {
        let keys: SessionKeys = self.open_record(source, RecordKind::SessionKeys, name, bytes)?;
        if keys.session != session {
            return Err(FormatError::damaged("session keys", "they are those of another session"));
        }
        Ok(keys)
    }
}
