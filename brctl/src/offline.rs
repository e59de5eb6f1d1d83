//! Breaking the glass: a repository, a key file and this program are enough for everything that is done with a repository. No
//! controller, no state store, no agent.
//!
//! Invariant: what is done here is what an agent's job would do, by the same function. Nothing is written to a region but by
//! the work that is there to do so ([`perform`]).

mod access;
mod points;
mod restore;
mod snapshots;
mod work;

use std::sync::Arc;

use breakwater_agent::contents;
use breakwater_core::{Clock, Entropy, ErrorClass, SourceUid};
use breakwater_repository::format::open::SourceRecord;
use breakwater_repository::regions::Role;
use breakwater_repository::{Place, RegionState, Repository};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::{Limits, assemble};

use crate::failure::Failure;
use crate::output::Output;
use crate::settings::OfflineSettings;

pub(crate) use access::passphrase;
pub(crate) use points::points;
pub(crate) use restore::{Wanted, run as restore};
pub(crate) use snapshots::{files, list, repository as show, show as show_snapshot, versions};
pub(crate) use work::perform;

/// An opened repository.
#[derive(Debug)]
pub(crate) struct Glass {
    repository: Repository,
}

impl Glass {
    /// Opens the repository that the settings name, and says which of its regions cannot be used.
    pub(crate) async fn open(settings: &OfflineSettings, output: &Output) -> Result<Self, Failure> {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let kinds = breakwater_agent::wiring::places();
        let mut places = Vec::new();
        for (name, url) in &settings.regions {
            let opened = kinds.open_existing(url).await;
            let storage = opened.map_err(|error| Failure::from(error).doing(format!("region {name}")))?;
            let stack = assemble(&storage, name, &Limits::default(), &clock, &entropy);
            places.push(Place::new(name, Role::Sync, stack.storage));
        }
        let access = access::access(settings, &places).await?;
        let repository = Repository::open(places, access, clock, entropy).await.map_err(|error| {
            let class = error.class();
            let failure = Failure::from(error);
            match class {
                ErrorClass::Unavailable | ErrorClass::NotFound => {
                    failure.hint("are the places mounted, and is --repository the root of a region?")
                }
                _ => failure,
            }
        })?;
        for region in repository.regions() {
            if let RegionState::Away(why) = region.state() {
                output.note(format!("note: region {} cannot be used: {why}", region.name()));
            }
        }
        Ok(Glass { repository })
    }

    /// The repository.
    pub(crate) const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The source that is meant: by name or uid, or the only one.
    async fn source(&self, wanted: Option<&str>) -> Result<SourceUid, Failure> {
        let records = self.sources().await?;
        let shown = || {
            let all = records.iter().map(|record| format!("{} ({})", record.name, record.uid));
            all.collect::<Vec<_>>().join(", ")
        };
        let not_found = |message: String| Failure::new(ErrorClass::NotFound, message);
        let Some(wanted) = wanted else {
            return match records.as_slice() {
                [only] => Ok(only.uid),
                [] => Err(not_found("the repository holds no source: nothing was ever backed up into it".to_owned())),
                _ => Err(Failure::usage("the repository holds several sources")
                    .hint(format!("--source, one of: {}", shown()))),
            };
        };
        if let Ok(uid) = wanted.parse::<SourceUid>() {
            return match records.iter().any(|record| record.uid == uid) {
                true => Ok(uid),
                false => {
                    Err(not_found(format!("the repository holds no source {uid}"))
                        .hint(format!("it holds: {}", shown())))
                }
            };
        }
        let named: Vec<&SourceRecord> = records.iter().filter(|record| record.name == wanted).collect();
        match named.as_slice() {
            [one] => Ok(one.uid),
            [] if records.is_empty() => {
                Err(not_found(format!("the repository holds no source `{wanted}`, nor any other")))
            }
            [] => {
                Err(not_found(format!("the repository holds no source `{wanted}`"))
                    .hint(format!("it holds: {}", shown())))
            }
            _ => Err(Failure::usage(format!("several sources were called `{wanted}`"))
                .hint(format!("--source UID, one of: {}", shown()))),
        }
    }

    /// What every source says of itself.
    async fn sources(&self) -> Result<Vec<SourceRecord>, Failure> {
        Ok(contents::sources(&self.repository).await?)
    }

    /// Refuses to go on with a key that opens no content.
    fn needs_content(&self) -> Result<(), Failure> {
        if self.repository.opens_content() {
            return Ok(());
        }
        Err(Failure::new(ErrorClass::Denied, "the key is a writer's or a reaper's: it opens no content")
            .hint("--key with the key for restores, or the recovery key"))
    }
}
