//! Puts what several threads finish out of order back into order.
//!
//! Invariant: the sink gets item 0, 1, 2, … each once, and no thread runs further ahead of the slowest than the window, so
//! that what waits here is bounded.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a thread that waits for its turn looks whether the run was stopped.
const LOOK: Duration = Duration::from_millis(50);

/// Takes items in order.
pub(crate) trait Sink<T> {
    type Error;
    /// Takes the next item.
    fn accept(&mut self, item: T) -> Result<(), Self::Error>;
}

/// Items waiting for those before them, and the sink behind.
#[derive(Debug)]
pub(crate) struct Sequence<T, S> {
    window: u64,
    inner: Mutex<Inner<T, S>>,
    advanced: Condvar,
}

#[derive(Debug)]
struct Inner<T, S> {
    next: u64,
    parked: BTreeMap<u64, T>,
    sink: S,
}

impl<T, S: Sink<T>> Sequence<T, S> {
    pub(crate) fn new(window: u64, sink: S) -> Self {
        let inner = Inner { next: 0, parked: BTreeMap::new(), sink };
        Sequence { window: window.max(1), inner: Mutex::new(inner), advanced: Condvar::new() }
    }

    /// Waits until work on item `number` may begin; false once `stopped` says so.
    pub(crate) fn may_begin(&self, number: u64, stopped: impl Fn() -> bool) -> bool {
        let mut inner = self.inner();
        while number >= inner.next.saturating_add(self.window) {
            if stopped() {
                return false;
            }
            inner = self.advanced.wait_timeout(inner, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Hands over item `number`; it, and those that waited for it, go into the sink on this thread.
    pub(crate) fn submit(&self, number: u64, item: T) -> Result<(), S::Error> {
        let mut inner = self.inner();
        inner.parked.insert(number, item);
        let before = inner.next;
        while let Some(item) = {
            let next = inner.next;
            inner.parked.remove(&next)
        } {
            inner.sink.accept(item)?;
            inner.next += 1;
        }
        if inner.next > before {
            self.advanced.notify_all();
        }
        Ok(())
    }

    /// The sink, once all threads are done.
    pub(crate) fn into_sink(self) -> S {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner).sink
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T, S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Collect(Vec<u64>);

    impl Sink<u64> for Collect {
        type Error = &'static str;
        fn accept(&mut self, item: u64) -> Result<(), &'static str> {
            if item == 777 {
                Err("full")
            } else {
                self.0.push(item);
                Ok(())
            }
        }
    }

    #[test]
    fn many_threads_arrive_in_order() {
        let sequence = Arc::new(Sequence::new(8, Collect(Vec::new())));
        let claim = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (sequence, claim) = (Arc::clone(&sequence), Arc::clone(&claim));
                std::thread::spawn(move || {
                    loop {
                        let number = claim.fetch_add(1, Ordering::Relaxed);
                        if number >= 500 {
                            return;
                        }
                        assert!(sequence.may_begin(number, || false));
                        if number % 7 == 0 {
                            std::thread::yield_now();
                        }
                        sequence.submit(number, number).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let sink = Arc::into_inner(sequence).unwrap().into_sink();
        assert_eq!(sink.0, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_runs_ahead_of_the_window_and_a_stop_frees_them() {
        let sequence = Sequence::new(2, Collect(Vec::new()));
        assert!(sequence.may_begin(1, || true));
        assert!(!sequence.may_begin(2, || true));
        sequence.submit(0, 0).unwrap();
        assert!(sequence.may_begin(2, || true));
    }

    #[test]
    fn the_sinks_error_reaches_the_one_who_submits() {
        let sequence = Sequence::new(2, Collect(Vec::new()));
        assert_eq!(sequence.submit(0, 777), Err("full"));
    }
}
