//! Pages that were read lately, in a fixed amount of memory.
//!
//! Ids are as good as random, so lookups of content have no order that a clever policy could use; what returns is fences and
//! filters of small runs. Each page has one place where it may stay, and the newest stays.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::page::{PAGE, Page, PageFile};

/// Locks that pages are spread over.
const SHARDS: usize = 16;

type Slot = Option<(u64, u64, Box<Page>)>;

#[derive(Debug)]
pub(super) struct Cache {
    shards: Vec<Mutex<Vec<Slot>>>,
    /// Slots of a shard.
    slots: usize,
}

impl Cache {
    /// A cache that takes up to `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Cache {
        let slots = (bytes / (PAGE + size_of::<Slot>()) / SHARDS).max(1);
        Cache { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), slots }
    }

    /// What `look` makes of the page.
    pub(super) fn with<T>(&self, file: &PageFile, number: u64, look: impl FnOnce(&Page) -> T) -> io::Result<T> {
        let spread = (file.id << 40 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (shard, slot) = ((spread >> 60) as usize, (spread >> 20 & 0xff_ffff_ffff) as usize % self.slots);
        let Some(shard) = self.shards.get(shard) else {
            let mut page = [0; PAGE];
            file.read(number, &mut page)?;
            return Ok(look(&page));
        };
        let shard = || shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some((known, at, page))) = shard().get(slot)
            && (*known, *at) == (file.id, number)
        {
            return Ok(look(page));
        }
        let mut page = Box::new([0; PAGE]);
        file.read(number, &mut page)?;
        let found = look(&page);
        let mut slots = shard();
        if slots.len() <= slot {
            slots.resize_with(self.slots, || None);
        }
        if let Some(place) = slots.get_mut(slot) {
            *place = Some((file.id, number, page));
        }
        Ok(found)
    }
}
