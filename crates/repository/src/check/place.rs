//! What is wrong with a place that does not pass as its region.
//!
//! Invariant: an empty or foreign place has no faults; it is somebody else's, or not mounted. Only a place of which one of
//! the two objects that say whose it is still says so is the region, with the other one damaged.

use super::record;
use super::report::CheckError;
use crate::format::ObjectName;
use crate::region::{CALL_DEADLINE, Region, within};
use crate::repository::Repository;

/// The two objects that say whose a place is.
pub(crate) const SIGNS: [ObjectName; 2] = [ObjectName::Descriptor, ObjectName::Region];

/// Which of the two signs is damaged or missing, where the other one is whole.
pub(crate) async fn faults(repository: &Repository, region: &Region) -> Vec<(ObjectName, CheckError)> {
    let mut faults = Vec::new();
    for name in SIGNS {
        let read = within(CALL_DEADLINE, region.place().get(&name.to_string())).await;
        let understood = match read {
            Ok(bytes) => record::read(repository, &name, &bytes, region.id()).map(drop),
            Err(trouble) => Err(CheckError::Trouble(trouble)),
        };
        if let Err(error) = understood {
            faults.push((name, error));
        }
    }
    // Both: nothing says that it is ours. Silence: nothing is known.
    if faults.len() != 1 || faults.iter().any(|(_, error)| error.is_silence()) {
        return Vec::new();
    }
    faults
}
