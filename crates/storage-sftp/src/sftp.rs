//! The contract over SFTP, and the provider that opens such places.
//!
//! A call runs in a task of its own. A future that is dropped tells its task to stop, and the task then leaves the server as
//! it must be left: no file open, no temporary file, the object whole or not there.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use breakwater_core::PlaceUrl;
use breakwater_storage::places::{UseAs, invalid};
use breakwater_storage::{
    Backend, Listing, ObjectMeta, Operation, Payload, Placement, Provider, StorageError, StorageErrorKind,
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::call::Call;
use crate::directory::{self, DIRECTORY_MODE};
use crate::failure::{Failure, Refusal};
use crate::list::{self, Found};
use crate::object;
use crate::pool::Pool;
use crate::publish::{self, Publishing};
use crate::settings::{Environment, FORM, Settings};
use crate::write::{self, Leftovers};

/// Opens `sftp://…`. Connects with the first call, not before.
#[derive(Clone, Copy, Debug, Default)]
pub struct SftpProvider;

#[async_trait]
impl Provider for SftpProvider {
    fn scheme(&self) -> &'static str {
        "sftp"
    }

    fn form(&self) -> &'static str {
        FORM
    }

    async fn open(&self, url: &PlaceUrl, use_as: UseAs) -> Result<Arc<dyn Backend>, StorageError> {
        let settings = Settings::of(url, &Environment::of_process()).map_err(|error| invalid(url, error))?;
        Ok(Arc::new(Sftp::new(settings, use_as)))
    }
}

/// The store in one directory of one server.
#[derive(Clone, Debug)]
pub struct Sftp {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    location: String,
    root: String,
    use_as: UseAs,
    pool: Arc<Pool>,
    /// Filled once the root was found, and made before where that is wanted, and leftovers of dead writers were removed.
    begun: OnceCell<()>,
    /// Filled by the first create.
    publishing: OnceCell<Publishing>,
    leftovers: Leftovers,
}

impl Sftp {
    /// The store that `settings` describe. Connects with the first call, which also makes the directory where it is a fresh
    /// one, and removes what writers left that died more than a day ago.
    pub fn new(settings: Settings, use_as: UseAs) -> Sftp {
        let place = Place {
            location: settings.location(),
            root: settings.root.clone(),
            use_as,
            pool: Pool::new(settings),
            begun: OnceCell::new(),
            publishing: OnceCell::new(),
            leftovers: Leftovers::default(),
        };
        Sftp { place: Arc::new(place) }
    }

    async fn run<T, F>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce(Arc<Place>, Arc<Call>, String) -> F + Send + 'static,
    ) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let abandoned = CancellationToken::new();
        let _tells = abandoned.clone().drop_guard();
        let (place, owned_key) = (Arc::clone(&self.place), key.to_owned());
        let task = async move { place.answer(abandoned, |place, call| work(place, call, owned_key)).await };
        let answer = tokio::spawn(task.in_current_span()).await.unwrap_or_else(|error| {
            let kind = if error.is_cancelled() { StorageErrorKind::Cancelled } else { StorageErrorKind::Other };
            Err(Failure::because(kind, error))
        });
        answer.map_err(|failure| {
            let error = StorageError::new(failure.kind, operation, &self.place.location, key);
            StorageError { source: failure.source, ..error }
        })
    }
}

impl Place {
    async fn answer<T, F>(
        self: Arc<Self>,
        abandoned: CancellationToken,
        work: impl FnOnce(Arc<Place>, Arc<Call>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let lease = tokio::select! {
            () = abandoned.cancelled() => return Err(Failure::new(StorageErrorKind::Cancelled)),
            lease = self.pool.lease() => lease?,
        };
        let call = Arc::new(Call::new(lease, &self.root, abandoned));
        self.begun.get_or_try_init(|| self.begin(&call)).await?;
        self.leftovers.remove_all(&call).await;
        let result = work(Arc::clone(&self), Arc::clone(&call)).await;
        if matches!(&result, Err(failure) if failure.kind == StorageErrorKind::NotFound) {
            call.root_is_there().await?;
        }
        result
    }

    async fn begin(&self, call: &Call) -> Result<(), Failure> {
        if self.use_as == UseAs::Fresh {
            self.make_root(call).await?;
        }
        call.root_is_there().await?;
        write::sweep(call).await;
        Ok(())
    }

    async fn make_root(&self, call: &Call) -> Result<(), Failure> {
        match call.connection.make_directory(&self.root, DIRECTORY_MODE).await {
            Ok(()) => {
                let above =
                    self.root.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
                match directory::flush_path(call, above).await {
                    Err(refusal @ Refusal::Lost(_)) => Err(refusal.into()),
                    // What is above the root need not be readable for the account.
                    Ok(()) | Err(_) => Ok(()),
                }
            }
            Err(Refusal::Missing) => {
                let what = "the directory above it does not exist (hint: create it, or mount what should be there)";
                Err(Failure::because(StorageErrorKind::Unreachable, what))
            }
            Err(refusal @ Refusal::Lost(_)) => Err(refusal.into()),
            // It is there, or it cannot be made; the look at it tells which.
            Err(refusal) => call.root_is_there().await.map_err(|_| Failure::from(refusal)),
        }
    }

    async fn publishing(&self, call: &Call) -> Result<Publishing, Failure> {
        self.publishing.get_or_try_init(|| publish::prove(call, &self.pool, &self.leftovers)).await.copied()
    }
}

#[async_trait]
impl Backend for Sftp {
    fn location(&self) -> &str {
        &self.place.location
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        if !placement.is_plain() {
            return Err(self
                .unsupported(Operation::Create, key)
                .because("directories have neither tiers nor locks (hint: declare the region without them)"));
        }
        self.run(Operation::Create, key, move |place, call, key| async move {
            let publishing = place.publishing(&call).await?;
            write::create(&call, &key, &payload, publishing, &place.leftovers).await
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.run(Operation::Get, key, |_, call, key| async move { object::read(&call, &key).await }).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let work = move |_, call: Arc<Call>, key: String| async move { object::read_range(&call, &key, &range).await };
        self.run(Operation::GetRange, key, work).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let work = move |_, call: Arc<Call>, key: String| async move { object::read_tail(&call, &key, length).await };
        self.run(Operation::GetTail, key, work).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.run(Operation::Head, key, |_, call, key| async move { object::meta(&call, &key).await }).await
    }

    fn list(&self, prefix: &str) -> Listing {
        let walk = Walk { sftp: self.clone(), prefix: prefix.to_owned(), pending: vec![list::start(prefix)] };
        futures::stream::try_unfold(walk, |mut walk| async move { Ok(walk.next().await?.map(|meta| (meta, walk))) })
            .boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let work = |_, call: Arc<Call>, prefix: String| async move { list::directories(&call, &prefix).await };
        self.run(Operation::ListDirectories, prefix, work).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.run(Operation::Delete, key, |_, call, key| async move { object::delete(&call, &key).await }).await
    }
}

/// A list under way.
struct Walk {
    sftp: Sftp,
    prefix: String,
    /// What is still to come, the next at the end.
    pending: Vec<Found>,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<ObjectMeta>, StorageError> {
        loop {
            match self.pending.pop() {
                Some(Found::Object(meta)) => return Ok(Some(meta)),
                Some(Found::Directory(directory)) => {
                    let prefix = self.prefix.clone();
                    let work =
                        move |_, call: Arc<Call>, _| async move { list::entries(&call, &directory, &prefix).await };
                    let entries = self.sftp.run(Operation::List, &self.prefix, work).await?;
                    self.pending.extend(entries.into_iter().rev());
                }
                None => {
                    let work = |_, call: Arc<Call>, _| async move { call.root_is_there().await };
                    return self.sftp.run(Operation::List, &self.prefix, work).await.map(|()| None);
                }
            }
        }
    }
}
