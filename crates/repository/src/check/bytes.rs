//! Where the bytes of an object under check come from: a region, or memory.

use std::ops::Range;

use breakwater_storage::StorageErrorKind;
use bytes::Bytes;

use crate::error::Trouble;
use crate::format::FormatError;
use crate::region::{READ_DEADLINE, Region, within};

/// The bytes of one object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ObjectBytes<'a> {
    /// As a region delivers them.
    Region {
        /// The region.
        region: &'a Region,
        /// The object's name.
        key: &'a str,
    },
    /// In memory, all of them.
    Held(&'a Bytes),
}

impl ObjectBytes<'_> {
    /// The last `length` bytes, or all when there are fewer, and the size of the object.
    pub(crate) async fn tail(&self, length: u64) -> Result<(Bytes, u64), Trouble> {
        match self {
            ObjectBytes::Region { region, key } => {
                within(READ_DEADLINE, region.ready().await?.get_tail(key, length)).await
            }
            ObjectBytes::Held(bytes) => {
                let start = bytes.len().saturating_sub(usize::try_from(length).unwrap_or(usize::MAX));
                Ok((bytes.slice(start..), bytes.len() as u64))
            }
        }
    }

    /// Exactly these bytes; damage when the object is shorter.
    pub(crate) async fn range(&self, range: Range<u64>) -> Result<Bytes, Trouble> {
        let short = || Trouble::Format(FormatError::damaged("object", "it is too short"));
        match self {
            ObjectBytes::Region { region, key } => {
                match within(READ_DEADLINE, region.ready().await?.get_range(key, range)).await {
                    Err(Trouble::Storage(error)) if error.kind() == StorageErrorKind::Corrupt => Err(short()),
                    answer => answer,
                }
            }
            ObjectBytes::Held(bytes) => {
                let place = |offset: u64| usize::try_from(offset).map_err(|_| short());
                let (start, end) = (place(range.start)?, place(range.end)?);
                if start > end || end > bytes.len() {
                    return Err(short());
                }
                Ok(bytes.slice(start..end))
            }
        }
    }
}
