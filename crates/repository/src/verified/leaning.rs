//! The chunks of another source that a session may refer to.

use std::collections::BTreeSet;

use breakwater_core::SessionId;

use super::{SetReader, VerifiedSet};
use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::leaning::{Lean, LeanedOn};
use crate::format::pack::KeyKind;
use crate::format::references::PackRanges;
use crate::format::verified::VerifiedPack;
use crate::format::{Class, FrameLocation, ObjectName};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots::ReferenceReader;

/// Reads what may be leaned on of one snapshot, a pack at a time.
#[derive(Debug)]
pub struct LeanReader {
    repository: Repository,
    order: ReadOrder,
    lean: Lean,
    references: ReferenceReader,
    packs: std::vec::IntoIter<PackRanges>,
    verified: SetReader,
    next_verified: Option<VerifiedPack>,
    /// The packs of one session that every region has.
    everywhere: (SessionId, BTreeSet<u32>),
    sessions: BTreeSet<SessionId>,
}

impl Repository {
    /// What may be leaned on of `set`; none where not every region can be asked. The session that is to lean must be open
    /// and must have named the set's snapshot.
    pub async fn leanable(&self, set: &VerifiedSet) -> Result<Option<LeanReader>, RepositoryError> {
        let (order, lean) = (self.read_order(), set.lean);
        let Some(mut verified) = SetReader::new(self, set) else { return Ok(None) };
        let manifest = self.manifest(&order, lean.source, lean.snapshot, lean.session).await?;
        let frames = FrameReader::new(self, lean.source, order.clone());
        Ok(Some(LeanReader {
            repository: self.clone(),
            references: ReferenceReader::new(frames, &manifest),
            packs: Vec::new().into_iter(),
            next_verified: verified.next().await,
            verified,
            everywhere: (lean.session, BTreeSet::new()),
            sessions: BTreeSet::new(),
            order,
            lean,
        }))
    }
}

impl LeanReader {
    /// The chunks of the next pack, and of which it is known that they may be leaned on; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<FrameLocation>>, RepositoryError> {
        while let Some(pack) = self.next_pack().await? {
            let Some(footer_hash) = self.vouched_for(&pack).await else { continue };
            if !self.is_everywhere(&pack).await? {
                continue;
            }
            // Never by way of another reader's homes: what is vouched for lies with the set's own source.
            let name = ObjectName::ContentPack(self.lean.source, pack.pack);
            let footer = self.repository.fetch_pinned_footer(&self.order, &name, &footer_hash).await?;
            let chunks = footer.frames.iter();
            let chunks = chunks.filter(|frame| matches!(frame.class, Class::Extent | Class::Chunk | Class::PageRun));
            let chunks: Vec<FrameLocation> =
                chunks.map(|frame| frame.location(pack.pack)).filter(|chunk| pack.covers(chunk)).collect();
            self.sessions.insert(pack.pack.session);
            return Ok(Some(chunks));
        }
        Ok(None)
    }

    /// The sessions whose packs were given out, for the reader of frames and the manifest.
    pub fn leaned_on(&self) -> LeanedOn {
        LeanedOn { source: self.lean.source, sessions: self.sessions.iter().copied().collect() }
    }

    async fn next_pack(&mut self) -> Result<Option<PackRanges>, RepositoryError> {
        loop {
            match self.packs.next() {
                Some(pack) if pack.kind == KeyKind::Content => return Ok(Some(pack)),
                Some(_) => {}
                None => match self.references.next().await? {
                    Some(packs) => self.packs = packs.into_iter(),
                    None => return Ok(None),
                },
            }
        }
    }

    /// The hash of the pack's footer, where somebody vouches for it. Both lists ascend.
    async fn vouched_for(&mut self, pack: &PackRanges) -> Option<[u8; 32]> {
        while self.next_verified.is_some_and(|verified| verified.0 < pack.pack) {
            self.next_verified = self.verified.next().await;
        }
        self.next_verified.filter(|verified| verified.0 == pack.pack).map(|verified| verified.1)
    }

    /// Whether every region shows the pack now: a manifest must not be shown by a region that lacks what it names.
    async fn is_everywhere(&mut self, pack: &PackRanges) -> Result<bool, RepositoryError> {
        let session = pack.pack.session;
        if self.everywhere.0 != session || self.everywhere.1.is_empty() {
            let prefix = format!("{}{session}-", ObjectName::data_prefix(self.lean.source, "pack"));
            let names = self.repository.names(&self.order, &prefix).await?;
            let regions = self.repository.regions().len();
            let whole = names.objects.iter().filter(|(_, holders)| holders.regions.len() == regions);
            let number = |(key, _): (&String, _)| match ObjectName::parse(key) {
                Some(ObjectName::ContentPack(_, pack)) => Some(pack.number),
                _ => None,
            };
            self.everywhere = (session, whole.filter_map(number).collect());
        }
        Ok(self.everywhere.1.contains(&pack.pack.number))
    }
}
