//! The sources that lean on the one of a round: what they need of its packs stays.
//!
//! Invariant: they are looked for only after the round's tombstones are in every region. A source that says later that it
//! leans opens its session after that, and so sees the tombstones.

use breakwater_core::{Chain, ErrorClass, SourceUid};

use super::everywhere::{Everywhere, Stop};
use crate::format::leaning::Leaning;
use crate::format::open::SourceRecord;
use crate::format::record::RecordKind;
use crate::format::{FormatError, ObjectName};

impl Everywhere<'_> {
    /// The same regions, looked at for another source.
    pub(super) fn of(&self, source: SourceUid) -> Self {
        Everywhere { source, ..self.clone() }
    }

    /// The sources of this one's domain that lean on it, or may.
    pub(super) async fn leaners(&self) -> Result<Vec<SourceUid>, Stop> {
        if self.repository.descriptor().voucher.is_none() {
            return Ok(Vec::new());
        }
        self.confirm().await?;
        let sources = self.repository.sources(&self.repository.read_order()).await?;
        if !sources.silent.is_empty() {
            return Err(Stop::Away(sources.silent));
        }
        let mut leaners = Vec::new();
        for other in sources.uids.into_iter().filter(|other| *other != self.source) {
            let name = ObjectName::Leaning(other, self.source);
            if !self.names(&name.to_string()).await?.objects.is_empty() && self.is_neighbour(other, &name).await? {
                leaners.push(other);
            }
        }
        Ok(leaners)
    }

    /// Whether `other`, which seems to lean on this source, is of its domain. Names alone say nothing: whoever can write into
    /// another domain's sources must not be able to stop a round. Where its own record opens, one that it leans by and that
    /// is damaged counts too.
    async fn is_neighbour(&self, other: SourceUid, name: &ObjectName) -> Result<bool, Stop> {
        let leaning = |bytes: &[u8]| {
            let leaning: Leaning = self.repository.open_record(other, RecordKind::Leaning, name, bytes)?;
            let same = (leaning.source, leaning.on) == (other, self.source);
            same.then_some(())
                .ok_or_else(|| FormatError::damaged("leaning", "it speaks of other sources than its name"))
        };
        let own = ObjectName::Source(other);
        let source = |bytes: &[u8]| {
            self.repository.open_record::<SourceRecord>(other, RecordKind::Source, &own, bytes).map(|_| ())
        };
        let order = self.repository.read_order();
        let mut opened = self.repository.fetch(&order, name, leaning).await;
        if opened.is_err() {
            opened = self.repository.fetch(&order, &own, source).await;
        }
        match opened {
            Ok(_) => Ok(self.repository.domain_of(other) == self.repository.domain_of(self.source)),
            Err(error) if matches!(error.class(), ErrorClass::Corrupt | ErrorClass::NotFound | ErrorClass::Denied) => {
                tracing::error!(object = %name, error = %Chain(&error), "a source of no domain of this key seems to lean");
                Ok(false)
            }
            Err(error) => Err(Stop::Failed(error)),
        }
    }
}
