//! One task of the campaign: draws operations, does them, and tells the model what was answered.

use std::sync::Arc;

use breakwater_storage::{ObjectMeta, Payload, Storage, StorageError, StorageErrorKind};
use breakwater_testkit::fault_proxy::{Dice, FaultProxy};
use futures::TryStreamExt;

use crate::model::{Attempt, Contest, Own, Weather, content};

const KEYS: u64 = 6;

/// Operations of a player for one key that all of them want.
const ROUND: u64 = 25;

/// What a campaign allows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// Lists may leave out what is there and show what is not.
    pub(crate) lists_lie: bool,
}

pub(crate) struct Player {
    number: u64,
    dice: Dice,
    rules: Rules,
    storage: Storage,
    proxy: Arc<FaultProxy>,
    contest: Arc<Contest>,
    own: Vec<Own>,
    attempts: Attempt,
    pub(crate) done: u64,
    pub(crate) failed: u64,
}

impl Player {
    pub(crate) fn new(
        number: u64,
        seed: u64,
        rules: Rules,
        storage: Storage,
        proxy: Arc<FaultProxy>,
        contest: Arc<Contest>,
    ) -> Player {
        let own = (0..KEYS).map(|key| Own::new(format!("own/{number}/{key}"))).collect();
        let dice = Dice::new(seed.wrapping_mul(1000) + number);
        // Numbers of attempts are unique among all players.
        let attempts = number << 40;
        Player { number, dice, rules, storage, proxy, contest, own, attempts, done: 0, failed: 0 }
    }

    pub(crate) fn keys(&self) -> usize {
        self.own.len()
    }

    pub(crate) async fn play(mut self, operations: u64) -> Player {
        for turn in 0..operations {
            let at = usize::try_from(self.dice.below(KEYS)).unwrap();
            let ended = match self.dice.below(20) {
                0..5 => self.create(at).await,
                5..8 => self.get(at).await,
                8..11 => self.get_range(at).await,
                11..13 => self.head(at).await,
                13..15 => self.delete(at).await,
                15 => self.delete_many(at).await,
                16 => self.list().await,
                _ => self.contend(turn / ROUND).await,
            };
            match ended {
                Ok(()) => self.done += 1,
                Err(error) => {
                    assert!(may_fail(&error), "no fault makes this: {error:?}");
                    self.failed += 1;
                }
            }
        }
        self
    }

    /// The key, with all that the network did to it so far taken in. To be asked for after an operation.
    fn key(&mut self, at: usize) -> &mut Own {
        let own = &mut self.own[at];
        own.weather(Weather { late: self.proxy.was_late(&own.key), slow: self.proxy.was_slow(&own.key) });
        own
    }

    fn name(&self, at: usize) -> String {
        self.own[at].key.clone()
    }

    async fn create(&mut self, at: usize) -> Result<(), StorageError> {
        self.attempts += 1;
        let (key, attempt) = (self.name(at), self.attempts);
        self.own[at].begins(attempt);
        let result = self.storage.create(&key, Payload::from(content(attempt))).await;
        let own = self.key(at);
        match result {
            Ok(()) => own.created(attempt),
            Err(error) if error.kind == StorageErrorKind::AlreadyExists => own.taken(attempt),
            Err(error) => {
                own.unsure(attempt);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn get(&mut self, at: usize) -> Result<(), StorageError> {
        let result = self.storage.get(&self.name(at)).await;
        let own = self.key(at);
        match result {
            Ok(bytes) => own.read(&bytes),
            Err(error) if error.is_not_found() => own.absent(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn get_range(&mut self, at: usize) -> Result<(), StorageError> {
        let Some((_, expected)) = self.own[at].contents().into_iter().next() else { return self.get(at).await };
        let start = self.dice.below(expected.len() as u64);
        let end = start + 1 + self.dice.below(expected.len() as u64 - start);
        let result = self.storage.get_range(&self.name(at), start..end).await;
        let own = self.key(at);
        let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        match result {
            Ok(bytes) => {
                let fits = own.contents().iter().any(|(_, content)| content.get(range.clone()) == Some(&bytes[..]));
                assert!(fits, "wrong bytes {start} to {end}: {own:?}");
            }
            Err(error) if error.is_not_found() => own.absent(),
            Err(error) if error.kind == StorageErrorKind::Corrupt => {
                let shorter = own.contents().iter().any(|(_, content)| (content.len() as u64) < end);
                assert!(shorter, "nothing possible is that short: {own:?}");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn head(&mut self, at: usize) -> Result<(), StorageError> {
        let result = self.storage.head(&self.name(at)).await;
        let own = self.key(at);
        match result {
            Ok(meta) => own.has_size(meta.size),
            Err(error) if error.is_not_found() => own.absent(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn delete(&mut self, at: usize) -> Result<(), StorageError> {
        let result = self.storage.delete(&self.name(at)).await;
        match &result {
            Ok(()) => self.own[at].deleted(),
            Err(_) => self.own[at].perhaps_deleted(),
        }
        self.key(at);
        result
    }

    async fn delete_many(&mut self, at: usize) -> Result<(), StorageError> {
        let both = [at, (at + 1) % self.own.len()];
        let results = self.storage.delete_many(&both.map(|at| self.name(at))).await;
        assert_eq!(results.len(), both.len());
        for (at, result) in both.into_iter().zip(&results) {
            match result {
                Ok(()) => self.own[at].deleted(),
                Err(_) => self.own[at].perhaps_deleted(),
            }
            self.key(at);
        }
        results.into_iter().collect()
    }

    async fn list(&mut self) -> Result<(), StorageError> {
        let prefix = format!("own/{}/", self.number);
        let listed: Vec<ObjectMeta> = self.storage.list(&prefix).try_collect().await?;
        assert!(listed.is_sorted_by(|one, next| one.key < next.key), "{listed:?}");
        for at in 0..self.own.len() {
            let own = self.key(at);
            let found = listed.iter().find(|meta| meta.key == own.key).map(|meta| meta.size);
            if self.rules.lists_lie {
                continue;
            }
            match found {
                Some(size) => self.key(at).has_size(size),
                None => self.key(at).absent(),
            }
        }
        assert!(listed.iter().all(|meta| self.own.iter().any(|own| own.key == meta.key)), "{listed:?}");
        Ok(())
    }

    /// Creates or reads what all players want.
    async fn contend(&mut self, round: u64) -> Result<(), StorageError> {
        let key = format!("all/{round}");
        let decided = self.contest.is_decided(&key);
        if self.dice.below(2) == 0 {
            self.attempts += 1;
            let attempt = self.attempts;
            self.contest.begins(&key, attempt);
            match self.storage.create(&key, Payload::from(content(attempt))).await {
                Ok(()) => self.contest.won(&key, attempt),
                Err(error) if error.kind == StorageErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            return Ok(());
        }
        match self.storage.get(&key).await {
            Ok(bytes) => self.contest.read(&key, &bytes),
            Err(error) if error.is_not_found() => assert!(!decided, "lost: {key}"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Looks at all own keys without faults.
    pub(crate) async fn settle(&mut self, direct: &Storage) {
        for at in 0..self.own.len() {
            let result = direct.get(&self.name(at)).await;
            let own = self.key(at);
            match result {
                Ok(bytes) => own.read(&bytes),
                Err(error) if error.is_not_found() => own.absent(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Whether the faults of the proxy can be the cause.
fn may_fail(error: &StorageError) -> bool {
    error.is_transient() || matches!(error.kind, StorageErrorKind::Corrupt | StorageErrorKind::Other)
}
