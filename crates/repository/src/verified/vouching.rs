//! Reading the packs of a snapshot in every region, and vouching for those that are what they are said to be.

use breakwater_core::{DomainName, SessionId, SnapshotId, SourceUid};
use breakwater_crypto::Voucher;

use super::SetReader;
use crate::check::bytes::ObjectBytes;
use crate::check::packs::{self, Depth};
use crate::check::{CheckError, CheckProgress};
use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::pack::{KeyKind, PackId};
use crate::format::record::RecordKind;
use crate::format::verified::{PACKS_MAX, VerifiedPack, VerifiedPacks};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots::ReferenceReader;

/// Packs that are left out and named.
const NAMED: usize = 100;

/// What a run has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VouchReport {
    /// Packs that are vouched for now.
    pub packs: u64,
    /// Those of them that an earlier run had read.
    pub known: u64,
    /// Bytes that were read, all regions together.
    pub bytes_read: u64,
    /// Packs that are not vouched for.
    pub left_out: u64,
    /// The first of them, and why.
    pub named: Vec<(String, String)>,
}

impl Repository {
    /// Reads the packs of content that the snapshot has of its own source, in every region, and vouches for those of which
    /// every frame is the chunk that it is said to be. What an earlier run has read in the same regions is not read again.
    ///
    /// Needs a recipient's key, and the right to create below `repo/verified/`. Every region must answer.
    pub async fn vouch(
        &self,
        source: SourceUid,
        (snapshot, session): (SnapshotId, SessionId),
        watch: &(dyn Fn(&CheckProgress) + Send + Sync),
    ) -> Result<VouchReport, RepositoryError> {
        let opener = self.opener("vouching for packs")?;
        let Some(public) = self.descriptor().voucher else {
            return Err(RepositoryError::Refused(
                "sources of this repository cannot lean on each other's packs; hint: that is chosen when a repository is \
                 made (`repository create --verified-chunks`)"
                    .to_owned(),
            ));
        };
        self.check_writable()?;
        let voucher = Voucher::of_root(&opener.root);
        if voucher.public() != public {
            return Err(RepositoryError::Refused("the descriptor names another voucher than this key's".to_owned()));
        }
        let mut regions = Vec::new();
        let mut readers = Vec::new();
        for region in self.regions() {
            regions.push(region.ask().await.map(|_| region.id()).map_err(|trouble| away(region.name(), trouble))?);
            readers.push((region, FrameReader::new(self, source, self.read_only_from(region.name())?)));
        }
        let manifest = self.manifest(&self.read_order(), source, snapshot, session).await?;
        let list = VerifiedPacks {
            repository: self.id(),
            domain: self.domain_of(source).clone(),
            source,
            snapshot,
            session,
            run: self.new_session(),
            part: 0,
            at: self.now(),
            regions: regions.into_iter().flatten().collect(),
            packs: Vec::new(),
        };
        let mut known = self.earlier(&list.domain, source).await?;
        let mut next_known = next(&mut known).await;
        let mut vouching = Vouching { repository: self, voucher, list, report: VouchReport::default() };
        let frames = FrameReader::new(self, source, self.read_order());
        let mut references = ReferenceReader::new(frames.clone(), &manifest);
        let mut progress = CheckProgress::default();
        while let Some(packs) = references.next().await? {
            let own = packs.into_iter().filter(|pack| pack.kind == KeyKind::Content);
            for pack in own.map(|pack| pack.pack).filter(|pack| frames.home_of(pack.session) == source) {
                while next_known.is_some_and(|known| known.0 < pack) {
                    next_known = next(&mut known).await;
                }
                match next_known.filter(|known| known.0 == pack) {
                    Some(known) => {
                        vouching.report.known += 1;
                        vouching.add(known).await?;
                    }
                    None => match vouching.read(pack, &readers).await? {
                        Ok(verified) => vouching.add(verified).await?,
                        Err(why) => vouching.leave_out(&ObjectName::ContentPack(source, pack), why),
                    },
                }
                progress.objects += 1;
                progress.bytes_read = vouching.report.bytes_read;
                watch(&progress);
            }
        }
        vouching.write().await?;
        Ok(vouching.report)
    }

    /// What the last run over another or the same snapshot of `source` has read, if it was in the regions of now.
    async fn earlier(&self, domain: &DomainName, source: SourceUid) -> Result<Option<SetReader>, RepositoryError> {
        let sets = self.in_domain(domain)?.verified_sets().await?;
        Ok(sets.iter().find(|set| set.lean.source == source).and_then(|set| SetReader::new(self, set)))
    }
}

async fn next(known: &mut Option<SetReader>) -> Option<VerifiedPack> {
    match known {
        Some(known) => known.next().await,
        None => None,
    }
}

/// A run.
struct Vouching<'a> {
    repository: &'a Repository,
    voucher: Voucher,
    /// The part at hand.
    list: VerifiedPacks,
    report: VouchReport,
}

impl Vouching<'_> {
    /// Reads every byte of the pack in every region; answers why it cannot be vouched for.
    async fn read(
        &mut self,
        pack: PackId,
        readers: &[(&std::sync::Arc<crate::region::Region>, FrameReader)],
    ) -> Result<Result<VerifiedPack, String>, RepositoryError> {
        let name = ObjectName::ContentPack(self.list.source, pack);
        let key = name.to_string();
        let mut footer = None;
        for (region, frames) in readers {
            let bytes = ObjectBytes::Region { region, key: &key };
            let examined = match packs::examine(frames, &name, &bytes, Depth::Whole).await {
                Ok(examined) => examined,
                Err(error) if error.is_silence() => return Err(silent(region.name(), error)),
                Err(error) => return Ok(Err(format!("{}: {error}", region.name()))),
            };
            self.report.bytes_read += examined.bytes;
            if let Some(why) = examined.summary() {
                return Ok(Err(format!("{}: {why}", region.name())));
            }
            if examined.proven != examined.footer.frames.len() as u64 {
                return Ok(Err(format!("{}: not every frame could be opened", region.name())));
            }
            if *footer.get_or_insert(examined.footer_hash) != examined.footer_hash {
                return Ok(Err(format!("{}: it has another footer than in another region", region.name())));
            }
        }
        Ok(footer.map(|footer| VerifiedPack(pack, footer)).ok_or_else(|| "there is no region".to_owned()))
    }

    async fn add(&mut self, pack: VerifiedPack) -> Result<(), RepositoryError> {
        self.report.packs += 1;
        self.list.packs.push(pack);
        if self.list.packs.len() >= PACKS_MAX { self.write().await } else { Ok(()) }
    }

    fn leave_out(&mut self, name: &ObjectName, why: String) {
        tracing::warn!(object = %name, why, "a pack is not vouched for");
        self.report.left_out += 1;
        if self.report.named.len() < NAMED {
            self.report.named.push((name.to_string(), why));
        }
    }

    /// Writes the part at hand into every region, and begins the next one.
    async fn write(&mut self) -> Result<(), RepositoryError> {
        if self.list.packs.is_empty() {
            return Ok(());
        }
        let (name, vouched) = (self.list.name(), self.list.vouched(&self.voucher));
        let bytes = self.repository.seal_record(self.list.source, RecordKind::Verified, &name, &vouched)?;
        self.repository.put_everywhere(&name, bytes.into()).await?;
        self.list.packs.clear();
        self.list.part += 1;
        Ok(())
    }
}

fn away(region: &str, trouble: Trouble) -> RepositoryError {
    let name = "a region that must be read too".to_owned();
    RepositoryError::Unreadable { name, causes: vec![Cause { region: region.to_owned(), trouble }] }
}

fn silent(region: &str, error: CheckError) -> RepositoryError {
    match error {
        CheckError::Trouble(trouble) => away(region, trouble),
        CheckError::Repository(error) => error,
        CheckError::Unsteady(why) => away(region, Trouble::Unusable(why)),
    }
}
