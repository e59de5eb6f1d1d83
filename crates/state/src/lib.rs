//! What the control plane remembers: one contract, [`StateStore`], with two implementations.
//!
//! The contract is the part of etcd that the controller needs: conditional transactions, reads at a revision, watches
//! from a revision, leases. [`EtcdStore`] speaks to a cluster; [`EmbeddedStore`] keeps the same promises in one local
//! file, for one process. [`conformance`] is the suite that both pass, and the text of the contract where this page is
//! silent.
//!
//! The store holds intent and hints. What exists is written in the buckets alone, so losing all of this loses schedules,
//! never data.
//!
//! Reading order: [`store`], [`txn`], [`keyspace`], [`error`], then either implementation.

pub mod conformance;
pub mod embedded;
pub mod error;
pub mod etcd;
pub mod keyspace;
pub mod store;
pub mod txn;

pub use embedded::EmbeddedStore;
pub use error::StateError;
pub use etcd::{EtcdConfig, EtcdLogin, EtcdStore, EtcdTls};
pub use keyspace::{Key, ObjectKind};
pub use store::{Entry, Event, LeaseId, MAX_PAGE, Range, Revision, StateStore, WatchBatch, WatchStream, list};
pub use txn::{Condition, Op, Txn, TxnOutcome};
