//! The moment to which a database was restored, as far as it is known in time.

use std::time::{SystemTime, UNIX_EPOCH};

use breakwater_core::Timestamp;

/// This machine's clock, which is also the clock of the servers that run on it.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    Timestamp::from_micros(i64::try_from(since.as_micros()).expect("the clock stands before the year 290000"))
}

/// What a restored database must hold.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub(super) acknowledged_before: Timestamp,
    pub(super) begun_after: Option<Timestamp>,
}

impl Moment {
    /// Restored to a time.
    pub fn at(time: Timestamp) -> Moment {
        Moment { acknowledged_before: time, begun_after: Some(time) }
    }

    /// Restored to something that lies between two times, for example a position that was asked for between them.
    pub fn between(earlier: Timestamp, later: Timestamp) -> Moment {
        Moment { acknowledged_before: earlier, begun_after: Some(later) }
    }

    /// Restored to the newest that there is, which must reach `time` at least.
    pub fn at_least(time: Timestamp) -> Moment {
        Moment { acknowledged_before: time, begun_after: None }
    }
}
