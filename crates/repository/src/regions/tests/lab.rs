//! A place whose behaviour a test switches, and which remembers in what order objects appeared.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use breakwater_core::{RegionId, RepositoryId};
use breakwater_storage::{
    Backend, Listing, Memory, ObjectMeta, Operation, Payload, Placement, Storage, StorageError, StorageErrorKind,
    Timed, Timeouts,
};
use bytes::Bytes;
use futures::StreamExt;

use crate::regions::{RegionHandle, RegionOptions, RegionSet, Role};

pub(crate) const REPOSITORY: RepositoryId = RepositoryId::from_bytes(*b"the-repository-1");
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How a place behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    /// Every call fails at once.
    Gone,
    /// No call is answered.
    Hanging,
    /// Reads work, writes are answered with this.
    Refusing(StorageErrorKind),
    /// Creates of names that hold this text are answered with this.
    RefusingFor(&'static str, StorageErrorKind),
    /// Creates of names that hold this text take these many milliseconds.
    SlowFor(&'static str, u64),
    /// Everything works but lists, which break off.
    Unlisted,
    /// Creates are done, but the answer never comes.
    Mute,
    /// Creates take this many milliseconds.
    Slow(u64),
    /// Every call is answered with the wish to be left alone.
    Throttling,
}

#[derive(Debug)]
pub(crate) struct Place {
    memory: Memory,
    state: Mutex<(Mode, Vec<String>)>,
    /// Creates that are still done before none is answered any more.
    left: Mutex<Option<u32>>,
    /// Names that were read, to see who was asked.
    pub(crate) reads: Mutex<Vec<String>>,
    /// Prefixes that were listed.
    pub(crate) lists: Mutex<Vec<String>>,
}

impl Place {
    pub(crate) fn new() -> Arc<Place> {
        Arc::new(Place {
            memory: Memory::new(),
            state: Mutex::new((Mode::Up, Vec::new())),
            reads: Mutex::default(),
            lists: Mutex::default(),
            left: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, (Mode, Vec<String>)> {
        self.state.lock().unwrap()
    }

    /// Also ends what [`freeze_after`](Self::freeze_after) began.
    pub(crate) fn set(&self, mode: Mode) {
        self.state().0 = mode;
        *self.left.lock().unwrap() = None;
    }

    /// After so many creates no further one is done or answered.
    pub(crate) fn freeze_after(&self, creates: u32) {
        *self.left.lock().unwrap() = Some(creates);
    }

    fn frozen(&self) -> bool {
        match self.left.lock().unwrap().as_mut() {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// The names created here, in order.
    pub(crate) fn created(&self) -> Vec<String> {
        self.state().1.clone()
    }

    pub(crate) async fn holds(&self, name: &str) -> bool {
        self.memory.get(name).await.is_ok()
    }

    pub(crate) async fn content(&self, name: &str) -> Bytes {
        self.memory.get(name).await.unwrap()
    }

    pub(crate) async fn plant(&self, name: &str, bytes: &[u8]) {
        self.memory.create(name, Payload::from(bytes.to_vec()), &Placement::default()).await.unwrap();
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let metas: Vec<_> = self.memory.list("").collect().await;
        metas.into_iter().map(|meta: Result<ObjectMeta, StorageError>| meta.unwrap().key).collect()
    }

    async fn enter(&self, operation: Operation, key: &str, writes: bool) -> Result<(), StorageError> {
        let mode = self.state().0;
        let error = |kind| Err(StorageError::new(kind, operation, "memory:", key));
        match mode {
            Mode::Hanging => std::future::pending().await,
            Mode::Gone => error(StorageErrorKind::Unreachable),
            Mode::Throttling => error(StorageErrorKind::Throttled),
            Mode::Refusing(kind) if writes => error(kind),
            Mode::RefusingFor(text, kind) if writes && key.contains(text) => error(kind),
            Mode::SlowFor(text, millis) if writes && key.contains(text) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(())
            }
            Mode::Slow(millis) if writes => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Backend for Place {
    fn location(&self) -> &str {
        "memory:"
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        self.enter(Operation::Create, key, true).await?;
        if self.frozen() {
            std::future::pending::<()>().await;
        }
        self.memory.create(key, payload, placement).await?;
        self.state().1.push(key.to_owned());
        if self.state().0 == Mode::Mute {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.enter(Operation::Get, key, false).await?;
        self.reads.lock().unwrap().push(key.to_owned());
        self.memory.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.enter(Operation::GetRange, key, false).await?;
        self.memory.get_range(key, range).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        self.enter(Operation::GetTail, key, false).await?;
        self.memory.get_tail(key, length).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.enter(Operation::Head, key, false).await?;
        self.memory.head(key).await
    }

    fn list(&self, prefix: &str) -> Listing {
        self.lists.lock().unwrap().push(prefix.to_owned());
        match self.state().0 {
            Mode::Gone | Mode::Unlisted | Mode::Throttling => {
                let error = StorageError::new(StorageErrorKind::Unreachable, Operation::List, "memory:", prefix);
                futures::stream::once(async { Err(error) }).boxed()
            }
            Mode::Hanging => futures::stream::pending().boxed(),
            _ => self.memory.list(prefix),
        }
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.enter(Operation::ListDirectories, prefix, false).await?;
        self.lists.lock().unwrap().push(prefix.to_owned());
        self.memory.list_directories(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.enter(Operation::Delete, key, true).await?;
        self.memory.delete(key).await
    }
}

/// Some sync regions and what is needed to look into them.
pub(crate) struct Lab {
    pub(crate) places: Vec<Arc<Place>>,
    pub(crate) set: RegionSet,
}

pub(crate) fn region_id(number: usize) -> RegionId {
    let mut bytes = [7; 16];
    bytes[15] = u8::try_from(number).unwrap();
    RegionId::from_bytes(bytes)
}

/// `place` as regions are reached: a call that is not answered ends.
pub(crate) fn patient(place: &Arc<Place>) -> Storage {
    let timeouts = Timeouts { call: Duration::from_secs(4), ..Timeouts::default() };
    Storage::new(Arc::new(Timed::new(Arc::clone(place) as Arc<dyn Backend>, timeouts)))
}

pub(crate) fn handle(number: usize, place: &Arc<Place>) -> RegionHandle {
    RegionHandle { name: format!("r{number}"), id: region_id(number), role: Role::Sync, storage: patient(place) }
}

impl Lab {
    pub(crate) async fn new(regions: usize, commit: usize) -> Lab {
        Lab::with(regions, commit, RegionOptions::default()).await
    }

    pub(crate) async fn with(regions: usize, commit: usize, options: RegionOptions) -> Lab {
        let places = (0..regions).map(|_| Place::new()).collect::<Vec<_>>();
        Lab::prepare(&places).await;
        Lab::over(places, commit, options).await
    }

    /// Makes `places` the regions of the repository.
    pub(crate) async fn prepare(places: &[Arc<Place>]) {
        for (number, place) in places.iter().enumerate() {
            let text = format!(r#"{{"repository":"{REPOSITORY}","region":"{}"}}"#, region_id(number));
            place.plant("repo/region", text.as_bytes()).await;
        }
    }

    /// A new process over prepared places, once it has asked all of them.
    pub(crate) async fn over(places: Vec<Arc<Place>>, commit: usize, options: RegionOptions) -> Lab {
        let handles = places.iter().enumerate().map(|(number, place)| handle(number, place)).collect();
        Lab::with_handles(places, handles, commit, options).await
    }

    /// The same, with the places reached as `handles` say.
    pub(crate) async fn with_handles(
        places: Vec<Arc<Place>>,
        handles: Vec<RegionHandle>,
        commit: usize,
        options: RegionOptions,
    ) -> Lab {
        let options = RegionOptions { repository: Some(REPOSITORY), ..options };
        let set = RegionSet::with_options(handles, commit, options).unwrap();
        let lab = Lab { places, set };
        lab.wait("every region was probed", || lab.set.statuses().iter().all(|status| status.reachable.is_some()))
            .await;
        lab
    }

    pub(crate) async fn create(&self, name: &str) {
        self.set.create(name, bytes_of(name), PATIENCE).await.unwrap();
    }

    pub(crate) async fn drained(&self) {
        assert!(self.set.drained(Duration::from_secs(600)).await, "{:#?}", self.set.statuses());
    }

    /// Polls until `condition` holds.
    pub(crate) async fn wait(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..60_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("in vain: {what}: {:#?}", self.set.statuses());
    }
}

/// The content that the tests give the object `name`.
pub(crate) fn bytes_of(name: &str) -> Payload {
    Payload::from(name.repeat(3).into_bytes())
}
