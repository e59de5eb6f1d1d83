//! Sources in a repository: which there are, and that each one stays what it was.

use std::collections::BTreeSet;

use breakwater_core::SourceUid;

use crate::error::{Cause, RepositoryError};
use crate::fetch::ReadOrder;
use crate::format::ObjectName;
use crate::format::open::SourceRecord;
use crate::format::record::RecordKind;
use crate::region::{READ_DEADLINE, within};
use crate::repository::Repository;
use crate::session::ObjectWriter;

/// The sources of a repository.
#[derive(Debug, Default)]
pub struct Sources {
    /// Their ids.
    pub uids: BTreeSet<SourceUid>,
    /// Regions that did not answer, so that what only they hold is not known.
    pub silent: Vec<Cause>,
}

impl Repository {
    /// The sources that any region knows of and that this handle's key may open something of. An error only when no region answers.
    pub async fn sources(&self, order: &ReadOrder) -> Result<Sources, RepositoryError> {
        let mut sources = Sources::default();
        for region in order.regions() {
            let listed = async {
                let storage = region.ready().await?;
                let names = within(READ_DEADLINE, storage.list_directories("meta/")).await?;
                if names.is_empty() {
                    region.ask().await?;
                }
                Ok(names)
            };
            match listed.await {
                Ok(names) => sources.uids.extend(
                    names
                        .iter()
                        .filter_map(|name| name.parse::<SourceUid>().ok())
                        .filter(|uid| self.ring().covers(*uid)),
                ),
                Err(trouble) => sources.silent.push(region.cause(trouble)),
            }
        }
        if sources.silent.len() == order.regions().len() {
            return Err(RepositoryError::Unreadable { name: "meta/".to_owned(), causes: sources.silent });
        }
        Ok(sources)
    }

    /// What a source says of itself.
    pub async fn source_record(&self, order: &ReadOrder, uid: SourceUid) -> Result<SourceRecord, RepositoryError> {
        let name = ObjectName::Source(uid);
        let decode = |bytes: &[u8]| self.open_record(uid, RecordKind::Source, &name, bytes);
        Ok(self.fetch(order, &name, decode).await?.0)
    }

    /// Makes sure that the source is recorded, and that it is the one that was recorded: a new database under an old
    /// name is refused.
    pub async fn ensure_source(&self, writer: &dyn ObjectWriter, record: &SourceRecord) -> Result<(), RepositoryError> {
        self.check_writable()?;
        match self.source_record(&self.read_order(), record.uid).await {
            Ok(found) => same_source(&found, record),
            // A region that is away must not stand in the way of a first backup: what it has shows when it is back.
            Err(error) if error.is_absent() => {
                let name = ObjectName::Source(record.uid);
                let bytes = self.seal_record(record.uid, RecordKind::Source, &name, record)?;
                match writer.create_all(&name, bytes.into()).await {
                    Ok(_) => Ok(()),
                    // Somebody else was faster; what they wrote decides.
                    Err(RepositoryError::Write(crate::regions::RegionError::Conflict { .. })) => {
                        same_source(&self.source_record(&self.read_order(), record.uid).await?, record)
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

fn same_source(recorded: &SourceRecord, found: &SourceRecord) -> Result<(), RepositoryError> {
    let differs = |field: &'static str, was: &str, is: &str| {
        if was == is {
            return Ok(());
        }
        Err(RepositoryError::OtherSource {
            uid: recorded.uid,
            name: found.name.clone(),
            field,
            recorded: was.to_owned(),
            found: is.to_owned(),
        })
    };
    differs("engine", &recorded.engine, &found.engine)?;
    differs("identity", &recorded.identity, &found.identity)?;
    differs("domain", recorded.domain.as_str(), found.domain.as_str())
}
