//! Reading an object from whichever region delivers it whole.
//!
//! Invariant: damage in one region is never an answer while another region has the object; "there is none" is said only
//! when every region has answered so.

use std::collections::BTreeMap;
use std::sync::Arc;

use breakwater_crypto::sha256;
use bytes::Bytes;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::pack::{Footer, TRAILER_LENGTH, Trailer};
use crate::format::{FormatError, ObjectName};
use crate::region::{READ_DEADLINE, Region, within};
use crate::regions::Role;
use crate::repository::Repository;

/// Bytes that are read from the end of a pack at first: enough for the footers of most.
const TAIL_GUESS: u64 = 64 << 10;

/// The regions to read from, best first.
#[derive(Clone, Debug)]
pub struct ReadOrder(Vec<Arc<Region>>);

impl ReadOrder {
    /// The regions.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.0
    }

    /// The same order without the regions that `keep` does not name.
    #[must_use]
    pub fn narrowed(&self, keep: impl Fn(&str) -> bool) -> ReadOrder {
        ReadOrder(self.0.iter().filter(|region| keep(region.name())).cloned().collect())
    }
}

/// One name found in some regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The region's name and the object's size there.
    pub regions: Vec<(String, u64)>,
}

/// What the regions hold below a prefix.
#[derive(Debug, Default)]
pub struct Names {
    /// Each name, and who holds it.
    pub objects: BTreeMap<String, Holders>,
    /// Regions that did not answer, so that what only they hold is not known.
    pub silent: Vec<Cause>,
}

impl Repository {
    /// All regions in the order given at open, archives last.
    pub fn read_order(&self) -> ReadOrder {
        let mut regions = self.regions().to_vec();
        regions.sort_by_key(|region| region.role() == Role::Archive);
        ReadOrder(regions)
    }

    /// The named regions first, then the others.
    pub fn read_order_from(&self, preferred: &[String]) -> Result<ReadOrder, RepositoryError> {
        let mut regions = preferred.iter().map(|name| self.region(name).cloned()).collect::<Result<Vec<_>, _>>()?;
        for region in self.read_order().0 {
            if !regions.iter().any(|other| other.name() == region.name()) {
                regions.push(region);
            }
        }
        Ok(ReadOrder(regions))
    }

    /// This region and no other.
    pub fn read_only_from(&self, region: &str) -> Result<ReadOrder, RepositoryError> {
        Ok(ReadOrder(vec![Arc::clone(self.region(region)?)]))
    }

    /// Reads the object `name` from the first region whose bytes `decode` takes, and says which region that was.
    pub async fn fetch<T>(
        &self,
        order: &ReadOrder,
        name: &ObjectName,
        decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    ) -> Result<(T, String), RepositoryError> {
        let key = name.to_string();
        let mut causes = Vec::new();
        for region in &order.0 {
            let read = async {
                let storage = region.ready().await?;
                let bytes = within(READ_DEADLINE, storage.get(&key)).await?;
                decode(&bytes).map_err(Trouble::Format)
            };
            match read.await {
                Ok(value) => return Ok((value, region.name().to_owned())),
                Err(trouble) => push_cause(&mut causes, region, &key, region.doubted(trouble).await),
            }
        }
        Err(unread(key, causes))
    }

    /// Reads the footer of the pack `name` from the first region where it opens, and says which region that was.
    pub async fn fetch_footer(
        &self,
        order: &ReadOrder,
        name: &ObjectName,
    ) -> Result<(Footer, String), RepositoryError> {
        let key = name.to_string();
        let mut causes = Vec::new();
        for region in &order.0 {
            match self.footer_of(region, name, &key).await {
                Ok((footer, _)) => return Ok((footer, region.name().to_owned())),
                Err(trouble) => push_cause(&mut causes, region, &key, region.doubted(trouble).await),
            }
        }
        Err(unread(key, causes))
    }

    pub(crate) async fn footer_of(
        &self,
        region: &Region,
        name: &ObjectName,
        key: &str,
    ) -> Result<(Footer, Trailer), Trouble> {
        let (trailer, sealed) = self.sealed_footer(region, key).await?;
        Ok((self.open_footer(name, &trailer, &sealed)?, trailer))
    }

    /// Reads the footer of the pack `name` as the one with this SHA-256, from the first region that has it.
    pub(crate) async fn fetch_pinned_footer(
        &self,
        order: &ReadOrder,
        name: &ObjectName,
        pinned: &[u8; 32],
    ) -> Result<Footer, RepositoryError> {
        let key = name.to_string();
        let mut causes = Vec::new();
        for region in &order.0 {
            let read = async {
                let (trailer, sealed) = self.sealed_footer(region, &key).await?;
                if sha256(&sealed) != *pinned {
                    return Err(FormatError::damaged("pack footer", "it is not the one that was vouched for").into());
                }
                self.open_footer(name, &trailer, &sealed)
            };
            match read.await {
                Ok(footer) => return Ok(footer),
                Err(trouble) => push_cause(&mut causes, region, &key, region.doubted(trouble).await),
            }
        }
        Err(unread(key, causes))
    }

    /// The trailer of a pack, and its footer as it lies there.
    async fn sealed_footer(&self, region: &Region, key: &str) -> Result<(Trailer, Bytes), Trouble> {
        let storage = region.ready().await?;
        let (tail, size) = within(READ_DEADLINE, storage.get_tail(key, TAIL_GUESS)).await?;
        let trailer = Trailer::decode(&tail, size)?;
        let wanted = u64::from(trailer.length) + TRAILER_LENGTH as u64;
        let tail = if wanted > tail.len() as u64 {
            within(READ_DEADLINE, storage.get_range(key, trailer.offset..size)).await?
        } else {
            tail
        };
        let end = tail.len().saturating_sub(TRAILER_LENGTH);
        let start = end.saturating_sub(trailer.length as usize);
        Ok((trailer, tail.slice(start..end.max(start))))
    }

    fn open_footer(&self, name: &ObjectName, trailer: &Trailer, sealed: &[u8]) -> Result<Footer, Trouble> {
        let source = name.source().ok_or_else(|| Trouble::Unusable(format!("`{name}` is not the name of a pack")))?;
        let structure = self.structure_key(source);
        Ok(Footer::open(self.suite(), &structure, self.id(), name, trailer, sealed)?)
    }

    /// The names below `prefix` in all regions. An error only when none answers.
    pub async fn names(&self, order: &ReadOrder, prefix: &str) -> Result<Names, RepositoryError> {
        let lists = order.0.iter().map(|region| async move { (region, region.names(prefix).await) });
        let mut names = Names::default();
        for (region, listed) in futures::future::join_all(lists).await {
            match listed {
                Ok(listed) => {
                    for (name, size) in listed {
                        names.objects.entry(name).or_default().regions.push((region.name().to_owned(), size));
                    }
                }
                Err(trouble) => names.silent.push(region.cause(trouble)),
            }
        }
        if names.silent.len() == order.0.len() {
            return Err(RepositoryError::Unreadable { name: prefix.to_owned(), causes: names.silent });
        }
        Ok(names)
    }

    /// Whether any region shows the object `name`; nothing is listed. An error only when none answers.
    pub(crate) async fn shows(&self, order: &ReadOrder, name: &ObjectName) -> Result<bool, RepositoryError> {
        let key = name.to_string();
        let asked = order.0.iter().map(|region| async {
            match async { within(READ_DEADLINE, region.ready().await?.exists(&key)).await }.await {
                Ok(true) => Ok(true),
                // That there is none counts only from a place that still is this region.
                Ok(false) => region.ask().await.map(|_| false).map_err(|trouble| region.cause(trouble)),
                Err(trouble) => Err(region.cause(trouble)),
            }
        });
        let answers = futures::future::join_all(asked).await;
        if answers.iter().any(|answer| matches!(answer, Ok(true))) {
            return Ok(true);
        }
        let causes: Vec<Cause> = answers.into_iter().filter_map(Result::err).collect();
        if causes.len() == order.0.len() {
            return Err(RepositoryError::Unreadable { name: key, causes });
        }
        Ok(false)
    }

    /// The bytes of `range` of the object `key` in `region`.
    pub(crate) async fn range_of(
        &self,
        region: &Region,
        key: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, Trouble> {
        let storage = region.ready().await?;
        within(READ_DEADLINE, storage.get_range(key, range)).await
    }
}

/// Damage is told even where another region helps out: somebody has to repair it.
pub(crate) fn push_cause(causes: &mut Vec<Cause>, region: &Region, key: &str, trouble: Trouble) {
    if trouble.is_damage() {
        tracing::warn!(region = region.name(), object = key, error = %trouble, "damaged object");
    }
    causes.push(region.cause(trouble));
}

pub(crate) fn unread(name: String, causes: Vec<Cause>) -> RepositoryError {
    if !causes.is_empty() && causes.iter().all(|cause| cause.trouble.is_not_found()) {
        return RepositoryError::NotFound { name };
    }
    RepositoryError::Unreadable { name, causes }
}
