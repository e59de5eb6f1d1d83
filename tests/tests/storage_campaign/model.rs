//! What may be in the place, as far as its answers told: for each key the contents that are possible.
//!
//! An answer without error leaves one possibility, an error leaves several. A put that the network held back may arrive whenever its name
//! is free, so it stays possible for as long as nothing else is known to have the name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use breakwater_storage::Storage;
use bytes::Bytes;

/// The number of an attempt to create something, which tells its content.
pub(crate) type Attempt = u64;

/// The content of an attempt: no two are equal.
pub(crate) fn content(attempt: Attempt) -> Bytes {
    let length = usize::try_from(1 + attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 6000).unwrap();
    let text = format!("<{attempt}>");
    text.into_bytes().into_iter().cycle().take(length.max(24)).collect()
}

/// One key that a single player writes.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pub(crate) key: String,
    /// `None`: that there is no object.
    possible: BTreeSet<Option<Attempt>>,
    attempted: BTreeSet<Attempt>,
}

/// What the network did to the requests of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// A put was held back.
    pub(crate) late: bool,
    /// A request took so long that its client may have given up before it was done.
    pub(crate) slow: bool,
}

impl Own {
    pub(crate) fn new(key: String) -> Own {
        Own { key, possible: BTreeSet::from([None]), attempted: BTreeSet::new() }
    }

    pub(crate) fn is_possible(&self, what: Option<Attempt>) -> bool {
        self.possible.contains(&what)
    }

    /// Contents that are possible.
    pub(crate) fn contents(&self) -> Vec<(Attempt, Bytes)> {
        self.possible.iter().flatten().map(|attempt| (*attempt, content(*attempt))).collect()
    }

    /// Takes in what the network may have done by now.
    pub(crate) fn weather(&mut self, weather: Weather) {
        if weather.slow {
            self.possible.insert(None);
        }
        if (weather.late || weather.slow) && self.is_possible(None) {
            self.possible.extend(self.attempted.iter().map(|attempt| Some(*attempt)));
        }
    }

    pub(crate) fn begins(&mut self, attempt: Attempt) {
        self.attempted.insert(attempt);
    }

    pub(crate) fn created(&mut self, attempt: Attempt) {
        assert!(self.is_possible(None), "created over what is there: {self:?}");
        self.possible = BTreeSet::from([Some(attempt)]);
    }

    /// The name was taken: by what was possible before, or by this very attempt, which the network did twice.
    pub(crate) fn taken(&mut self, attempt: Attempt) {
        if self.possible.remove(&None) {
            self.possible.insert(Some(attempt));
        }
    }

    /// It is unknown whether the attempt was done.
    pub(crate) fn unsure(&mut self, attempt: Attempt) {
        if self.is_possible(None) {
            self.possible.insert(Some(attempt));
        }
    }

    /// Exactly these bytes were read.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        let found = self.contents().into_iter().find(|(_, content)| content == bytes);
        let Some((attempt, _)) = found else { panic!("wrong bytes, {} of them: {self:?}", bytes.len()) };
        self.possible = BTreeSet::from([Some(attempt)]);
    }

    /// There is an object of this size.
    pub(crate) fn has_size(&mut self, size: u64) {
        self.possible.retain(|what| what.is_some_and(|attempt| content(attempt).len() as u64 == size));
        assert!(!self.possible.is_empty(), "no content has {size} bytes: {self:?}");
    }

    /// There is no object.
    pub(crate) fn absent(&mut self) {
        assert!(self.is_possible(None), "lost: {self:?}");
        self.possible = BTreeSet::from([None]);
    }

    pub(crate) fn deleted(&mut self) {
        self.possible = BTreeSet::from([None]);
    }

    pub(crate) fn perhaps_deleted(&mut self) {
        self.possible.insert(None);
    }
}

/// Keys that all players want to create and none deletes: the first one wins, for ever.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    keys: Mutex<BTreeMap<String, Contested>>,
}

#[derive(Debug, Default)]
struct Contested {
    attempted: BTreeSet<Attempt>,
    winner: Option<Attempt>,
}

impl Contest {
    fn with<T>(&self, key: &str, change: impl FnOnce(&mut Contested) -> T) -> T {
        change(self.keys.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default())
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn begins(&self, key: &str, attempt: Attempt) {
        self.with(key, |contested| contested.attempted.insert(attempt));
    }

    /// Whether somebody is known to have won.
    pub(crate) fn is_decided(&self, key: &str) -> bool {
        self.with(key, |contested| contested.winner.is_some())
    }

    /// This attempt was seen to be the object, by its creator or by a reader.
    pub(crate) fn won(&self, key: &str, attempt: Attempt) {
        self.with(key, |contested| {
            let winner = *contested.winner.get_or_insert(attempt);
            assert_eq!(winner, attempt, "two objects of one name: {key}");
        });
    }

    pub(crate) fn read(&self, key: &str, bytes: &[u8]) {
        let attempts = self.with(key, |contested| contested.attempted.clone());
        let found = attempts.into_iter().find(|attempt| content(*attempt) == bytes);
        self.won(key, found.unwrap_or_else(|| panic!("wrong bytes, {} of them: {key}", bytes.len())));
    }

    /// Looks at all of them without faults.
    pub(crate) async fn settle(&self, direct: &Storage) {
        let keys: Vec<String> = self.keys.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for key in keys {
            match direct.get(&key).await {
                Ok(bytes) => self.read(&key, &bytes),
                Err(error) => assert!(error.is_not_found() && !self.is_decided(&key), "lost: {key}: {error}"),
            }
        }
    }
}
