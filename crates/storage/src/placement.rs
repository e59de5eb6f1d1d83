//! How an object is to be kept by the place that gets it. Who decides by an object's name is the owner of the names; storage
//! only asks.

use std::fmt::Debug;

use crate::{Retention, Tier};

/// How a new object is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Its tier from the start.
    pub tier: Tier,
    /// Its lock from the start: there is no moment at which the object is there and unlocked.
    pub retention: Option<Retention>,
}

impl Placement {
    /// Whether nothing is asked for but that the object is there.
    pub fn is_plain(&self) -> bool {
        *self == Placement::default()
    }
}

/// Decides how new objects of a place are kept.
pub trait Placing: Debug + Send + Sync {
    /// How the object `key`, created now, is kept.
    fn placement(&self, key: &str) -> Placement;
}

/// Everything hot and without a lock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Placing for Plain {
    fn placement(&self, _: &str) -> Placement {
        Placement::default()
    }
}
