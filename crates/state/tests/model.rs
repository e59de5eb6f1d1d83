//! Random transactions against the embedded store and against a naive model that keeps every revision as a whole map.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::collections::{BTreeMap, BTreeSet};

use breakwater_state::{Condition, EmbeddedStore, Entry, Event, Op, Revision, StateError, StateStore, Txn};
use bytes::Bytes;
use futures::StreamExt as _;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

/// Few keys, so that steps meet; one is the beginning of another, one holds the lowest character.
const KEYS: [&str; 6] = ["a", "a\u{1}", "a/1", "a/2", "b", "ä"];
const PREFIXES: [&str; 4] = ["", "a", "a/", "c"];

/// One thing that a client may do.
#[derive(Clone, Debug)]
enum Step {
    Txn { conditions: Vec<(usize, Kind, bool)>, ops: Vec<(usize, Change)> },
    Range { prefix: usize, back: u64, limit: usize, after: Option<usize> },
    Watch { prefix: usize, back: u64 },
    Compact { back: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Exists,
    Absent,
    Revision,
    Created,
    Value,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Put(u8),
    Delete,
    Get,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let kind = prop_oneof![
        Just(Kind::Exists),
        Just(Kind::Absent),
        Just(Kind::Revision),
        Just(Kind::Created),
        Just(Kind::Value)
    ];
    let change = prop_oneof![3 => any::<u8>().prop_map(Change::Put), 2 => Just(Change::Delete), 1 => Just(Change::Get)];
    let conditions = proptest::collection::vec((key.clone(), kind, proptest::bool::weighted(0.85)), 0..3);
    let ops = proptest::collection::vec((key.clone(), change), 0..5);
    let prefix = 0..PREFIXES.len();
    let step = prop_oneof![
        6 => (conditions, ops).prop_map(|(conditions, ops)| Step::Txn { conditions, ops }),
        2 => (prefix.clone(), 0..12_u64, 1..5_usize, proptest::option::of(key))
            .prop_map(|(prefix, back, limit, after)| Step::Range { prefix, back, limit, after }),
        1 => (prefix, 0..12_u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0..12_u64).prop_map(|back| Step::Compact { back }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The whole content at each revision, the first of which is number 1, and the oldest that may be asked for.
#[derive(Debug)]
struct Model {
    revisions: Vec<BTreeMap<String, Entry>>,
    oldest: u64,
}

impl Model {
    fn newest(&self) -> u64 {
        self.revisions.len() as u64
    }

    fn at(&self, revision: u64) -> &BTreeMap<String, Entry> {
        &self.revisions[usize::try_from(revision).unwrap() - 1]
    }

    fn now(&self) -> &BTreeMap<String, Entry> {
        self.at(self.newest())
    }

    /// A condition that is true now if `truth` says so, as far as its kind allows.
    fn condition(&self, key: &str, kind: Kind, truth: bool) -> Condition {
        let (name, held) = (key.to_owned(), self.now().get(key));
        let off = u64::from(!truth);
        match kind {
            Kind::Exists => Condition::Exists(name),
            Kind::Absent => Condition::Absent(name),
            Kind::Revision => Condition::RevisionIs(name, Revision(held.map_or(0, |held| held.revision.0) + off)),
            Kind::Created => Condition::CreatedAt(name, Revision(held.map_or(0, |held| held.created.0) + off)),
            Kind::Value => {
                let value = held.map(|held| held.value.clone()).filter(|_| truth);
                Condition::ValueIs(name, value.unwrap_or(Bytes::from_static(b"other")))
            }
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        let held = self.now().get(condition.key());
        match condition {
            Condition::Exists(_) => held.is_some(),
            Condition::Absent(_) => held.is_none(),
            Condition::RevisionIs(_, revision) => held.map_or(0, |held| held.revision.0) == revision.0,
            Condition::CreatedAt(_, revision) => held.map_or(0, |held| held.created.0) == revision.0,
            Condition::ValueIs(_, value) => held.is_some_and(|held| held.value == *value),
        }
    }

    /// Runs a transaction; what its reads found.
    fn run(&mut self, txn: &Txn) -> (bool, Vec<Option<Entry>>) {
        let succeeded = txn.conditions.iter().all(|condition| self.holds(condition));
        let mut map = self.now().clone();
        let revision = Revision(self.newest() + 1);
        let mut found = Vec::new();
        let mut changed = false;
        for op in if succeeded { &txn.then } else { &txn.otherwise } {
            match op {
                Op::Put { key, value, .. } => {
                    let (created, version) =
                        map.get(key).map_or((revision, 1), |held| (held.created, held.version + 1));
                    let entry = Entry { key: key.clone(), value: value.clone(), revision, created, version };
                    map.insert(key.clone(), entry);
                    changed = true;
                }
                Op::Delete { key } => changed |= map.remove(key).is_some(),
                Op::Get { key } => found.push(map.get(key).cloned()),
            }
        }
        if changed {
            self.revisions.push(map);
        }
        (succeeded, found)
    }

    /// The changes from `from` on, by comparing each revision with the one before.
    fn changes(&self, prefix: &str, from: u64) -> Vec<(u64, Vec<Event>)> {
        let mut all = Vec::new();
        for revision in from.max(2)..=self.newest() {
            let (before, after) = (self.at(revision - 1), self.at(revision));
            let keys: BTreeSet<_> = before.keys().chain(after.keys()).filter(|key| key.starts_with(prefix)).collect();
            let events: Vec<_> = keys
                .into_iter()
                .filter(|key| before.get(*key) != after.get(*key))
                .map(|key| match after.get(key) {
                    Some(entry) => Event::Put(entry.clone()),
                    None => Event::Delete { key: key.clone(), revision: Revision(revision) },
                })
                .collect();
            if !events.is_empty() {
                all.push((revision, events));
            }
        }
        all
    }
}

fn txn_of(model: &Model, conditions: &[(usize, Kind, bool)], ops: &[(usize, Change)]) -> Txn {
    let mut txn = Txn::new();
    for (key, kind, truth) in conditions {
        txn = txn.when(model.condition(KEYS[*key], *kind, *truth)).or_get(KEYS[*key]);
    }
    let mut written = BTreeSet::new();
    for (key, change) in ops {
        let name = KEYS[*key];
        txn = match change {
            Change::Get => txn.get(name),
            _ if !written.insert(name) => txn,
            Change::Put(value) => txn.put(name, value.to_string()),
            Change::Delete => txn.delete(name),
        };
    }
    txn
}

async fn check(steps: Vec<Step>) {
    let store = EmbeddedStore::in_memory().await.unwrap();
    let mut model = Model { revisions: vec![BTreeMap::new()], oldest: 1 };
    for step in steps {
        let back = |by: u64| model.newest().saturating_sub(by).max(1);
        match step {
            Step::Txn { conditions, ops } => {
                let txn = txn_of(&model, &conditions, &ops);
                let (succeeded, found) = model.run(&txn);
                let outcome = store.txn(txn).await.unwrap();
                assert_eq!((outcome.succeeded, outcome.entries), (succeeded, found));
                assert_eq!(outcome.revision.0, model.newest());
            }
            Step::Range { prefix, back: by, limit, after } => {
                let (at, prefix, after) = (back(by), PREFIXES[prefix], after.map(|after| KEYS[after]));
                let result = store.range(prefix, Some(Revision(at)), limit, after).await;
                if at < model.oldest {
                    let oldest = Revision(model.oldest);
                    assert!(matches!(result, Err(StateError::Compacted { oldest: kept }) if kept == oldest));
                    continue;
                }
                let page = result.unwrap();
                let all = model.at(at).values().filter(|entry| entry.key.starts_with(prefix));
                let all: Vec<_> = all.filter(|entry| after.is_none_or(|after| entry.key.as_str() > after)).collect();
                assert_eq!(
                    page.entries.iter().collect::<Vec<_>>(),
                    all.iter().take(limit).copied().collect::<Vec<_>>()
                );
                assert_eq!((page.more, page.revision.0), (all.len() > limit, at));
            }
            Step::Watch { prefix, back: by } => {
                let (from, prefix) = (back(by), PREFIXES[prefix]);
                let mut watch = store.watch(prefix, Revision(from)).await.unwrap();
                if from < model.oldest {
                    assert!(matches!(watch.next().await, Some(Err(StateError::Compacted { .. }))));
                    continue;
                }
                for (revision, mut events) in model.changes(prefix, from) {
                    let mut batch = watch.next().await.unwrap().unwrap();
                    assert_eq!(batch.revision.0, revision);
                    batch.events.sort_by_key(|event| event.key().to_owned());
                    events.sort_by_key(|event| event.key().to_owned());
                    assert_eq!(batch.events, events);
                }
            }
            Step::Compact { back: by } => {
                let oldest = back(by);
                store.compact(Revision(oldest)).await.unwrap();
                model.oldest = model.oldest.max(oldest);
            }
        }
        for key in KEYS {
            assert_eq!(store.get(key).await.unwrap().as_ref(), model.now().get(key));
        }
        assert_eq!(store.revision().await.unwrap().0, model.newest());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(steps));
    }
}
