//! A watch of etcd that outlives its connections: it remembers which revision it delivered last and goes on after it.

use std::time::Duration;

use breakwater_core::Chain;
use etcd_client::{EventType, WatchOptions, WatchResponse};
use futures::stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer::{Failure, entry_of, key_of, revision_of, wire};
use super::{EtcdStore, REQUEST_TIMEOUT, RETRY_PAUSE, end_of};
use crate::error::StateError;
use crate::store::{Event, Revision, StateStore as _, WatchBatch, WatchStream};

/// How many batches may wait for the reader before etcd has to.
const QUEUE: usize = 64;

/// The longest pause between two tries to connect.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Why a connection's turn ended.
enum End {
    /// Try again from where we are.
    Broken(Failure),
    /// The reader went away.
    Unread,
    /// Nothing more can come.
    Final(StateError),
}

impl From<StateError> for End {
    fn from(error: StateError) -> Self {
        End::Final(error)
    }
}

struct Watch {
    store: EtcdStore,
    /// With the store's prefix.
    prefix: String,
    /// The first revision that was not delivered yet.
    next: Revision,
    /// The newest revision that this watch heard of.
    seen: Revision,
    out: mpsc::Sender<Result<WatchBatch, StateError>>,
}

/// Watches the keys that begin with `prefix` (in its full form) from revision `from` on.
pub(super) fn open(store: EtcdStore, prefix: String, from: Revision) -> WatchStream {
    let (out, mut batches) = mpsc::channel(QUEUE);
    let watch = Watch { store, prefix, next: from.max(Revision::FIRST), seen: Revision(0), out };
    // Ends when the receiver below is dropped.
    tokio::spawn(watch.run());
    Box::pin(stream::poll_fn(move |cx| batches.poll_recv(cx)))
}

impl Watch {
    async fn run(mut self) {
        let mut pause = RETRY_PAUSE;
        loop {
            let before = self.next;
            let failure = match self.follow().await {
                End::Unread => return,
                End::Final(error) => {
                    // A reader that is gone does not need the error.
                    self.out.send(Err(error)).await.ok();
                    return;
                }
                End::Broken(failure) => failure,
            };
            if self.next > before {
                pause = RETRY_PAUSE;
            }
            tracing::debug!(store = %self.store.name, prefix = %self.prefix, next = %self.next, failure = %failure,
                "a watch lost its connection and tries again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.out.closed() => return,
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Delivers what one connection brings.
    async fn follow(&mut self) -> End {
        match self.try_follow().await {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn try_follow(&mut self) -> Result<std::convert::Infallible, End> {
        self.check_not_set_back().await?;
        let start = before(self.next);
        let mut stream = start_watch(&self.store, &self.prefix, start).await.map_err(|failure| self.judge(failure))?;
        let mut created = false;
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.out.closed() => return Err(End::Unread),
                () = tokio::time::sleep(REQUEST_TIMEOUT), if !created => return Err(End::Broken(Failure::silence())),
            };
            let answer = match message {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(End::Broken(Failure::cancelled("the member closed the watch"))),
                Err(error) => return Err(self.too_large_or(Failure::of(error)).await),
            };
            if answer.canceled() {
                if answer.compact_revision() > 0 {
                    // The deletes at the compacted revision itself may be lost, see `EtcdStore::compact`.
                    let oldest = revision_of(answer.compact_revision()).next();
                    return Err(End::Final(StateError::Compacted { oldest }));
                }
                return Err(self.judge(Failure::cancelled(answer.cancel_reason())));
            }
            if answer.created() {
                created = true;
            } else {
                self.deliver(&answer).await?;
            }
        }
    }

    /// Sends the batches of one message on.
    async fn deliver(&mut self, answer: &WatchResponse) -> Result<(), End> {
        let mut batches: Vec<WatchBatch> = Vec::new();
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = revision_of(kv.mod_revision());
            if revision < self.next {
                continue;
            }
            let event = match event.event_type() {
                EventType::Put => Event::Put(entry_of(&self.store.name, &self.store.prefix, kv)?),
                EventType::Delete => Event::Delete { key: key_of(&self.store.name, &self.store.prefix, kv)?, revision },
            };
            match batches.last_mut().filter(|batch| batch.revision == revision) {
                Some(batch) => batch.events.push(event),
                None => batches.push(WatchBatch { revision, events: vec![event] }),
            }
        }
        for batch in batches {
            let revision = batch.revision;
            self.out.send(Ok(batch)).await.map_err(|_| End::Unread)?;
            self.next = revision.next();
            self.seen = self.seen.max(revision);
        }
        if answer.events().is_empty() {
            // A progress report: everything up to its revision was delivered, so a later reconnect need not begin
            // where a quiet prefix last changed, which may be compacted by then.
            let reached = answer.header().map_or(Revision(0), |header| revision_of(header.revision()));
            self.next = self.next.max(reached.next());
            self.seen = self.seen.max(reached);
        }
        Ok(())
    }

    /// A cluster that was restored from an older copy would leave this watch waiting for revisions that mean something
    /// else when they come.
    async fn check_not_set_back(&self) -> Result<(), End> {
        if self.seen == Revision(0) {
            return Ok(());
        }
        let newest = match self.store.revision().await {
            Ok(newest) => newest,
            Err(error @ (StateError::Denied { .. } | StateError::Invalid { .. })) => return Err(End::Final(error)),
            Err(error) => return Err(End::Broken(Failure::cancelled(&Chain(&error).to_string()))),
        };
        if newest < self.seen {
            return Err(End::Final(StateError::Corrupt {
                store: self.store.name.clone(),
                what: format!("it is at revision {newest}, but was at {} before", self.seen),
                cause: None,
            }));
        }
        Ok(())
    }

    fn judge(&self, failure: Failure) -> End {
        if failure.is_denied() {
            End::Final(failure.into_error(&self.store.name, "watching keys"))
        } else {
            End::Broken(failure)
        }
    }

    /// A message too large to take holds more history than is worth replaying: the reader lists again instead.
    async fn too_large_or(&self, failure: Failure) -> End {
        if !failure.is_too_large() {
            return self.judge(failure);
        }
        match self.store.revision().await {
            Ok(newest) => End::Final(StateError::Compacted { oldest: newest.next() }),
            Err(_) => End::Broken(failure),
        }
    }
}

/// The revision before `next`: a watch that begins there is refused when the history from `next` on is not whole.
fn before(next: Revision) -> Revision {
    Revision(next.0.saturating_sub(1)).max(Revision::FIRST)
}

async fn start_watch(store: &EtcdStore, prefix: &str, start: Revision) -> Result<etcd_client::WatchStream, Failure> {
    let start = wire(start).map_err(|error| Failure::cancelled(&error.to_string()))?;
    let key = if prefix.is_empty() { "\0" } else { prefix };
    let options = WatchOptions::new().with_range(end_of(prefix)).with_start_revision(start).with_progress_notify();
    let mut client = store.watches.clone();
    match timeout(REQUEST_TIMEOUT, client.watch(key, Some(options))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Failure::of(error)),
        Err(_) => Err(Failure::silence()),
    }
}

/// The oldest revision that can be read, when it is known that `at` cannot.
pub(super) async fn oldest(store: &EtcdStore, at: Revision) -> Result<Revision, StateError> {
    let doing = "asking for the oldest revision";
    let ask = async {
        let mut stream = start_watch(store, &store.full(crate::keyspace::ROOT), at.max(Revision::FIRST)).await?;
        loop {
            match stream.message().await.map_err(Failure::of)? {
                Some(answer) if answer.compact_revision() > 0 => return Ok(revision_of(answer.compact_revision())),
                Some(answer) if answer.canceled() => return Err(Failure::cancelled(answer.cancel_reason())),
                Some(_) => {}
                None => return Err(Failure::cancelled("the member closed the watch")),
            }
        }
    };
    let result = timeout(REQUEST_TIMEOUT, ask).await.unwrap_or_else(|_| Err(Failure::silence()));
    result.map_err(|failure| failure.into_error(&store.name, doing))
}
