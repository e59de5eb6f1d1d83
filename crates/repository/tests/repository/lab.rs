//! Small repositories in memory, with places that can be taken away, and a backup and a restore of a few files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use breakwater_core::{
    Attempt, Attributes, Clock, Entropy, JobId, LogPosition, SessionId, SnapshotId, SourceUid, Timestamp,
};
use breakwater_crypto::sha256;
use breakwater_repository::format::leaf::{self, Extent};
use breakwater_repository::format::manifest::{Manifest, ManifestSource, SnapshotSession, Totals, Unreadable};
use breakwater_repository::format::open::SourceRecord;
use breakwater_repository::format::pack::{FrameContent, KeyKind};
use breakwater_repository::format::references::{ReferenceEncoder, collect};
use breakwater_repository::format::tree::{LeafRef, TreeEncoder, TreeEntry, TreeKind, extent_count};
use breakwater_repository::regions::{Durability, Role};
use breakwater_repository::session::{RegionAnswer, RegionDecision, SealedPack};
use breakwater_repository::{
    Access, BackupSession, Class, Codec, CommitOutcome, ContentReader, CreateOptions, Created, FrameLocation,
    ObjectName, ObjectWriter, Place, ReadOrder, Repository, RepositoryError, SessionIntent, TreeReader,
};
use breakwater_storage::{Fault, Memory, Payload, Storage, StorageErrorKind};
use bytes::Bytes;

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) const SOURCE: SourceUid = SourceUid::from_bytes(*b"the-first-source");
pub(crate) const EXTENT: usize = 4096;

/// Bytes that follow from a seed, so that a failure comes again.
#[derive(Debug, Default)]
pub(crate) struct SeededEntropy(AtomicU64);

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        for block in buffer.chunks_mut(32) {
            let digest = sha256(&self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            block.copy_from_slice(&digest[..block.len()]);
        }
    }
}

/// A clock that goes on by a millisecond whenever it is read.
#[derive(Debug)]
pub(crate) struct TickingClock(AtomicI64);

impl Clock for TickingClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1000, Ordering::Relaxed))
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(TickingClock(AtomicI64::new(1_795_179_038_000_000)))
}

pub(crate) fn entropy() -> Arc<dyn Entropy> {
    Arc::new(SeededEntropy::default())
}

/// A place that can be taken away.
#[derive(Debug)]
pub(crate) struct Spot {
    pub(crate) fault: Arc<Fault>,
    pub(crate) memory: Arc<Memory>,
}

impl Spot {
    pub(crate) fn new() -> Spot {
        let memory = Arc::new(Memory::new());
        let fault = Fault::new(Arc::clone(&memory) as Arc<dyn breakwater_storage::Backend>);
        Spot { fault: Arc::new(fault), memory }
    }

    pub(crate) fn storage(&self) -> Storage {
        Storage::new(Arc::clone(&self.fault) as Arc<dyn breakwater_storage::Backend>)
    }

    /// The same bytes, whatever happens to the way there.
    pub(crate) fn inside(&self) -> Storage {
        Storage::new(Arc::clone(&self.memory) as Arc<dyn breakwater_storage::Backend>)
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        use futures::TryStreamExt;
        self.inside().list("").map_ok(|object| object.key).try_collect().await.unwrap()
    }

    /// Replaces the bytes of an object, as a failing disk would.
    pub(crate) async fn replace(&self, key: &str, bytes: Bytes) {
        self.inside().delete(key).await.unwrap();
        self.inside().create(key, Payload::from(bytes)).await.unwrap();
    }
}

/// A repository with one source.
pub(crate) struct Lab {
    pub(crate) spots: Vec<Spot>,
    pub(crate) created: Created,
    pub(crate) repository: Repository,
}

impl Lab {
    pub(crate) async fn new(regions: usize) -> Lab {
        Lab::with(regions, CreateOptions { extent_size: 4096, pack_size: 1 << 20, ..CreateOptions::default() }).await
    }

    pub(crate) async fn with(regions: usize, options: CreateOptions) -> Lab {
        let spots: Vec<Spot> = (0..regions).map(|_| Spot::new()).collect();
        let created = Repository::create(places(&spots), options, clock(), entropy()).await.unwrap();
        let repository = created.repository.clone();
        Lab { spots, created, repository }
    }

    pub(crate) async fn reopen(&self, access: Access) -> Result<Repository, RepositoryError> {
        // Other randomness than before, or ids would come twice.
        let entropy = SeededEntropy(AtomicU64::new(1 << 40));
        Repository::open(places(&self.spots), access, clock(), Arc::new(entropy)).await
    }

    pub(crate) fn writer(&self, commit: usize) -> DirectWriter {
        DirectWriter::new(&self.repository, commit)
    }

    pub(crate) fn order(&self) -> ReadOrder {
        self.repository.read_order()
    }
}

pub(crate) fn places(spots: &[Spot]) -> Vec<Place> {
    spots.iter().enumerate().map(|(at, spot)| Place::new(&format!("r{at}"), Role::Sync, spot.storage())).collect()
}

/// The shortest way to keep a writer's promises: every region at once, no queue; a region that misses one object gets no
/// manifest from then on.
#[derive(Debug)]
pub(crate) struct DirectWriter {
    repository: Repository,
    commit: usize,
    behind: Mutex<BTreeSet<String>>,
}

impl DirectWriter {
    pub(crate) fn new(repository: &Repository, commit: usize) -> Self {
        DirectWriter { repository: repository.clone(), commit, behind: Mutex::default() }
    }

    async fn put(&self, name: &ObjectName, payload: &Payload) -> Vec<RegionDecision> {
        let key = name.to_string();
        let mut decisions = Vec::new();
        for region in self.repository.regions() {
            let register = matches!(name, ObjectName::Register(..) | ObjectName::Committed(..));
            let behind = self.behind.lock().unwrap().contains(region.name());
            let answer = if register && behind {
                RegionAnswer::Owed
            } else {
                match region.place().create(&key, payload.clone()).await {
                    Ok(()) => RegionAnswer::Created,
                    Err(error) if error.kind == StorageErrorKind::AlreadyExists => {
                        match region.place().get(&key).await.unwrap() {
                            same if same == payload.to_bytes() => RegionAnswer::Created,
                            other => RegionAnswer::Exists(other),
                        }
                    }
                    Err(error) => {
                        self.behind.lock().unwrap().insert(region.name().to_owned());
                        RegionAnswer::Unreachable(error.to_string())
                    }
                }
            };
            let id = region.id().unwrap();
            decisions.push(RegionDecision { region: id, name: region.name().to_owned(), role: region.role(), answer });
        }
        decisions
    }
}

#[async_trait]
impl ObjectWriter for DirectWriter {
    fn commit(&self) -> usize {
        self.commit
    }

    async fn create_all(&self, name: &ObjectName, payload: Payload) -> Result<Durability, RepositoryError> {
        let (held, owed): (Vec<_>, Vec<_>) =
            self.put(name, &payload).await.into_iter().partition(|decision| decision.answer == RegionAnswer::Created);
        assert!(held.len() >= self.commit, "{name} is in {} regions", held.len());
        let ids = |decisions: Vec<RegionDecision>| decisions.iter().map(|decision| decision.region).collect();
        Ok(Durability { held: ids(held), owed: ids(owed) })
    }

    async fn create_decided(&self, name: &ObjectName, payload: Payload) -> Vec<RegionDecision> {
        self.put(name, &payload).await
    }
}

pub(crate) fn some_files() -> Files {
    let mut files = Files::new();
    let text = |length: usize, seed: u64| -> Vec<u8> {
        (0..length as u64)
            .map(|at| sha256(&(at / 64 + seed * 1000).to_be_bytes())[usize::try_from(at % 8).unwrap()])
            .collect()
    };
    files.insert("base/1/1259".to_owned(), text(EXTENT * 2 + 100, 1));
    files.insert("base/1/zeros".to_owned(), vec![0; EXTENT]);
    files.insert("empty".to_owned(), Vec::new());
    files.insert("global/pg_control".to_owned(), text(512, 2));
    files
}

pub(crate) fn intent(snapshot: u8, attempt: u32) -> SessionIntent {
    SessionIntent {
        snapshot: SnapshotId::from_bytes([snapshot; 16]),
        job: JobId::from_bytes([9; 16]),
        attempt: Attempt(attempt),
        bases: Vec::new(),
        adopts: Vec::new(),
        leans: Vec::new(),
    }
}

/// Everything of a backup but its commit.
pub(crate) struct Written {
    pub(crate) session: BackupSession,
    pub(crate) manifest: Manifest,
}

pub(crate) async fn store(writer: &dyn ObjectWriter, packs: Vec<SealedPack>) {
    for pack in packs {
        writer.create_all(&pack.name, pack.payload).await.unwrap();
    }
}

/// Writes the packs of a backup of `files`. Extents whose id `have` knows are not written again.
pub(crate) async fn write(
    repository: &Repository,
    writer: &dyn ObjectWriter,
    intent: SessionIntent,
    files: &Files,
    have: &BTreeMap<[u8; 32], FrameLocation>,
) -> Written {
    write_of(SOURCE, repository, writer, intent, files, have).await
}

/// The same for another source.
pub(crate) async fn write_of(
    source: SourceUid,
    repository: &Repository,
    writer: &dyn ObjectWriter,
    intent: SessionIntent,
    files: &Files,
    have: &BTreeMap<[u8; 32], FrameLocation>,
) -> Written {
    let record = SourceRecord {
        uid: source,
        name: "db".to_owned(),
        engine: "files".to_owned(),
        identity: "42".to_owned(),
        domain: repository.domain().clone(),
        created: repository.now(),
    };
    repository.ensure_source(writer, &record).await.unwrap();
    let session = BackupSession::begin(repository, writer, source, intent.clone()).await.unwrap();
    let (mut content, mut structure) = (session.content_packs(), session.structure_packs());
    let mut tree = TreeEncoder::default();
    let mut frames = Vec::new();
    let mut needed = Vec::new();
    let mut sessions = BTreeSet::from([session.id()]);
    for (path, bytes) in files {
        let mut extents = Vec::new();
        for extent in bytes.chunks(EXTENT) {
            let id = repository.suite().chunk_id(repository.id_key(), Class::Extent.byte(), extent);
            let plain = u32::try_from(extent.len()).unwrap();
            if extent.iter().all(|byte| *byte == 0) {
                extents.push(Extent::Zeros { id, plain });
            } else if let Some(location) = have.get(&id.0) {
                sessions.insert(location.pack.session);
                extents.push(Extent::Stored(*location));
            } else {
                let (codec, payload) = Codec::encode(extent, 3).unwrap();
                extents.push(Extent::Stored(content.push(id, Class::Extent, codec, plain, &payload).unwrap()));
            }
        }
        let mut leaves = Vec::new();
        if !extents.is_empty() {
            let leaf = push(repository, &mut structure, Class::Leaf, &leaf::encode(&extents).unwrap());
            needed.push((KeyKind::Structure, leaf));
            let frames = extents.iter().flat_map(|extent| extent.frames(Class::Extent));
            needed.extend(frames.map(|(_, frame)| (KeyKind::Content, *frame)));
            leaves.push(LeafRef { leaf, first: 0, count: u32::try_from(extents.len()).unwrap() });
        }
        let (size, extent) = (bytes.len() as u64, u32::try_from(EXTENT).unwrap());
        assert_eq!(extent_count(size, extent), extents.len() as u64);
        let entry = TreeEntry {
            path: path.clone().into_bytes(),
            kind: TreeKind::File { size, extent, leaves },
            mode: 0o600,
            uid: 1,
            gid: 2,
            mtime: Timestamp(3),
            last: path == "global/pg_control",
            attributes: Attributes::default(),
            stamp: None,
            changed: false,
        };
        frames.extend(tree.push(&entry).unwrap());
    }
    frames.extend(tree.finish());
    let tree: Vec<_> = frames.iter().map(|frame| push(repository, &mut structure, Class::Tree, frame)).collect();
    needed.extend(tree.iter().map(|frame| (KeyKind::Structure, *frame)));
    let mut list = ReferenceEncoder::default();
    let mut frames: Vec<_> = collect(needed).iter().filter_map(|pack| list.push(pack).unwrap()).collect();
    frames.extend(list.finish());
    let references = frames.iter().map(|frame| push(repository, &mut structure, Class::References, frame)).collect();
    store(writer, content.finish().unwrap()).await;
    store(writer, structure.finish().unwrap()).await;
    let now = repository.now();
    let manifest = Manifest {
        snapshot: intent.snapshot,
        session: session.id(),
        job: intent.job,
        attempt: intent.attempt,
        source: ManifestSource { uid: source, name: "db".to_owned(), engine: "files".to_owned() },
        domain: repository.domain().clone(),
        scheduled: None,
        started: session.started(),
        finished: now,
        consistent_at: now,
        start: Some(LogPosition::new(1, 100)),
        end: Some(LogPosition::new(1, 200)),
        tree,
        references,
        sessions: sessions.into_iter().collect(),
        leans: Vec::new(),
        bases: intent.bases,
        totals: Totals { files: files.len() as u64, ..Totals::default() },
        warnings: Vec::new(),
        unreadable: Unreadable::default(),
        rotation: 0,
        doubtful: false,
        facts: serde_json::json!({"version": 17}),
    };
    Written { session, manifest }
}

fn push(
    repository: &Repository,
    packs: &mut breakwater_repository::session::PackWriter,
    class: Class,
    plain: &[u8],
) -> FrameLocation {
    let id = repository.suite().chunk_id(repository.id_key(), class.byte(), plain);
    let (codec, payload) = Codec::encode(plain, 3).unwrap();
    let content = FrameContent { class, codec, plain: u32::try_from(plain.len()).unwrap(), id };
    let ticket = packs.reserve(content, payload.len()).unwrap();
    let location = *ticket.location();
    packs.place(ticket.seal(&payload).unwrap()).unwrap();
    location
}

/// A whole backup.
pub(crate) async fn backup(lab: &Lab, snapshot: u8, files: &Files) -> Manifest {
    let writer = lab.writer(1);
    let written = write(&lab.repository, &writer, intent(snapshot, 1), files, &BTreeMap::new()).await;
    let outcome = written.session.commit(&writer, &written.manifest).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
    written.manifest
}

/// Reads back every file of a snapshot.
pub(crate) async fn restore(
    repository: &Repository,
    order: &ReadOrder,
    snapshot: SnapshotId,
    session: SessionId,
) -> Result<Files, RepositoryError> {
    restore_of(SOURCE, repository, order, snapshot, session).await
}

/// The same for another source.
pub(crate) async fn restore_of(
    source: SourceUid,
    repository: &Repository,
    order: &ReadOrder,
    snapshot: SnapshotId,
    session: SessionId,
) -> Result<Files, RepositoryError> {
    let manifest = repository.manifest(order, source, snapshot, session).await?;
    let content = ContentReader::open(repository, source, &[], order.clone()).await?;
    content.frames().lean_on(&manifest.leans);
    for session in &manifest.sessions {
        content.frames().session_secret(*session).await?;
    }
    let mut tree = TreeReader::new(repository, order.clone(), &manifest);
    let mut files = Files::new();
    while let Some(entries) = tree.next().await? {
        for entry in entries {
            let TreeKind::File { leaves, size, .. } = &entry.kind else { continue };
            let mut bytes = Vec::new();
            for leaf in leaves {
                for extent in content.leaf_extents(leaf).await? {
                    match extent {
                        Extent::Zeros { plain, .. } => bytes.resize(bytes.len() + plain as usize, 0),
                        Extent::Stored(location) => {
                            for chunk in content.read_frames(location.pack, &[location]).await? {
                                bytes.extend_from_slice(&chunk);
                            }
                        }
                        Extent::Patched { .. } => panic!("the lab writes no page runs"),
                    }
                }
            }
            assert_eq!(bytes.len() as u64, *size);
            files.insert(String::from_utf8(entry.path).unwrap(), bytes);
        }
    }
    Ok(files)
}

pub(crate) fn snapshot_session(manifest: &Manifest) -> SnapshotSession {
    SnapshotSession { snapshot: manifest.snapshot, session: manifest.session }
}
