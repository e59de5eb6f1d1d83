//! All regions at once: a round does nothing that not every one of them takes part in.

use breakwater_core::SourceUid;
use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::fetch::Names;
use crate::format::ObjectName;
use crate::region::{READ_DEADLINE, Region, within};
use crate::repository::Repository;

/// Why a round ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// These regions do not answer.
    Away(Vec<Cause>),
    /// The caller wants no more.
    Cancelled,
    /// Another worker is at the same.
    Overtaken,
    /// Something else.
    Failed(RepositoryError),
}

impl From<RepositoryError> for Stop {
    fn from(error: RepositoryError) -> Self {
        Stop::Failed(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Stop::Failed(RepositoryError::Scratch(error))
    }
}

/// What a region held of an object before it was put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Mine,
    Other(Bytes),
}

/// The regions of a repository, as one.
#[derive(Clone, Debug)]
pub(super) struct Everywhere<'a> {
    pub(super) repository: &'a Repository,
    pub(super) source: SourceUid,
    pub(super) cancel: &'a CancellationToken,
}

impl Everywhere<'_> {
    /// Ends the round here if the caller wants it to.
    pub(super) fn go_on(&self) -> Result<(), Stop> {
        if self.cancel.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }

    /// Each region says now that it is the one that was joined.
    pub(super) async fn confirm(&self) -> Result<(), Stop> {
        let asked =
            self.repository.regions().iter().map(|region| async move { away(region, region.ask().await.err()) });
        all(futures::future::join_all(asked).await)
    }

    /// The names below `prefix` in every region.
    pub(super) async fn names(&self, prefix: &str) -> Result<Names, Stop> {
        self.go_on()?;
        self.confirm().await?;
        match self.repository.names(&self.repository.read_order(), prefix).await {
            Ok(names) if names.silent.is_empty() => Ok(names),
            Ok(names) => Err(Stop::Away(names.silent)),
            Err(RepositoryError::Unreadable { causes, .. }) => Err(Stop::Away(causes)),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates `name` in every region; answers what each one holds of it now.
    pub(super) async fn create(&self, name: &ObjectName, payload: &Payload) -> Result<Vec<Put>, Stop> {
        let puts = self.repository.regions().iter().map(|region| async move {
            let put = create_in(region, name, payload).await;
            put.map_err(|trouble| region.cause(trouble))
        });
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for put in futures::future::join_all(puts).await {
            match put {
                Ok(put) => done.push(put),
                Err(cause) => failed.push(cause),
            }
        }
        if failed.is_empty() { Ok(done) } else { Err(Stop::Away(failed)) }
    }

    /// The same for a name that nobody else writes.
    pub(super) async fn create_own(&self, name: &ObjectName, payload: &Payload) -> Result<(), Stop> {
        if self.create(name, payload).await?.iter().all(|put| *put == Put::Mine) {
            return Ok(());
        }
        let text = format!("a region holds other bytes under the new name `{name}`; hint: run `repository check`");
        Err(Stop::Failed(RepositoryError::Refused(text)))
    }

    /// Deletes `name` in every region.
    pub(super) async fn delete(&self, name: &ObjectName) -> Result<(), Stop> {
        let key = name.to_string();
        let deletes = self.repository.regions().iter().map(|region| {
            let key = &key;
            async move {
                let deleted = async { within(READ_DEADLINE, region.ready().await?.delete(key)).await };
                away(region, deleted.await.err())
            }
        });
        all(futures::future::join_all(deletes).await)
    }
}

fn away(region: &Region, trouble: Option<Trouble>) -> Option<Cause> {
    trouble.map(|trouble| region.cause(trouble))
}

fn all(causes: Vec<Option<Cause>>) -> Result<(), Stop> {
    let causes: Vec<Cause> = causes.into_iter().flatten().collect();
    if causes.is_empty() { Ok(()) } else { Err(Stop::Away(causes)) }
}

async fn create_in(region: &Region, name: &ObjectName, payload: &Payload) -> Result<Put, Trouble> {
    let key = name.to_string();
    let storage = region.ready().await?;
    match within(READ_DEADLINE, storage.create(&key, payload.clone())).await {
        Ok(()) => Ok(Put::Mine),
        Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
            let found = within(READ_DEADLINE, storage.get(&key)).await?;
            Ok(if found == payload.to_bytes() { Put::Mine } else { Put::Other(found) })
        }
        Err(trouble) => Err(trouble),
    }
}
