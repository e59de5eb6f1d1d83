//! Repaying one name of a debt: the ciphertext is read from another region and put into this one.
//!
//! Invariant: a name leaves the debt as vanished only when every other region, asked in its right place, has answered that
//! it does not have it. Only bytes under the name they were sealed for are written.

use breakwater_core::{Chain, ErrorClass};
use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;
use tokio::sync::SemaphorePermit;

use super::Set;
use super::error::Failure;
use super::order::{Place, Rank};
use super::worker::{self, Tried};

/// Bytes 0..7 of a manifest record (docs/format.md, section 4): the magic, any version and suite, kind 4.
const RECORD_MAGIC: &[u8] = b"BWRC";
const KIND_AT: usize = 6;
const KIND_MANIFEST: u8 = 4;

/// What became of a name that a region owes.
#[derive(Debug)]
pub(super) enum Copied {
    /// It was read and a put was made.
    Put(Tried),
    /// The region had it already.
    Already,
    /// No region that answers has it, but not all answered.
    NoSource(Failure),
    /// All answered, none has it.
    Vanished,
}

/// Brings `name` into region number `index`.
pub(super) async fn copy(set: &Set, index: usize, name: &str, size: u64) -> Copied {
    let Some(region) = set.regions.get(index) else { return Copied::Vanished };
    let is_register = Place::of(name).rank == Rank::Commit;
    let storage = &region.handle.storage;
    if !is_register {
        // Equal names hold equal bytes, so what is there need not be sent again.
        match storage.exists(name).await {
            Ok(true) => return Copied::Already,
            Ok(false) => {}
            Err(error) => {
                return Copied::Put(Tried::Failed(Failure::new(error.class(), Chain(&error).to_string())));
            }
        }
    }
    let _room = room(set, size).await;
    let payload = match fetch(set, index, name, is_register).await {
        Ok(payload) => payload,
        Err(other) => return other,
    };
    let bytes = is_register.then(|| payload.to_bytes());
    let tried = worker::put(storage, name, payload).await;
    match (bytes, tried) {
        (Some(bytes), Tried::Differs(present)) => {
            if is_manifest(&bytes) != is_manifest(&present) {
                // A fence here against a session that is committed elsewhere, or the other way round. A record is sealed
                // under its own name, so whoever has the keys must write the manifest under the second one.
                set.unsettled(name);
            }
            Copied::Already
        }
        (_, tried) => Copied::Put(tried),
    }
}

fn is_manifest(bytes: &[u8]) -> bool {
    bytes.starts_with(RECORD_MAGIC) && bytes.get(KIND_AT) == Some(&KIND_MANIFEST)
}

/// Memory for one copy; an object larger than the whole budget takes all of it.
async fn room(set: &Set, size: u64) -> Option<SemaphorePermit<'_>> {
    let all = set.options.copy_bytes >> 10;
    let kib = u32::try_from((size >> 10).clamp(1, all.max(1))).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    set.copy_budget.acquire_many(kib).await.ok()
}

/// Reads `name` from the first region that has it; of a register, the manifest if any region has one.
async fn fetch(set: &Set, index: usize, name: &str, is_register: bool) -> Result<Payload, Copied> {
    let mut found: Option<Bytes> = None;
    let mut silent: Option<Failure> = None;
    let mut order = set.regions.iter().enumerate().filter(|(other, _)| *other != index).collect::<Vec<_>>();
    order.sort_by_key(|(_, region)| !region.health().is_reachable());
    for (other, region) in order {
        let why = |text: String| Failure::new(ErrorClass::Unavailable, format!("{}: {text}", region.handle.name));
        let known_down = region.closed_because().filter(|_| !region.health().verified);
        if let Some(failure) = known_down {
            silent.get_or_insert(why(failure.text));
            continue;
        }
        match region.handle.storage.get(name).await {
            Ok(bytes) => {
                let good = !is_register || is_manifest(&bytes);
                found = Some(bytes);
                if good {
                    break;
                }
            }
            Err(error) if error.kind() == StorageErrorKind::NotFound => {
                // An empty mount says the same of everything.
                if let Err(failure) = set.confirm(other).await {
                    silent.get_or_insert(why(failure.text));
                }
            }
            Err(error) => {
                silent.get_or_insert(why(Chain(&error).to_string()));
            }
        }
    }
    match (found, silent) {
        (Some(bytes), _) => Ok(Payload::from(bytes)),
        (None, Some(failure)) => {
            let text = format!("`{name}` is owed, and the regions that may hold it do not answer: {failure}");
            Err(Copied::NoSource(Failure::new(ErrorClass::Unavailable, text)))
        }
        (None, None) => Err(Copied::Vanished),
    }
}
