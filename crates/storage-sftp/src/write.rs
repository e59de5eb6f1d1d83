//! Creating one object, whole or not at all.
//!
//! There are no locks over SFTP, so nobody can tell whether the writer of an unfinished object lives. It is removed when it
//! was not written to for a day. If its writer lives after all, it cannot publish what is gone: its create fails, and nothing
//! is lost.

use std::sync::{Mutex, PoisonError};

use breakwater_core::{Clock, Entropy, Uid};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::{Payload, StorageErrorKind};
use russh_sftp::protocol::OpenFlags;

use crate::call::{Call, Kind};
use crate::connection::OpenFile;
use crate::directory::{self, DIRECTORY_MODE, parent};
use crate::failure::{Failure, Refusal};
use crate::object;
use crate::publish::Publishing;

/// Unfinished writes; in the same file system as the objects, so that they can be published where they are.
pub(crate) const TEMPORARY: &str = ".tmp";
const FILE_MODE: u32 = DIRECTORY_MODE & 0o666;
/// How old the unfinished write of a dead writer is before it is removed.
const SWEEP_AGE_MICROS: i64 = 24 * 3600 * 1_000_000;
/// How often a directory may be pruned away under a writer before it gives up.
const PLACE_ATTEMPTS: u32 = 100;

/// Creates the object `key` and flushes it.
///
/// That the name is taken is answered only once the object that has it is durable too: the caller acts on that answer.
pub(crate) async fn create(
    call: &Call,
    key: &str,
    payload: &Payload,
    publishing: Publishing,
    leftovers: &Leftovers,
) -> Result<(), Failure> {
    // Spares the write where the answer is known already; the publication below is what decides.
    let (kind, temporary) = futures::join!(call.kind(key), Temporary::create(call));
    let created = match (kind, temporary) {
        (Ok(None | Some(Kind::Directory)), Ok(temporary)) => {
            let created = fill_and_place(call, key, payload, publishing, &temporary).await;
            temporary.remove(call, leftovers).await;
            created
        }
        (kind, temporary) => {
            if let Ok(temporary) = &temporary {
                temporary.remove(call, leftovers).await;
            }
            match kind? {
                Some(Kind::File | Kind::Other) => Err(Failure::new(StorageErrorKind::AlreadyExists)),
                None | Some(Kind::Directory) => temporary.map(drop),
            }
        }
    };
    let is_taken = |failure: &Failure| failure.kind == StorageErrorKind::AlreadyExists;
    if created.as_ref().err().is_none_or(is_taken) {
        directory::flush_upwards(call, parent(key)).await?;
    }
    created
}

async fn fill_and_place(
    call: &Call,
    key: &str,
    payload: &Payload,
    publishing: Publishing,
    temporary: &Temporary,
) -> Result<(), Failure> {
    let fill = async {
        temporary.file.write(payload).await?;
        temporary.file.flush().await
    };
    let fill = async {
        match fill.await {
            Ok(()) => Ok(()),
            Err(refusal) => Err(call.explained(refusal, payload.len()).await),
        }
    };
    call.while_wanted(fill).await?;
    place(call, key, publishing, temporary).await
}

/// Gives the temporary file its name, unless that is taken.
async fn place(call: &Call, key: &str, publishing: Publishing, temporary: &Temporary) -> Result<(), Failure> {
    let mut last = None;
    for _ in 0..PLACE_ATTEMPTS {
        match publishing.publish(&call.connection, &call.path(&temporary.key), &call.path(key)).await {
            Ok(()) => return Ok(()),
            Err(Refusal::Missing) => {
                if call.kind(&temporary.key).await?.is_none() {
                    call.root_is_there().await?;
                    let what = "the unfinished object was removed by somebody else";
                    return Err(Failure::because(StorageErrorKind::Unreachable, what));
                }
                match directory::make(call, parent(key)).await {
                    Ok(()) => {}
                    // A directory above was pruned between two steps: again.
                    Err(failure) if failure.kind == StorageErrorKind::NotFound => call.root_is_there().await?,
                    Err(failure) => return Err(failure),
                }
            }
            Err(refusal @ Refusal::Lost(_)) => return Err(refusal.into()),
            Err(refusal) => match call.kind(key).await? {
                // A directory that lost its last object in a crash may stand in the way.
                Some(Kind::Directory) => {
                    call.connection.remove_directory(&call.path(key)).await.map_err(|_| directory::nested())?;
                }
                Some(_) => return Err(Failure::new(StorageErrorKind::AlreadyExists)),
                // What had the name was deleted meanwhile, or the refusal has another reason.
                None => {
                    let failure = call.explained(refusal, 1).await;
                    if failure.kind != StorageErrorKind::Unreachable {
                        return Err(failure);
                    }
                    last = Some(failure);
                }
            },
        }
    }
    Err(last
        .unwrap_or_else(|| Failure::because(StorageErrorKind::Unreachable, "the directory is removed all the time")))
}

/// A file in `.tmp/`.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) key: String,
    pub(crate) file: OpenFile,
}

impl Temporary {
    /// Makes an empty one.
    pub(crate) async fn create(call: &Call) -> Result<Temporary, Failure> {
        let key = temporary_key();
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let path = call.path(&key);
        let mut opened = call.connection.open_file(&path, flags, FILE_MODE).await;
        if matches!(opened, Err(Refusal::Missing)) {
            match directory::make(call, TEMPORARY).await {
                // Whether the root is there is asked where the call ends.
                Ok(()) => opened = call.connection.open_file(&path, flags, FILE_MODE).await,
                Err(failure) => return Err(failure),
            }
        }
        match opened {
            Ok(file) => Ok(Temporary { key, file }),
            Err(refusal) => Err(call.explained(refusal, 1).await),
        }
    }

    /// Removes it. When the server cannot be asked, a later call does it.
    async fn remove(&self, call: &Call, leftovers: &Leftovers) {
        leftovers.remove(call, vec![self.key.clone()]).await;
    }
}

/// A name in `.tmp/` that nobody else has.
pub(crate) fn temporary_key() -> String {
    let mut random = [0; 16];
    SystemEntropy.fill(&mut random);
    format!("{TEMPORARY}/{}", Uid(random))
}

/// Temporary files of ours that could not be removed when they should have been.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<Vec<String>>);

impl Leftovers {
    /// Removes those of earlier calls.
    pub(crate) async fn remove_all(&self, call: &Call) {
        let keys = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.remove(call, keys).await;
    }

    /// Removes the files `keys`, and keeps in mind those for which there was no answer.
    pub(crate) async fn remove(&self, call: &Call, keys: Vec<String>) {
        let removals = keys.into_iter().map(|key| async move {
            let removed = call.connection.remove(&call.path(&key)).await;
            matches!(removed, Err(Refusal::Lost(_))).then_some(key)
        });
        let left: Vec<String> = futures::future::join_all(removals).await.into_iter().flatten().collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
    }
}

/// Removes unfinished writes to which nothing was added for a day. What cannot be removed stays; it is not visible.
pub(crate) async fn sweep(call: &Call) {
    let Ok(names) = call.connection.names(&call.path(TEMPORARY)).await else { return };
    let oldest = SystemClock.now().plus_micros(-SWEEP_AGE_MICROS);
    for (name, attributes) in names {
        let key = format!("{TEMPORARY}/{name}");
        let is_old = object::meta_of(&key, &attributes).ok().flatten().is_some_and(|meta| meta.modified < oldest);
        if is_old && call.connection.remove(&call.path(&key)).await.is_ok() {
            tracing::debug!(name, "unfinished write of a dead writer removed");
        }
    }
}
