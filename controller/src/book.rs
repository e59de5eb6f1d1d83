//! Typed access to the store: read a record, change a record.
//!
//! Every change compares the revision that it was computed from in the same transaction, so two writers never undo each
//! other.

use std::sync::Arc;

use breakwater_core::ErrorClass;
use breakwater_state::keyspace::Key;
use breakwater_state::{Condition, Op, StateStore, Txn};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ControlError;

/// How often a change is recomputed when somebody else was faster.
const RACES_MAX: usize = 32;

/// A record with the revision it was read at.
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// Its key.
    pub key: Key,
    /// The record.
    pub value: T,
    /// The revision of its last change.
    pub revision: u64,
}

/// The store with types.
#[derive(Clone, Debug)]
pub struct Book {
    store: Arc<dyn StateStore>,
}

impl Book {
    /// Over `store`.
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        Book { store }
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn StateStore> {
        &self.store
    }

    /// The record at `key`.
    pub async fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Versioned<T>>, ControlError> {
        let Some(entry) = self.store.get(&key.to_string()).await? else { return Ok(None) };
        let value = decode(key, &entry.value)?;
        Ok(Some(Versioned { key: key.clone(), value, revision: entry.revision.0 }))
    }

    /// All records below `prefix`, in key order.
    pub async fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Versioned<T>>, ControlError> {
        let range = breakwater_state::list(self.store.as_ref(), prefix).await?;
        let mut records = Vec::with_capacity(range.entries.len());
        for entry in range.entries {
            let key: Key = entry.key.parse()?;
            let value = decode(&key, &entry.value)?;
            records.push(Versioned { key, value, revision: entry.revision.0 });
        }
        Ok(records)
    }

    /// Creates records, all or none: false when one of the keys is taken.
    pub async fn create(&self, records: &[(Key, Bytes)]) -> Result<bool, ControlError> {
        let mut txn = Txn::new();
        for (key, value) in records {
            txn = txn.when(Condition::Absent(key.to_string())).put(key.to_string(), value.clone());
        }
        Ok(self.store.txn(txn).await?.succeeded)
    }

    /// Changes the record at `key`: `change` computes the next value from the present one (`None`: there is none), or
    /// `None` to leave it. Answers what is there afterwards.
    pub async fn change<T, F>(&self, key: &Key, mut change: F) -> Result<Option<Versioned<T>>, ControlError>
    where
        T: Serialize + DeserializeOwned + Clone,
        F: FnMut(Option<&T>) -> Result<Option<T>, ControlError>,
    {
        for _ in 0..RACES_MAX {
            let present: Option<Versioned<T>> = self.read(key).await?;
            let Some(next) = change(present.as_ref().map(|record| &record.value))? else { return Ok(present) };
            let condition = match &present {
                Some(record) => Condition::RevisionIs(key.to_string(), breakwater_state::Revision(record.revision)),
                None => Condition::Absent(key.to_string()),
            };
            let txn = Txn::new().when(condition).put(key.to_string(), encode(&next));
            let outcome = self.store.txn(txn).await?;
            if outcome.succeeded {
                return Ok(Some(Versioned { key: key.clone(), value: next, revision: outcome.revision.0 }));
            }
        }
        Err(ControlError::answer(ErrorClass::Conflict, format!("`{key}` is changed by many at once")))
    }

    /// Applies `ops` if every condition holds.
    pub async fn apply(&self, conditions: Vec<Condition>, ops: Vec<Op>) -> Result<bool, ControlError> {
        let txn = Txn { conditions, then: ops, otherwise: Vec::new() };
        Ok(self.store.txn(txn).await?.succeeded)
    }

    /// Deletes `key`.
    pub async fn delete(&self, key: &Key) -> Result<(), ControlError> {
        self.store.txn(Txn::new().delete(key.to_string())).await?;
        Ok(())
    }

    /// The store's present revision.
    pub async fn revision(&self) -> Result<u64, ControlError> {
        Ok(self.store.revision().await?.0)
    }
}

/// A record as stored.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(record).expect("records are plain data with string keys"))
}

fn decode<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(value).map_err(|source| ControlError::Stored { key: key.to_string(), source })
}
