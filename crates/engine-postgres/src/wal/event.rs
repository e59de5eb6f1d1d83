//! What the scanner reports: the moments in the log that a person can ask to be taken back to.

use breakwater_core::{Lsn, TimelineId, Timestamp};

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00:00 UTC.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The moment that PostgreSQL writes as `micros` since its own epoch.
pub fn timestamp_from_postgres(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH_MICROS))
}

/// The inverse of [`timestamp_from_postgres`].
pub fn timestamp_to_postgres(moment: Timestamp) -> i64 {
    moment.as_micros().saturating_sub(POSTGRES_EPOCH_MICROS)
}

/// One record that an index of the log keeps.
///
/// `lsn_start` is where the record begins (what `pg_waldump` prints and `recovery_target_lsn` compares); `lsn_end` is
/// the position that has to be present for the record to be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// A transaction was committed, also in the second phase of a prepared one.
    Commit {
        /// The transaction that was committed; 0 when it had no id of its own.
        xid: u32,
        /// When, by the server's clock.
        time: Timestamp,
        /// Where the record begins.
        lsn_start: Lsn,
        /// The first position after the record.
        lsn_end: Lsn,
    },
    /// A transaction was rolled back, also in the second phase of a prepared one.
    Abort {
        /// The transaction that was rolled back.
        xid: u32,
        /// When, by the server's clock.
        time: Timestamp,
        /// Where the record begins.
        lsn_start: Lsn,
        /// The first position after the record.
        lsn_end: Lsn,
    },
    /// `pg_create_restore_point` was called.
    RestorePoint {
        /// The name that was given; bytes that are not UTF-8 are replaced.
        name: String,
        /// When, by the server's clock.
        time: Timestamp,
        /// Where the record begins.
        lsn_start: Lsn,
        /// The first position after the record.
        lsn_end: Lsn,
    },
    /// The server was shut down cleanly here.
    CheckpointShutdown {
        /// The timeline at the checkpoint.
        timeline: TimelineId,
        /// The timeline before it; another one when this checkpoint ends a recovery.
        previous: TimelineId,
        /// Where the record begins.
        lsn_start: Lsn,
        /// The first position after the record.
        lsn_end: Lsn,
    },
    /// A recovery ended here and a new timeline began.
    EndOfRecovery {
        /// When, by the server's clock.
        time: Timestamp,
        /// The new timeline.
        timeline: TimelineId,
        /// The timeline that it continues.
        previous: TimelineId,
        /// Where the record begins.
        lsn_start: Lsn,
        /// The first position after the record.
        lsn_end: Lsn,
    },
}

impl WalEvent {
    /// Where the record begins.
    pub fn lsn_start(&self) -> Lsn {
        match self {
            WalEvent::Commit { lsn_start, .. }
            | WalEvent::Abort { lsn_start, .. }
            | WalEvent::RestorePoint { lsn_start, .. }
            | WalEvent::CheckpointShutdown { lsn_start, .. }
            | WalEvent::EndOfRecovery { lsn_start, .. } => *lsn_start,
        }
    }

    /// The first position after the record.
    pub fn lsn_end(&self) -> Lsn {
        match self {
            WalEvent::Commit { lsn_end, .. }
            | WalEvent::Abort { lsn_end, .. }
            | WalEvent::RestorePoint { lsn_end, .. }
            | WalEvent::CheckpointShutdown { lsn_end, .. }
            | WalEvent::EndOfRecovery { lsn_end, .. } => *lsn_end,
        }
    }

    /// The server's clock in the record, where it has one.
    pub fn time(&self) -> Option<Timestamp> {
        match self {
            WalEvent::Commit { time, .. }
            | WalEvent::Abort { time, .. }
            | WalEvent::RestorePoint { time, .. }
            | WalEvent::EndOfRecovery { time, .. } => Some(*time),
            WalEvent::CheckpointShutdown { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epochs_differ_by_thirty_years() {
        assert_eq!(timestamp_from_postgres(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(timestamp_to_postgres(timestamp_from_postgres(123)), 123);
    }
}
