//! A watch of the embedded store: reads the log from where it is, waits for the next revision, and so on.
//!
//! Nothing is queued per watcher, so a slow one costs no memory; it falls behind until what it needs is compacted, and
//! then hears so.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use futures::stream;

use super::{Inner, blocking};
use crate::error::StateError;
use crate::store::{Revision, WatchBatch, WatchStream};

struct Watch {
    /// Weak, so that a forgotten watch does not keep the file open.
    store: Weak<Inner>,
    name: String,
    newest: tokio::sync::watch::Receiver<u64>,
    prefix: Arc<str>,
    /// The first revision that was not read yet.
    next: u64,
    ready: VecDeque<WatchBatch>,
    ended: bool,
}

/// Watches `prefix` from revision `from` on.
pub(super) fn open(store: &Arc<Inner>, prefix: String, from: Revision) -> WatchStream {
    let watch = Watch {
        store: Arc::downgrade(store),
        name: store.name.clone(),
        newest: store.newest.subscribe(),
        prefix: prefix.into(),
        next: from.max(Revision::FIRST).0,
        ready: VecDeque::new(),
        ended: false,
    };
    Box::pin(stream::unfold(watch, |mut watch| async move {
        if watch.ended {
            return None;
        }
        let item = watch.item().await;
        watch.ended = item.is_err();
        Some((item, watch))
    }))
}

impl Watch {
    async fn item(&mut self) -> Result<WatchBatch, StateError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let newest = *self.newest.borrow_and_update();
            if newest >= self.next {
                let store = self.store.upgrade().ok_or_else(|| self.closed())?;
                let (prefix, next) = (self.prefix.clone(), self.next);
                let (batches, next) = blocking("reading changes", move || store.history.changes(&prefix, next)).await?;
                self.ready.extend(batches);
                self.next = next;
            } else if self.newest.changed().await.is_err() {
                return Err(self.closed());
            }
        }
    }

    fn closed(&self) -> StateError {
        StateError::Unavailable { store: self.name.clone(), what: "it was closed".to_owned(), cause: None }
    }
}
