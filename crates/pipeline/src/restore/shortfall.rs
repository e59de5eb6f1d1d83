//! What a restore could not put back although the content is whole: owners without privilege, attributes that the file
//! system does not know, devices.
//!
//! Invariant: nothing is left out silently. Every case is counted, and the first few of each kind are named.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Paths that are named for each kind; more are only counted.
const NAMED: usize = 10;

/// One kind of thing that was not put back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// What, in words: `owner not set (not permitted)`.
    pub what: String,
    /// How many paths.
    pub count: u64,
    /// The first of them.
    pub paths: Vec<String>,
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({}", self.what, self.count, self.paths.join(", "))?;
        if self.count > self.paths.len() as u64 { f.write_str(", …)") } else { f.write_str(")") }
    }
}

/// Collects them from any thread.
#[derive(Debug, Default)]
pub(crate) struct Shortfalls(Mutex<BTreeMap<String, Shortfall>>);

impl Shortfalls {
    pub(crate) fn note(&self, what: &str, path: &[u8]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = all.entry(what.to_owned()).or_default();
        slot.count += 1;
        if slot.paths.len() < NAMED {
            slot.paths.push(path.escape_ascii().to_string());
        }
    }

    pub(crate) fn take(&self) -> Vec<Shortfall> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.into_iter().map(|(what, shortfall)| Shortfall { what, ..shortfall }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_some_are_named() {
        let shortfalls = Shortfalls::default();
        for n in 0..12 {
            shortfalls.note("owner not set", format!("f{n}").as_bytes());
        }
        shortfalls.note("device not made", b"null\n");
        let taken = shortfalls.take();
        assert_eq!(taken.iter().map(|one| one.count).collect::<Vec<_>>(), [1, 12]);
        assert_eq!(taken[0].to_string(), "device not made: 1 (null\\n)");
        assert!(taken[1].to_string().ends_with("f9, …)"), "{}", taken[1]);
        assert!(shortfalls.take().is_empty());
    }
}
