//! What no region has whole: found by following every snapshot through all regions at once.
//!
//! Invariant: memory does not grow with the number of files; what is not known because a region is silent is said, and not
//! called lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use breakwater_core::{Chain, ErrorClass, SessionId, SnapshotId, SourceUid};

use crate::check::bytes::ObjectBytes;
use crate::check::packs::{self, Depth};
use crate::check::snapshot::whole_class;
use crate::error::RepositoryError;
use crate::format::lost::LostChunk;
use crate::format::pack::KeyKind;
use crate::format::tree::{TreeEntry, TreeKind};
use crate::format::{Class, FrameLocation, ObjectName, PackId, path};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots::{Leaves, SnapshotStatus, TreeReader};

/// Packs whose frames are remembered.
const PACKS_MAX: usize = 256;
/// Lost chunks of a source that one repair puts on record; the rest comes with the next.
const CHUNKS_MAX: usize = 1 << 18;
/// Losses that are listed for one source.
const LOSSES_MAX: usize = 1000;

/// Something that a snapshot needs and no region has whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The source.
    pub source: SourceUid,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The session that committed it.
    pub session: SessionId,
    /// The file, as people write it; none when the tree itself is lost, from there on.
    pub path: Option<String>,
    /// The object that it lay in.
    pub object: String,
    /// What is wrong.
    pub why: String,
}

/// All losses of a source.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) losses: Vec<Loss>,
    pub(super) count: u64,
    pub(super) uncertain: Option<String>,
    /// Chunks of content that are lost, by the pack that references name.
    pub(super) chunks: BTreeMap<PackId, BTreeSet<LostChunk>>,
}

/// What is known of a pack in all regions together.
enum PackState {
    /// The offsets of its whole frames.
    Frames(HashMap<u32, FrameLocation>),
    /// Nothing of it can be read.
    Gone(String),
}

/// Follows the snapshots of `source`. With `read_data` every pack that is needed is read.
pub(super) async fn find(repository: &Repository, source: SourceUid, read_data: bool) -> Losses {
    let order = repository.read_order();
    let mut losses = Losses::default();
    let list = match repository.snapshots(&order, Some(source)).await {
        Ok(list) => list,
        Err(error) => {
            losses.uncertain = Some(format!("the snapshots of source {source} cannot be listed: {}", Chain(&error)));
            return losses;
        }
    };
    if let Some(cause) = list.silent.first() {
        losses.uncertain = Some(format!("region {}: {}", cause.region, cause.trouble));
    }
    for (name, error) in &list.damaged {
        // Damaged in one region only: another one shows it.
        let shown = |session: SessionId| list.snapshots.iter().any(|one| one.session == session);
        if let Some(ObjectName::Register(_, _, session) | ObjectName::Committed(_, _, session)) =
            ObjectName::parse(name)
            && shown(session)
        {
            continue;
        }
        losses.uncertain.get_or_insert(format!("`{name}`: {}", Chain(error)));
    }
    let frames = FrameReader::new(repository, source, order);
    let (reading, packs, age) = (Leaves::default(), HashMap::new(), VecDeque::new());
    let mut walk = Walk { repository, source, frames, reading, read_data, packs, age };
    for one in list.snapshots.iter().filter(|one| one.status != SnapshotStatus::Deleted) {
        walk.follow(one.id, one.session, &mut losses).await;
    }
    losses
}

struct Walk<'a> {
    repository: &'a Repository,
    source: SourceUid,
    frames: FrameReader,
    reading: Leaves,
    read_data: bool,
    packs: HashMap<PackId, PackState>,
    age: VecDeque<PackId>,
}

impl Walk<'_> {
    async fn follow(&mut self, snapshot: SnapshotId, session: SessionId, losses: &mut Losses) {
        let order = self.frames.order().clone();
        let register = ObjectName::Register(self.source, snapshot, session);
        let loss = |path: Option<String>, object: String, why: String| Loss {
            source: register.source().unwrap_or(SourceUid::from_bytes([0; 16])),
            snapshot,
            session,
            path,
            object,
            why,
        };
        let manifest = match self.repository.manifest(&order, self.source, snapshot, session).await {
            Ok(manifest) => manifest,
            Err(error) => return losses.add(&error, |why| loss(None, register.to_string(), why)),
        };
        self.frames.lean_on(&manifest.leans);
        for needed in &manifest.sessions {
            let keys = ObjectName::SessionKeys(self.frames.home_of(*needed), *needed);
            if let Err(error) = self.frames.session_secret(*needed).await
                && error.class() != ErrorClass::Denied
            {
                losses.add(&error, |why| loss(None, keys.to_string(), why));
            }
        }
        let mut tree = TreeReader::with_frames(self.frames.clone(), &manifest);
        loop {
            match tree.next().await {
                Ok(Some(entries)) => {
                    for entry in entries {
                        self.entry(&entry, losses, &loss).await;
                    }
                }
                Ok(None) => return,
                Err(error) => return losses.add(&error, |why| loss(None, "the list of its files".to_owned(), why)),
            }
        }
    }

    async fn entry(
        &mut self,
        entry: &TreeEntry,
        losses: &mut Losses,
        loss: &impl Fn(Option<String>, String, String) -> Loss,
    ) {
        let TreeKind::File { leaves, extent: size, .. } = &entry.kind else { return };
        let whole = whole_class(*size);
        let path = || Some(path::escape(&entry.path));
        let mut named = false;
        for leaf in leaves {
            let extents = match self.reading.extents(&self.frames, leaf).await {
                Ok(extents) => extents,
                Err(error) => {
                    let pack = ObjectName::StructurePack(self.source, leaf.leaf.pack).to_string();
                    losses.add(&error, |why| loss(path(), pack, why));
                    continue;
                }
            };
            for extent in &extents {
                for (class, location) in extent.frames(whole) {
                    if let Some(why) = self.missing(class, location).await {
                        let pack = self.frames.pack_name(KeyKind::Content, location.pack).to_string();
                        match why {
                            Ok(why) => {
                                losses.chunk(class, location);
                                // One reason for each file is enough.
                                if !std::mem::replace(&mut named, true) {
                                    losses.push(loss(path(), pack, why));
                                }
                            }
                            Err(why) => drop(losses.uncertain.get_or_insert(format!("`{pack}`: {why}"))),
                        }
                    }
                }
            }
        }
    }

    /// Why no region has the frame whole; `Err` when that is not known.
    async fn missing(&mut self, class: Class, location: &FrameLocation) -> Option<Result<String, String>> {
        let why = self.not_in_place(location).await?;
        // It may lie elsewhere by now.
        match self.frames.relocated(KeyKind::Content, location.pack, &[(class, location.id)]).await {
            Ok(found) if found.iter().all(Option::is_some) => None,
            Ok(_) => Some(why),
            Err(error) if error.class() == ErrorClass::Unavailable => Some(Err(Chain(&error).to_string())),
            Err(_) => Some(why),
        }
    }

    /// Why no region has the frame whole in the pack that names it; `Err` when that is not known.
    async fn not_in_place(&mut self, location: &FrameLocation) -> Option<Result<String, String>> {
        if !self.packs.contains_key(&location.pack) {
            match self.examine(location.pack).await {
                Ok(state) => self.remember(location.pack, state),
                Err(why) => return Some(Err(why)),
            }
        }
        match self.packs.get(&location.pack) {
            Some(PackState::Frames(frames)) if frames.get(&location.offset) == Some(location) => None,
            Some(PackState::Frames(_)) => {
                Some(Ok(format!("no region has the frame at offset {} whole", location.offset)))
            }
            Some(PackState::Gone(why)) => Some(Ok(why.clone())),
            None => Some(Err("it was not looked at".to_owned())),
        }
    }

    /// The frames of `pack` that some region has whole.
    async fn examine(&self, pack: PackId) -> Result<PackState, String> {
        let name = self.frames.pack_name(KeyKind::Content, pack);
        let depth = if self.read_data { Depth::Whole } else { Depth::Ends };
        let (mut whole, mut reasons, mut seen) = (HashMap::new(), Vec::new(), false);
        let mut silent = None;
        for region in self.frames.order().regions() {
            let key = name.to_string();
            match packs::examine(&self.frames, &name, &ObjectBytes::Region { region, key: &key }, depth).await {
                Ok(examined) => {
                    seen = true;
                    let bad: Vec<u32> = examined.bad.iter().map(|bad| bad.frame.offset).collect();
                    let good = examined.footer.frames.iter().filter(|frame| !bad.contains(&frame.offset));
                    whole.extend(good.map(|frame| (frame.offset, frame.location(pack))));
                    if bad.is_empty() {
                        break;
                    }
                }
                Err(error) if error.is_silence() => drop(silent.get_or_insert(format!("{}: {error}", region.name()))),
                Err(error) => reasons.push(format!("{}: {error}", region.name())),
            }
        }
        match (seen, silent) {
            (true, None) => Ok(PackState::Frames(whole)),
            (false, None) => Ok(PackState::Gone(reasons.join("; "))),
            (_, Some(silent)) => Err(silent),
        }
    }

    fn remember(&mut self, pack: PackId, state: PackState) {
        if self.age.len() >= PACKS_MAX
            && let Some(oldest) = self.age.pop_front()
        {
            self.packs.remove(&oldest);
        }
        self.age.push_back(pack);
        self.packs.insert(pack, state);
    }
}

impl Losses {
    fn chunk(&mut self, class: Class, location: &FrameLocation) {
        if self.chunks.values().map(BTreeSet::len).sum::<usize>() < CHUNKS_MAX {
            let chunk = LostChunk { class: class.byte(), id: location.id };
            self.chunks.entry(location.pack).or_default().insert(chunk);
        }
    }

    fn push(&mut self, loss: Loss) {
        self.count += 1;
        if self.losses.len() < LOSSES_MAX {
            self.losses.push(loss);
        }
    }

    /// A silent region makes it uncertain; everything else is a loss.
    fn add(&mut self, error: &RepositoryError, loss: impl FnOnce(String) -> Loss) {
        let why = Chain(error).to_string();
        if matches!(error.class(), ErrorClass::Unavailable | ErrorClass::Denied | ErrorClass::Cancelled) {
            self.uncertain.get_or_insert(why);
        } else {
            self.push(loss(why));
        }
    }
}
