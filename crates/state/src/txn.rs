//! A conditional transaction: the only way to change the state.
//!
//! Reading first and then writing under the condition that nothing changed meanwhile is how every writer works here, so
//! that two controllers, or one and its paused twin, can never undo each other's work.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::error::StateError;
use crate::store::{Entry, LeaseId, Revision, check_key};

/// The most bytes of one value.
pub const MAX_VALUE: usize = 1 << 20;

/// The most bytes of one transaction, keys and values of conditions and operations together. Below etcd's own limit of
/// 1.5 MiB with room for the encoding.
pub const MAX_TXN_BYTES: usize = (1 << 20) + (256 << 10);

/// The most conditions, and the most operations of one branch: etcd's default.
pub const MAX_TXN_OPS: usize = 128;

/// Something that must hold for a transaction to do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key is there.
    Exists(String),
    /// The key is not there.
    Absent(String),
    /// The value was written by this revision. Revision 0 is that of a key that is not there.
    RevisionIs(String, Revision),
    /// The key is there and holds exactly these bytes.
    ValueIs(String, Bytes),
    /// The key was created by this revision. Revision 0 is that of a key that is not there.
    CreatedAt(String, Revision),
}

impl Condition {
    /// The key that is looked at.
    pub fn key(&self) -> &str {
        match self {
            Condition::Exists(key)
            | Condition::Absent(key)
            | Condition::RevisionIs(key, _)
            | Condition::ValueIs(key, _)
            | Condition::CreatedAt(key, _) => key,
        }
    }

    /// Whether the condition holds for what its key holds.
    pub(crate) fn holds(&self, entry: Option<&Entry>) -> bool {
        let none = Revision(0);
        match self {
            Condition::Exists(_) => entry.is_some(),
            Condition::Absent(_) => entry.is_none(),
            Condition::RevisionIs(_, revision) => entry.map_or(none, |entry| entry.revision) == *revision,
            Condition::ValueIs(_, value) => entry.is_some_and(|entry| entry.value == *value),
            Condition::CreatedAt(_, revision) => entry.map_or(none, |entry| entry.created) == *revision,
        }
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes the key. A lease it was put under before counts no more; `lease` is the new one.
    Put {
        /// The key.
        key: String,
        /// The bytes.
        value: Bytes,
        /// The lease whose end deletes the key.
        lease: Option<LeaseId>,
    },
    /// Deletes the key. One that is not there is no error and no change.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads the key, after the steps before it.
    Get {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key of the step.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } | Op::Get { key } => key,
        }
    }

    fn size(&self) -> usize {
        let value = if let Op::Put { value, .. } = self { value.len() } else { 0 };
        self.key().len() + value
    }
}

/// Conditions and the two branches they choose from. No key may be written twice by one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold, all of it. None always holds.
    pub conditions: Vec<Condition>,
    /// The steps when it holds.
    pub then: Vec<Op>,
    /// The steps when it does not: reads only.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Txn::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Writes a key.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.step(Op::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Writes a key that vanishes with `lease`.
    #[must_use]
    pub fn put_leased(self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.step(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.step(Op::Delete { key: key.into() })
    }

    /// Reads a key.
    #[must_use]
    pub fn get(self, key: impl Into<String>) -> Self {
        self.step(Op::Get { key: key.into() })
    }

    /// Reads a key when the conditions do not hold.
    #[must_use]
    pub fn or_get(mut self, key: impl Into<String>) -> Self {
        self.otherwise.push(Op::Get { key: key.into() });
        self
    }

    fn step(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Refuses what one of the stores would refuse, so that both refuse the same.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        for (what, count) in [
            ("a transaction by its conditions", self.conditions.len()),
            ("a transaction by its operations", self.then.len()),
            ("a transaction by its alternative reads", self.otherwise.len()),
        ] {
            if count > MAX_TXN_OPS {
                return Err(StateError::TooLarge { what: what.to_owned(), size: count, limit: MAX_TXN_OPS });
            }
        }
        let mut bytes = 0;
        for condition in &self.conditions {
            check_key(condition.key())?;
            bytes += condition.key().len();
            if let Condition::ValueIs(key, value) = condition {
                check_value(key, value)?;
                bytes += value.len();
            }
        }
        let mut written = BTreeSet::new();
        for op in &self.then {
            check_key(op.key())?;
            bytes += op.size();
            if let Op::Put { key, value, .. } = op {
                check_value(key, value)?;
            }
            if !matches!(op, Op::Get { .. }) && !written.insert(op.key()) {
                return Err(StateError::invalid(format!("a transaction must not write the key `{}` twice", op.key())));
            }
        }
        for op in &self.otherwise {
            check_key(op.key())?;
            bytes += op.size();
            if !matches!(op, Op::Get { .. }) {
                return Err(StateError::invalid(format!(
                    "a transaction whose conditions fail must not write, but would write the key `{}`",
                    op.key()
                )));
            }
        }
        if bytes > MAX_TXN_BYTES {
            return Err(StateError::TooLarge { what: "a transaction".to_owned(), size: bytes, limit: MAX_TXN_BYTES });
        }
        Ok(())
    }
}

fn check_value(key: &str, value: &Bytes) -> Result<(), StateError> {
    if value.len() > MAX_VALUE {
        return Err(StateError::TooLarge {
            what: format!("the value of `{key}`"),
            size: value.len(),
            limit: MAX_VALUE,
        });
    }
    Ok(())
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether the conditions held, and so `then` ran.
    pub succeeded: bool,
    /// The revision after the transaction: its own if it changed something, else the newest.
    pub revision: Revision,
    /// What each `Get` of the branch that ran found, in its order.
    pub entries: Vec<Option<Entry>>,
}

impl TxnOutcome {
    /// The outcome if the conditions held; else a conflict over `what`, which names the thing for people.
    pub fn or_conflict(self, what: &str) -> Result<TxnOutcome, StateError> {
        if self.succeeded {
            Ok(self)
        } else {
            Err(StateError::Conflict { what: format!("{what} was changed by somebody else meanwhile") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use breakwater_core::ErrorClass;

    #[test]
    fn transactions_that_no_store_takes_are_refused() {
        let refused = |txn: Txn, class: ErrorClass, word: &str| {
            let error = txn.check().unwrap_err();
            assert_eq!(error.class(), class, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        };
        refused(Txn::new().put("", "x"), ErrorClass::Invalid, "empty");
        refused(Txn::new().put("k".repeat(1025), "x"), ErrorClass::Invalid, "1025");
        refused(Txn::new().put("key", vec![0; MAX_VALUE + 1]), ErrorClass::Invalid, "`key`");
        refused(Txn::new().put("key", "x").delete("key"), ErrorClass::Invalid, "twice");
        let half = vec![0; MAX_VALUE / 2 + 1];
        let three = Txn::new().put("a", half.clone()).put("b", half.clone()).put("c", half);
        refused(three, ErrorClass::Invalid, "transaction");
        let many = (0..129).fold(Txn::new(), |txn, i| txn.put(format!("{i}"), "x"));
        refused(many, ErrorClass::Invalid, "129 of at most 128");
        let writes = Txn { otherwise: vec![Op::Delete { key: "gone".into() }], ..Txn::new() };
        refused(writes, ErrorClass::Invalid, "`gone`");
        Txn::new().get("a").put("a", vec![0; MAX_VALUE]).get("a").check().unwrap();
    }
}
