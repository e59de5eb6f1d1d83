//! Putting one object whole into the regions that lack it or have it damaged.
//!
//! Invariants: whole bytes are in hand and proven before anything is deleted; what is deleted was found damaged, and is
//! created anew in the next step from the bytes in hand, which stay durable in the region that they came from.

use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;

use super::sight::{self, Sight, Sighted};
use super::{RepairOptions, Side, Wrong};
use crate::format::ObjectName;
use crate::frames::FrameReader;
use crate::region::{READ_DEADLINE, within};
use crate::regions::order::{Place, Rank};
use crate::repository::Repository;
use crate::session::commit::{RegisterValue, read_register};

/// Whole bytes of an object, and where they are from.
struct Donation {
    bytes: Bytes,
    from: String,
}

/// Makes `name` whole in the regions that are wanted, as far as it can be.
pub(super) async fn mend(
    repository: &Repository,
    options: &RepairOptions,
    sides: &mut [Side],
    name: &ObjectName,
    sighted: Vec<Sighted>,
    frames: Option<&FrameReader>,
) {
    let key = name.to_string();
    let rank = Place::of(&key).rank;
    let mut patients = Vec::new();
    let mut holders = Vec::new();
    for Sighted { side: at, sight } in sighted {
        let Some(side) = sides.get_mut(at) else { continue };
        match sight {
            Sight::Whole => holders.push(at),
            Sight::Missing => patients.push((at, Wrong::Missing, String::from("it is missing"))),
            Sight::Damaged(why) => patients.push((at, Wrong::Damaged, why)),
            Sight::Silent(why) => {
                side.held_back |= is_leaned_on(rank);
                if side.wanted {
                    side.report.leave(&key, why);
                }
            }
        }
    }
    let needed = patients.iter().any(|(at, ..)| sides.get(*at).is_some_and(|side| side.wanted));
    let donation = if needed { donate(repository, sides, &holders, name, frames).await } else { Err(String::new()) };
    for (at, wrong, found) in patients {
        let Some(side) = sides.get_mut(at) else { continue };
        if !side.wanted {
            continue;
        }
        let outcome = match &donation {
            Err(why) => Err(format!("{found}; {why}")),
            Ok(donation) => treat(repository, options, side, name, wrong, donation, frames).await,
        };
        match outcome {
            Ok(Some(from)) => {
                let bytes = donation.as_ref().map_or(0, |donation| donation.bytes.len() as u64);
                side.report.mend(&key, wrong, from, bytes);
            }
            Ok(None) => {}
            Err(why) => {
                side.held_back |= is_leaned_on(rank);
                side.report.leave(&key, why);
            }
        }
    }
}

const fn is_leaned_on(rank: Rank) -> bool {
    matches!(rank, Rank::Early | Rank::Pack | Rank::Other)
}

/// Whole bytes of `name` from one of the regions `holders`.
async fn donate(
    repository: &Repository,
    sides: &[Side],
    holders: &[usize],
    name: &ObjectName,
    frames: Option<&FrameReader>,
) -> Result<Donation, String> {
    let mut failures = Vec::new();
    let mut fence = None;
    for side in holders.iter().filter_map(|at| sides.get(*at)) {
        let from = side.region.name().to_owned();
        let bytes = match within(READ_DEADLINE, side.region.place().get(&name.to_string())).await {
            Ok(bytes) => bytes,
            Err(trouble) => {
                failures.push(format!("{from}: {trouble}"));
                continue;
            }
        };
        if let Err(why) = sight::prove(repository, name, frames, &bytes).await {
            failures.push(format!("{from}: {why}"));
            continue;
        }
        // Of a register a manifest counts against fences elsewhere.
        if is_fence(repository, name, &bytes) {
            fence = Some(Donation { bytes, from });
            continue;
        }
        return Ok(Donation { bytes, from });
    }
    if let Some(fence) = fence {
        return Ok(fence);
    }
    match failures.is_empty() {
        true => Err("no other region has it whole".to_owned()),
        false => Err(format!("no other region has it whole: {}", failures.join("; "))),
    }
}

fn is_fence(repository: &Repository, name: &ObjectName, bytes: &[u8]) -> bool {
    matches!(name, ObjectName::Register(..))
        && matches!(read_register(repository, name, bytes), Ok(RegisterValue::Fence(_)))
}

/// Makes the object whole in one region. None: it was whole by the time.
async fn treat(
    repository: &Repository,
    options: &RepairOptions,
    side: &Side,
    name: &ObjectName,
    wrong: Wrong,
    donation: &Donation,
    frames: Option<&FrameReader>,
) -> Result<Option<String>, String> {
    let key = name.to_string();
    let register = matches!(name, ObjectName::Register(..) | ObjectName::Committed(..));
    if register && side.held_back {
        return Err("something that the snapshot leans on is not whole in this region; hint: repair again once it is"
            .to_owned());
    }
    if wrong == Wrong::Damaged && is_fence(repository, name, &donation.bytes) {
        // A fence elsewhere says nothing about what this region's register held, unless it was just as long.
        let size = within(READ_DEADLINE, side.region.place().head(&key)).await.map(|meta| meta.size);
        if size.ok() != Some(donation.bytes.len() as u64) {
            return Err(
                "another region holds a fence, but this register may have held the manifest; it is left".to_owned()
            );
        }
    }
    if options.dry_run {
        return Ok(Some(donation.from.clone()));
    }
    let storage = side.region.place();
    if wrong == Wrong::Damaged {
        within(READ_DEADLINE, storage.delete(&key)).await.map_err(|trouble| {
            format!("the damaged object cannot be deleted: {trouble}; hint: repair needs that right")
        })?;
    }
    match within(READ_DEADLINE, storage.create(&key, Payload::from(donation.bytes.clone()))).await {
        Ok(()) => {}
        Err(crate::error::Trouble::Storage(error)) if error.kind() == StorageErrorKind::AlreadyExists => {}
        Err(trouble) => {
            return Err(format!(
                "it cannot be put: {trouble}; hint: repair again, the bytes are safe in region {}",
                donation.from
            ));
        }
    }
    match sight::look(repository, &side.region, name, frames, true).await {
        Sight::Whole => Ok(Some(donation.from.clone())),
        Sight::Damaged(why) | Sight::Silent(why) => {
            Err(format!("what was put cannot be read back whole: {why}; hint: look at the place itself"))
        }
        Sight::Missing => Err("what was put is not there; hint: look at the place itself".to_owned()),
    }
}
