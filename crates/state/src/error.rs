//! What can go wrong between the controller and its state.

use std::error::Error;

use breakwater_core::ErrorClass;

use crate::store::{LeaseId, Revision};

/// The error beneath, whatever its type.
pub type Cause = Box<dyn Error + Send + Sync>;

/// An error of a state store.
///
/// After `Unavailable` from a call that writes, the write may or may not have happened: read before trying again.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store cannot be reached, or is out of room, now.
    #[error("{store} cannot be used now: {what}")]
    Unavailable {
        /// The store, as its `name` says it.
        store: String,
        /// What was tried or seen.
        what: String,
        /// The error beneath.
        #[source]
        cause: Option<Cause>,
    },
    /// Somebody else holds or changed the thing.
    #[error("{what}")]
    Conflict {
        /// The thing and who may hold it.
        what: String,
    },
    /// The history that was asked for is gone; list again and watch from there.
    #[error("the history of the state before revision {oldest} is gone")]
    Compacted {
        /// The oldest revision that can still be read and watched.
        oldest: Revision,
    },
    /// The lease has expired or was revoked, and its keys went with it.
    #[error("lease {lease} has expired or was revoked")]
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// More bytes or operations than the store takes.
    #[error("{what} is too large for the state store: {size} of at most {limit}")]
    TooLarge {
        /// The value or transaction.
        what: String,
        /// Its size, bytes (operations for a count).
        size: usize,
        /// The limit, in the same unit.
        limit: usize,
    },
    /// The request can never succeed as it stands.
    #[error("{what}")]
    Invalid {
        /// The request and what is wrong with it.
        what: String,
    },
    /// What the store holds is damaged, or it has lost what it once confirmed.
    #[error("{store} is damaged: {what}")]
    Corrupt {
        /// The store, as its `name` says it.
        store: String,
        /// What was found.
        what: String,
        /// The error beneath.
        #[source]
        cause: Option<Cause>,
    },
    /// The store knows us not, or lets us not.
    #[error("{store} refuses: {what}")]
    Denied {
        /// The store, as its `name` says it.
        store: String,
        /// What it said.
        what: String,
        /// The error beneath.
        #[source]
        cause: Option<Cause>,
    },
    /// An answer that no correct store gives.
    #[error("{store} gave an answer that makes no sense: {what}")]
    Internal {
        /// The store, as its `name` says it.
        store: String,
        /// The answer.
        what: String,
        /// The error beneath.
        #[source]
        cause: Option<Cause>,
    },
}

impl StateError {
    /// What the error means to the one who has to act on it.
    pub fn class(&self) -> ErrorClass {
        match self {
            StateError::Unavailable { .. } => ErrorClass::Unavailable,
            StateError::Conflict { .. } => ErrorClass::Conflict,
            StateError::Compacted { .. } | StateError::LeaseGone { .. } => ErrorClass::NotFound,
            StateError::TooLarge { .. } | StateError::Invalid { .. } => ErrorClass::Invalid,
            StateError::Corrupt { .. } => ErrorClass::Corrupt,
            StateError::Denied { .. } => ErrorClass::Denied,
            StateError::Internal { .. } => ErrorClass::Internal,
        }
    }

    /// A request that can never succeed.
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        StateError::Invalid { what: what.into() }
    }
}
