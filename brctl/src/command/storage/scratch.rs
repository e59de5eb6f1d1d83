//! A corner of a place in which a check may do what it likes, and which is empty again afterwards.
//!
//! Invariant: nothing outside of the corner is read, listed, written or deleted.

use std::path::Path;

use breakwater_core::{Clock, ErrorClass, PlaceUrl, Uid};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::{Places, Storage};
use futures::TryStreamExt;

use crate::failure::Failure;

/// Keys that are deleted in one go.
const DELETED_AT_ONCE: usize = 500;

/// A corner with a telling name.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    places: Places,
    corner: PlaceUrl,
}

impl Scratch {
    /// A new corner of `place`; a directory must be there already.
    pub(super) async fn make(places: Places, place: &PlaceUrl) -> Result<Self, Failure> {
        if place.scheme() == "file" && !Path::new(place.path()).is_dir() {
            let message = format!("{} is not a directory that exists", place.path());
            return Err(Failure::new(ErrorClass::NotFound, message).hint("make it first, or mount what belongs there"));
        }
        let name = format!("brctl-check-{}", Uid::v7(SystemClock.now(), &SystemEntropy));
        let scratch = Scratch { places, corner: place.join(&name) };
        // So that a place that cannot be reached says so before anything is tried.
        scratch.root().await?.exists("nothing").await?;
        Ok(scratch)
    }

    /// The store of the whole corner.
    async fn root(&self) -> Result<Storage, Failure> {
        Ok(self.places.open_fresh(&self.corner.to_string()).await?)
    }

    /// A fresh store of its own within the corner.
    pub(super) async fn open(&self, name: &str) -> Result<Storage, Failure> {
        Ok(self.places.open_fresh(&self.corner.join(name).to_string()).await?)
    }

    /// Deletes everything in the corner. Answers how many objects the place refuses to delete, such as locked ones.
    pub(super) async fn clear(&self) -> Result<usize, Failure> {
        let root = self.root().await?;
        if self.corner.scheme() == "file" {
            let path = Path::new(self.corner.path());
            std::fs::remove_dir_all(path)
                .map_err(|error| Failure::io(format!("cannot remove {}", path.display()), &error))?;
            return Ok(0);
        }
        let keys: Vec<String> = root.list("").map_ok(|meta| meta.key).try_collect().await?;
        let mut left = 0;
        for batch in keys.chunks(DELETED_AT_ONCE) {
            left += root.delete_many(batch).await.iter().filter(|answer| answer.is_err()).count();
        }
        Ok(left)
    }
}

impl std::fmt::Display for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.corner.fmt(f)
    }
}
