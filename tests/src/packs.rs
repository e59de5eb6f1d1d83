//! What lies in the packs of a fleet's repository, read as a stranger with a writer key would.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result};
use breakwater_crypto::{ChunkId, WriterKey};
use breakwater_repository::regions::Role;
use breakwater_repository::{Access, Class, ObjectName, PackId, Place, Repository};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::Places;

use crate::Fleet;

/// The content of a repository.
#[derive(Debug, Default)]
pub struct Packs {
    /// How often each chunk is stored, with its stored length.
    pub chunks: HashMap<ChunkId, (u32, u32)>,
    /// The packs.
    pub packs: BTreeSet<String>,
    /// Bytes of all frames.
    pub stored: u64,
}

impl Packs {
    /// Chunks of at least `bytes` stored bytes that lie in more than one place.
    pub fn stored_twice(&self, bytes: u32) -> usize {
        self.chunks.values().filter(|(times, length)| *times > 1 && *length >= bytes).count()
    }

    /// Chunks of at least `bytes` stored bytes.
    pub fn of_length(&self, bytes: u32) -> usize {
        self.chunks.values().filter(|(_, length)| *length >= bytes).count()
    }
}

impl Fleet {
    /// Reads the footers of all content packs, in whatever region they are.
    pub async fn packs(&self) -> Result<Packs> {
        let mut places = Vec::new();
        for region in self.regions() {
            let storage = Places::local().open_existing(&region.url()).await.context("open a region")?;
            places.push(Place::new(region.name(), Role::Sync, storage));
        }
        let access = Access::Writer(WriterKey::read(&self.key("writer")).context("read the writer key")?);
        let repository = Repository::open(places, access, Arc::new(SystemClock), Arc::new(SystemEntropy)).await?;

        let mut sessions = BTreeSet::new();
        for name in self.regions().iter().flat_map(|region| region.names("/pack/").into_keys()) {
            if let Some(ObjectName::ContentPack(source, PackId { session, .. })) = ObjectName::parse(&name) {
                sessions.insert((source, session));
            }
        }
        let mut found = Packs::default();
        for (source, session) in sessions {
            let mut footers = repository.session_footers(source, session).await?;
            while let Some(pack) = footers.next().await {
                let pack = pack?;
                if matches!(pack.name, ObjectName::ContentPack(..)) {
                    found.packs.insert(pack.name.to_string());
                    found.take(&pack.footer.frames);
                }
            }
        }
        Ok(found)
    }
}

impl Packs {
    fn take(&mut self, frames: &[breakwater_repository::format::pack::FooterFrame]) {
        for frame in frames.iter().filter(|frame| frame.class == Class::Extent) {
            let (times, length) = self.chunks.entry(frame.id).or_default();
            *times += 1;
            *length = frame.stored;
            self.stored += u64::from(frame.stored);
        }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_repository::Codec;
    use breakwater_repository::format::pack::FooterFrame;

    use super::*;

    fn frame(id: u8, stored: u32, class: Class) -> FooterFrame {
        FooterFrame {
            id: ChunkId([id; 32]),
            origin: 0,
            number: 0,
            offset: 0,
            stored,
            plain: stored,
            codec: Codec::None,
            class,
        }
    }

    #[test]
    fn what_is_stored_twice_shows() {
        let mut packs = Packs::default();
        packs.take(&[frame(1, 100, Class::Extent), frame(2, 10, Class::Extent), frame(3, 100, Class::Leaf)]);
        assert_eq!((packs.of_length(50), packs.stored_twice(50), packs.stored), (1, 0, 110));
        packs.take(&[frame(2, 10, Class::Extent), frame(3, 100, Class::Leaf)]);
        assert_eq!(packs.stored_twice(50), 0, "small ones and structure do not count");
        packs.take(&[frame(1, 100, Class::Extent)]);
        assert_eq!(packs.stored_twice(50), 1);
    }
}
