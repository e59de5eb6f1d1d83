//! A backend that fails on command: for tests of everything that must survive a bad place.

mod rule;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

pub use rule::{Effect, Rule, RuleHandle};

use crate::{
    Backend, Features, Listing, ObjectMeta, Operation, Payload, Placement, Protection, Retention, StorageError,
    StorageErrorKind, Thaw, Tier,
};

/// A backend over another that does what its rules say. Rules are asked in the order in which they were added; every one
/// that meets an operation has its effect. A clone shares the rules.
#[derive(Clone, Debug)]
pub struct Fault {
    inner: Arc<dyn Backend>,
    control: Arc<Control>,
}

#[derive(Debug)]
struct Control {
    reachable: AtomicBool,
    rules: Mutex<Vec<(Rule, Effect, RuleHandle)>>,
}

impl Fault {
    /// `inner`, without faults so far.
    pub fn new(inner: Arc<dyn Backend>) -> Fault {
        let control = Control { reachable: AtomicBool::new(true), rules: Mutex::new(Vec::new()) };
        Fault { inner, control: Arc::new(control) }
    }

    /// From now on, does `effect` to operations that `rule` meets.
    pub fn add(&self, rule: Rule, effect: Effect) -> RuleHandle {
        let handle = RuleHandle::new();
        let mut rules = self.control.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.push((rule, effect, handle.clone()));
        handle
    }

    /// Switches the whole place off and on. Off, every operation is `Unreachable`, also one that a rule held until then.
    pub fn set_reachable(&self, reachable: bool) {
        self.control.reachable.store(reachable, Ordering::SeqCst);
    }

    /// Removes all rules, lets go what they hold, and makes the place reachable.
    pub fn heal(&self) {
        let rules = std::mem::take(&mut *self.control.rules.lock().unwrap_or_else(PoisonError::into_inner));
        self.set_reachable(true);
        for (_, _, handle) in rules {
            handle.remove();
        }
    }

    /// The effects on this operation, each with its rule.
    fn effects(&self, operation: Operation, key: &str) -> Vec<(Effect, RuleHandle)> {
        let mut rules = self.control.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|(_, _, handle)| !*handle.state.removed.borrow());
        let mut effects = Vec::new();
        for (rule, effect, handle) in rules.iter().filter(|(rule, _, _)| rule.concerns(operation, key)) {
            let mut number = 0;
            handle.state.seen.send_modify(|seen| {
                *seen += 1;
                number = *seen;
            });
            if rule.meets(number) {
                handle.state.hits.send_modify(|hits| *hits += 1);
                effects.push((effect.clone(), handle.clone()));
            }
        }
        effects
    }

    /// Does what comes before the operation, and answers what comes after it.
    async fn before(&self, operation: Operation, key: &str) -> Result<After, StorageError> {
        let mut after = After::default();
        for (effect, handle) in self.effects(operation, key) {
            match effect {
                Effect::Fail(kind) => return Err(self.error(kind, operation, key)),
                Effect::Throttle(asked) => {
                    return Err(self.error(StorageErrorKind::Throttled, operation, key).after(Some(asked)));
                }
                Effect::ApplyThenFail(kind) => after.failure = Some(self.error(kind, operation, key)),
                Effect::Delay(duration) => tokio::time::sleep(duration).await,
                Effect::Hold => {
                    let mut released = handle.state.released.subscribe();
                    released.wait_for(|released| *released).await.expect("the handle keeps the sender");
                }
                Effect::Hang => std::future::pending::<()>().await,
                Effect::Truncate(length) => after.length = Some(length),
                Effect::Flip { offset, mask } => after.flip = Some((offset, mask)),
                Effect::BreakList(count) => after.break_list = Some(count),
                Effect::Hide(prefix) => after.hidden.push(prefix),
            }
        }
        if self.control.reachable.load(Ordering::SeqCst) {
            Ok(after)
        } else {
            Err(self.error(StorageErrorKind::Unreachable, operation, key))
        }
    }

    fn error(&self, kind: StorageErrorKind, operation: Operation, key: &str) -> StorageError {
        StorageError::new(kind, operation, self.location(), key).because("injected fault")
    }
}

/// What is done to an answer.
#[derive(Default)]
struct After {
    failure: Option<StorageError>,
    length: Option<usize>,
    flip: Option<(usize, u8)>,
    break_list: Option<usize>,
    hidden: Vec<String>,
}

impl After {
    fn answer<T>(self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        match self.failure {
            Some(failure) => result.and(Err(failure)),
            None => result,
        }
    }

    fn spoil(&self, content: Bytes) -> Bytes {
        let mut content = BytesMut::from(content);
        if let Some(length) = self.length {
            content.truncate(length);
        }
        if let Some((offset, mask)) = self.flip
            && !content.is_empty()
        {
            let at = offset % content.len();
            content[at] ^= mask;
        }
        content.freeze()
    }
}

#[async_trait]
impl Backend for Fault {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn may_lose_answers(&self) -> bool {
        self.inner.may_lose_answers()
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let after = self.before(Operation::Create, key).await?;
        after.answer(self.inner.create(key, payload, placement).await)
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        let after = self.before(Operation::Get, key).await?;
        let content = self.inner.get(key).await.map(|content| after.spoil(content));
        after.answer(content)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let after = self.before(Operation::GetRange, key).await?;
        let content = self.inner.get_range(key, range).await.map(|content| after.spoil(content));
        after.answer(content)
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let after = self.before(Operation::GetTail, key).await?;
        let content = self.inner.get_tail(key, length).await.map(|(content, size)| (after.spoil(content), size));
        after.answer(content)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let after = self.before(Operation::Head, key).await?;
        after.answer(self.inner.head(key).await)
    }

    fn list(&self, prefix: &str) -> Listing {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        futures::stream::once(async move {
            let after = match this.before(Operation::List, &prefix).await {
                Ok(after) => after,
                Err(error) => return futures::stream::once(async { Err(error) }).boxed(),
            };
            let hidden = after.hidden;
            let listing = this.inner.list(&prefix).filter(move |item| {
                let is_hidden = |meta: &ObjectMeta| hidden.iter().any(|hidden| meta.key.starts_with(hidden));
                let keep = !item.as_ref().is_ok_and(is_hidden);
                async move { keep }
            });
            match (after.break_list, after.failure) {
                (Some(count), _) => {
                    let error = this.error(StorageErrorKind::Unreachable, Operation::List, &prefix);
                    listing.take(count).chain(futures::stream::once(async { Err(error) })).boxed()
                }
                (None, Some(failure)) => listing.chain(futures::stream::once(async { Err(failure) })).boxed(),
                (None, None) => listing.boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let after = self.before(Operation::ListDirectories, prefix).await?;
        let hidden = |name: &String| after.hidden.contains(&format!("{prefix}{name}/"));
        let names = self.inner.list_directories(prefix).await.map(|mut names| {
            names.retain(|name| !hidden(name));
            names
        });
        after.answer(names)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let after = self.before(Operation::Delete, key).await?;
        after.answer(self.inner.delete(key).await)
    }

    async fn delete_many(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            // One by one, so that a rule can meet a single key.
            let result = match self.before(Operation::DeleteMany, key).await {
                Ok(after) => after.answer(self.inner.delete(key).await),
                Err(error) => Err(error),
            };
            results.push(result);
        }
        results
    }

    async fn features(&self) -> Result<Features, StorageError> {
        let after = self.before(Operation::Features, "").await?;
        after.answer(self.inner.features().await)
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        let after = self.before(Operation::Protection, key).await?;
        after.answer(self.inner.protection(key).await)
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        let after = self.before(Operation::Retain, key).await?;
        after.answer(self.inner.retain(key, retention).await)
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        let after = self.before(Operation::Hold, key).await?;
        after.answer(self.inner.hold(key, held).await)
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        let after = self.before(Operation::SetTier, key).await?;
        after.answer(self.inner.set_tier(key, tier).await)
    }

    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        let after = self.before(Operation::Thaw, key).await?;
        after.answer(self.inner.thaw(key, thaw).await)
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::Storage;

    fn faulty() -> (Fault, Storage) {
        let fault = Fault::new(Storage::memory().backend());
        (fault.clone(), Storage::new(Arc::new(fault)))
    }

    fn payload() -> Payload {
        Payload::from(b"abcdef".as_slice())
    }

    #[tokio::test]
    async fn rules_choose_by_operation_prefix_and_number() {
        let (fault, storage) = faulty();
        let rule = fault.add(Rule::on(Operation::Create).prefix("data/").nth(2), Effect::Fail(StorageErrorKind::Full));
        storage.create("data/1", payload()).await.unwrap();
        storage.create("meta/1", payload()).await.unwrap();
        assert_eq!(storage.create("data/2", payload()).await.unwrap_err().kind, StorageErrorKind::Full);
        assert!(!storage.exists("data/2").await.unwrap(), "a failed create was not carried out");
        storage.create("data/2", payload()).await.unwrap();
        assert_eq!(rule.hits(), 1);
        fault.add(Rule::on_all().from(2), Effect::Fail(StorageErrorKind::Denied));
        storage.get("data/1").await.unwrap();
        storage.get("data/1").await.unwrap_err();
        storage.head("data/1").await.unwrap_err();
        fault.heal();
        storage.head("data/1").await.unwrap();
    }

    #[tokio::test]
    async fn an_applied_create_may_answer_an_error() {
        let (fault, storage) = faulty();
        fault.add(Rule::on(Operation::Create), Effect::ApplyThenFail(StorageErrorKind::Unreachable));
        assert_eq!(storage.create("a", payload()).await.unwrap_err().kind, StorageErrorKind::Unreachable);
        assert_eq!(storage.get("a").await.unwrap(), "abcdef");
    }

    #[tokio::test]
    async fn a_held_operation_waits_for_its_release() {
        let (fault, storage) = faulty();
        let rule = fault.add(Rule::on(Operation::Create), Effect::Hold);
        let task = tokio::spawn({
            let storage = storage.clone();
            async move { storage.create("a", payload()).await }
        });
        rule.reached(1).await;
        assert!(!storage.exists("a").await.unwrap());
        rule.release();
        task.await.unwrap().unwrap();
        assert!(storage.exists("a").await.unwrap());
    }

    #[tokio::test]
    async fn answers_can_lie() {
        let (fault, storage) = faulty();
        for key in ["a/1", "a/2", "b/1"] {
            storage.create(key, payload()).await.unwrap();
        }
        fault.add(Rule::on(Operation::Get), Effect::Flip { offset: 1, mask: 1 });
        fault.add(Rule::on(Operation::GetRange), Effect::Truncate(2));
        fault.add(Rule::on(Operation::List), Effect::Hide("a/1".to_owned()));
        assert_eq!(storage.get("a/1").await.unwrap(), "accdef");
        assert_eq!(storage.get_range("a/1", 0..5).await.unwrap(), "ab");
        let keys: Vec<_> = storage.list("").map_ok(|meta| meta.key).try_collect().await.unwrap();
        assert_eq!(keys, ["a/2", "b/1"]);
        fault.add(Rule::on(Operation::List), Effect::BreakList(1));
        let mut listing = storage.list("");
        assert_eq!(listing.try_next().await.unwrap().unwrap().key, "a/2");
        assert_eq!(listing.try_next().await.unwrap_err().kind, StorageErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn the_switch_stops_everything() {
        let (fault, storage) = faulty();
        storage.create("a", payload()).await.unwrap();
        fault.set_reachable(false);
        let unreachable = |error: StorageError| assert_eq!(error.kind, StorageErrorKind::Unreachable);
        unreachable(storage.create("b", payload()).await.unwrap_err());
        unreachable(storage.get("a").await.unwrap_err());
        unreachable(storage.get_tail("a", 1).await.unwrap_err());
        unreachable(storage.exists("a").await.unwrap_err());
        unreachable(storage.list("").try_next().await.unwrap_err());
        unreachable(storage.list_directories("").await.unwrap_err());
        unreachable(storage.delete("a").await.unwrap_err());
        fault.set_reachable(true);
        assert!(storage.exists("a").await.unwrap());
    }
}
