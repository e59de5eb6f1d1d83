//! What a session says before it refers to packs of another source, and what it asks.
//!
//! Invariant: the record that the source leans on the other one is durable before the session's open record is, so that
//! whoever collects the other source's garbage looks at both.

use std::collections::BTreeSet;

use breakwater_core::SourceUid;

use super::ObjectWriter;
use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::ObjectName;
use crate::format::leaning::{Lean, Leaning};
use crate::repository::Repository;

/// Makes it durable that `source` leans on the sources in `leans`.
pub(super) async fn mark(
    repository: &Repository,
    writer: &dyn ObjectWriter,
    source: SourceUid,
    leans: &[Lean],
) -> Result<(), RepositoryError> {
    let others: BTreeSet<SourceUid> = leans.iter().map(|lean| lean.source).collect();
    if !others.is_empty() && repository.descriptor().voucher.is_none() {
        return Err(RepositoryError::Refused(
            "sources of this repository cannot lean on each other's packs".to_owned(),
        ));
    }
    for on in others {
        let leaning = Leaning { source, on };
        let sealed = leaning.seal(repository.suite(), repository.id(), &repository.structure_key(source));
        let bytes = sealed.map_err(|error| RepositoryError::format(leaning.name(), error))?;
        writer.create_all(&leaning.name(), bytes.into()).await?;
    }
    Ok(())
}

impl Repository {
    /// Whether any region in `order` shows a tombstone of the snapshot that `lean` names. An error only when none answers.
    pub(crate) async fn has_tombstone(&self, order: &ReadOrder, lean: &Lean) -> Result<bool, RepositoryError> {
        self.shows(order, &ObjectName::Tombstone(lean.source, lean.snapshot, lean.session)).await
    }
}
