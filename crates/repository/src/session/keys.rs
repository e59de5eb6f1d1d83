//! The secret of a session. The writer holds it in memory while the session lasts and can open nothing of it afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use breakwater_core::{RepositoryId, SessionId, SourceUid};
use breakwater_crypto::{Secret, Suite};

use super::pack_writer::PackWriter;
use super::writer::ObjectWriter;
use crate::error::RepositoryError;
use crate::format::pack::{KeyKind, PackId, PackKey};
use crate::format::record::RecordKind;
use crate::format::{FormatError, ObjectName};
use crate::repository::Repository;

/// A session's secret and the numbers of its packs. A clone is the same session.
#[derive(Clone, Debug)]
pub struct SessionKey {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    repository: Repository,
    source: SourceUid,
    session: SessionId,
    secret: Secret,
    structure: Secret,
    content_packs: AtomicU32,
    structure_packs: AtomicU32,
}

impl SessionKey {
    /// Makes a session secret and stores it sealed to the domain's restore key. Durable when this answers.
    pub async fn create(
        repository: &Repository,
        writer: &dyn ObjectWriter,
        source: SourceUid,
    ) -> Result<SessionKey, RepositoryError> {
        repository.check_writable()?;
        let session = repository.new_session();
        let secret = Secret::generate(repository.entropy().as_ref());
        let record = repository.seal_session(source, session, &secret)?;
        let name = ObjectName::SessionKeys(source, session);
        let bytes = repository.seal_record(source, RecordKind::SessionKeys, &name, &record)?;
        writer.create_all(&name, bytes.into()).await?;
        let structure = repository.structure_key(source);
        let shared = Shared {
            repository: repository.clone(),
            source,
            session,
            secret,
            structure,
            content_packs: AtomicU32::new(0),
            structure_packs: AtomicU32::new(0),
        };
        Ok(SessionKey { shared: Arc::new(shared) })
    }

    /// The session.
    pub fn id(&self) -> SessionId {
        self.shared.session
    }

    /// The source that it writes.
    pub fn source(&self) -> SourceUid {
        self.shared.source
    }

    /// A writer of packs of this kind, named under `pack/`.
    pub fn pack_writer(&self, kind: KeyKind) -> PackWriter {
        PackWriter::new(self.clone(), kind)
    }

    /// The key of a new pack; its number is used for nothing else. For content packs, segments and tails alike.
    pub fn new_pack(&self, kind: KeyKind) -> Result<PackKey, FormatError> {
        let (numbers, base) = match kind {
            KeyKind::Content => (&self.shared.content_packs, &self.shared.secret),
            KeyKind::Structure => (&self.shared.structure_packs, &self.shared.structure),
        };
        let number = numbers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| number.checked_add(1))
            .map_err(|_| FormatError::damaged("session", "it has no pack numbers left"))?;
        let pack = PackId { session: self.shared.session, number };
        Ok(PackKey::new(self.suite(), kind, self.repository_id(), pack, self.salt(), base))
    }

    /// The name that a pack of this kind has.
    pub fn pack_name(&self, kind: KeyKind, pack: PackId) -> ObjectName {
        match kind {
            KeyKind::Content => ObjectName::ContentPack(self.shared.source, pack),
            KeyKind::Structure => ObjectName::StructurePack(self.shared.source, pack),
        }
    }

    pub(crate) fn structure_key(&self) -> &Secret {
        &self.shared.structure
    }

    pub(crate) fn suite(&self) -> Suite {
        self.shared.repository.suite()
    }

    pub(crate) fn repository_id(&self) -> RepositoryId {
        self.shared.repository.id()
    }

    pub(crate) fn pack_size(&self) -> u32 {
        self.shared.repository.descriptor().pack_size
    }

    pub(crate) fn salt(&self) -> [u8; 32] {
        self.shared.repository.salt()
    }
}
