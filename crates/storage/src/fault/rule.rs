//! Which operations a fault meets, and what it does to them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::{Operation, StorageErrorKind};

/// Which operations are met: of one kind or any, below a prefix, and which of them in order.
#[derive(Clone, Debug)]
pub struct Rule {
    operation: Option<Operation>,
    prefix: String,
    times: Times,
}

#[derive(Clone, Copy, Debug)]
enum Times {
    Always,
    First(u64),
    Nth(u64),
    From(u64),
}

impl Rule {
    /// Meets every operation of this kind.
    pub fn on(operation: Operation) -> Rule {
        Rule { operation: Some(operation), prefix: String::new(), times: Times::Always }
    }

    /// Meets operations of every kind.
    pub fn on_all() -> Rule {
        Rule { operation: None, prefix: String::new(), times: Times::Always }
    }

    /// Of those, meets only what is asked of keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Rule {
        Rule { prefix: prefix.to_owned(), ..self }
    }

    /// Of those, meets only the first `count`.
    #[must_use]
    pub fn first(self, count: u64) -> Rule {
        Rule { times: Times::First(count), ..self }
    }

    /// Of those, meets only number `number`; the first is 1.
    #[must_use]
    pub fn nth(self, number: u64) -> Rule {
        Rule { times: Times::Nth(number), ..self }
    }

    /// Of those, meets number `number` and all after it; the first is 1.
    #[must_use]
    pub fn from(self, number: u64) -> Rule {
        Rule { times: Times::From(number), ..self }
    }

    pub(super) fn concerns(&self, operation: Operation, key: &str) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation) && key.starts_with(&self.prefix)
    }

    pub(super) fn meets(&self, number: u64) -> bool {
        match self.times {
            Times::Always => true,
            Times::First(count) => number <= count,
            Times::Nth(wanted) => number == wanted,
            Times::From(first) => number >= first,
        }
    }
}

/// What happens to an operation that a rule meets.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It fails and is not carried out.
    Fail(StorageErrorKind),
    /// It is carried out, and the answer is a failure all the same.
    ApplyThenFail(StorageErrorKind),
    /// It is `Throttled`, is not carried out, and asks to be left alone this long.
    Throttle(Duration),
    /// It waits this long, then goes on.
    Delay(Duration),
    /// It waits for [`RuleHandle::release`], then goes on.
    Hold,
    /// It never answers.
    Hang,
    /// What is read has at most this many bytes, and is answered as if it were right.
    Truncate(usize),
    /// What is read has this byte changed: the one at `offset`, counted round when there are fewer, is XORed with `mask`.
    Flip {
        /// Which byte.
        offset: usize,
        /// Which bits of it.
        mask: u8,
    },
    /// A list ends with `Unreachable` after this many objects.
    BreakList(usize),
    /// A list leaves out objects whose key begins with this, and claims to be whole.
    Hide(String),
}

/// A rule that was added: to see whether it was met, to let go what it holds, and to remove it.
#[derive(Clone, Debug)]
pub struct RuleHandle {
    pub(super) state: Arc<RuleState>,
}

#[derive(Debug)]
pub(super) struct RuleState {
    /// Operations that the rule concerned.
    pub(super) seen: watch::Sender<u64>,
    /// Operations that the rule met.
    pub(super) hits: watch::Sender<u64>,
    pub(super) released: watch::Sender<bool>,
    pub(super) removed: watch::Sender<bool>,
}

impl RuleHandle {
    pub(super) fn new() -> RuleHandle {
        let state = RuleState {
            seen: watch::Sender::new(0),
            hits: watch::Sender::new(0),
            released: watch::Sender::new(false),
            removed: watch::Sender::new(false),
        };
        RuleHandle { state: Arc::new(state) }
    }

    /// How many operations the rule met so far.
    pub fn hits(&self) -> u64 {
        *self.state.hits.borrow()
    }

    /// Waits until the rule has met `count` operations.
    pub async fn reached(&self, count: u64) {
        let mut hits = self.state.hits.subscribe();
        hits.wait_for(|hits| *hits >= count).await.expect("the handle keeps the sender");
    }

    /// Lets the operations that [`Effect::Hold`] holds go on, and those to come.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Ends the rule; what it holds goes on.
    pub fn remove(&self) {
        self.state.removed.send_replace(true);
        self.release();
    }
}
