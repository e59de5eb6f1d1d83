//! A place of which one of the two objects that say whose it is was lost.
//!
//! Invariant: nothing is written into a place of which nothing says that it is the region: it may be empty because it is
//! not mounted, or somebody else's.

use breakwater_core::RegionId;
use breakwater_storage::Payload;
use bytes::Bytes;

use super::{Side, Wrong};
use crate::check::place;
use crate::error::Trouble;
use crate::format::ObjectName;
use crate::format::descriptor::RegionRecord;
use crate::region::{CALL_DEADLINE, within};
use crate::repository::Repository;

/// Puts the sign that is missing or damaged again, if the other one is whole.
pub(super) async fn mend(repository: &Repository, side: &mut Side, dry_run: bool, trouble: &Trouble) {
    let mut faults = place::faults(repository, &side.region).await;
    let Some((name, problem)) = faults.pop() else {
        return side.report.unreach(trouble);
    };
    if !side.wanted {
        return side.report.unreach(problem);
    }
    let key = name.to_string();
    let bytes = match name {
        ObjectName::Descriptor => repository.descriptor_bytes().clone(),
        _ => {
            // The id that it had is taken where it is known; else it is joined anew under another.
            let id = side.region.id();
            let region = id.unwrap_or_else(|| RegionId::v7(repository.now(), repository.entropy().as_ref()));
            let record = RegionRecord { repository: repository.id(), region, joined: repository.now(), offers: None };
            Bytes::from(record.encode())
        }
    };
    let length = bytes.len() as u64;
    let gone = problem.is_gone();
    let from = "what the key pins".to_owned();
    let wrong = if gone { Wrong::Missing } else { Wrong::Damaged };
    if dry_run {
        side.report.mend(&key, wrong, from, length);
        return side.report.unreach("the rest is looked at once this is repaired");
    }
    let storage = side.region.place();
    let put = async {
        if !gone {
            within(CALL_DEADLINE, storage.delete(&key)).await?;
        }
        within(CALL_DEADLINE, storage.create(&key, Payload::from(bytes))).await?;
        side.region.ask().await.map(drop)
    };
    match put.await {
        Ok(()) => {
            side.usable = true;
            side.report.mend(&key, wrong, from, length);
        }
        Err(trouble) => {
            side.report.leave(&key, trouble.to_string());
            side.report.unreach(trouble);
        }
    }
}
