//! One bound on the memory that all stages of a program hold in buffers.
//!
//! Invariant: the bytes of all permits together never exceed the capacity. Waiters are served in order, so a large request
//! is not starved by small ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget of bytes. A clone is another handle to the same budget.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    semaphore: Arc<Semaphore>,
    capacity: u32,
    in_use: AtomicU64,
    peak: AtomicU64,
}

impl ByteBudget {
    /// A budget of `capacity` bytes; at least 1 and at most 4 GiB - 1, to which other values are clamped.
    pub fn new(capacity: u64) -> ByteBudget {
        let capacity = u32::try_from(capacity.max(1)).unwrap_or(u32::MAX);
        let permits = usize::try_from(capacity).unwrap_or(Semaphore::MAX_PERMITS);
        let inner = Inner {
            semaphore: Arc::new(Semaphore::new(permits)),
            capacity,
            in_use: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        };
        ByteBudget { inner: Arc::new(inner) }
    }

    /// Waits until `bytes` are free and takes them. A request larger than the capacity takes the whole capacity, so that
    /// it passes alone instead of waiting for ever. Dropping the future gives up the place in the queue.
    ///
    /// Who holds one permit and waits for another can wait for ever; take what a piece of work needs at once.
    pub async fn acquire(&self, bytes: u64) -> Permit {
        let permit = Arc::clone(&self.inner.semaphore)
            .acquire_many_owned(self.clamp(bytes))
            .await
            .expect("the semaphore of a budget is never closed");
        self.granted(permit)
    }

    /// Takes `bytes`, clamped like in [`acquire`](Self::acquire), when they are free now and nobody waits before.
    pub fn try_acquire(&self, bytes: u64) -> Option<Permit> {
        let permit = Arc::clone(&self.inner.semaphore).try_acquire_many_owned(self.clamp(bytes)).ok()?;
        Some(self.granted(permit))
    }

    /// The bytes that may be held at once.
    pub fn capacity(&self) -> u64 {
        u64::from(self.inner.capacity)
    }

    /// The bytes that are held now.
    pub fn in_use(&self) -> u64 {
        self.inner.in_use.load(Ordering::Relaxed)
    }

    /// The most bytes that were ever held at once.
    pub fn peak(&self) -> u64 {
        self.inner.peak.load(Ordering::Relaxed)
    }

    fn clamp(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.inner.capacity)
    }

    fn granted(&self, permit: OwnedSemaphorePermit) -> Permit {
        let bytes = permit.num_permits() as u64;
        let in_use = self.inner.in_use.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.inner.peak.fetch_max(in_use, Ordering::Relaxed);
        Permit { permit, budget: Arc::clone(&self.inner) }
    }
}

/// Bytes taken from a budget; they return when it is dropped.
#[derive(Debug)]
#[must_use = "the bytes are free again as soon as the permit is dropped"]
pub struct Permit {
    permit: OwnedSemaphorePermit,
    budget: Arc<Inner>,
}

impl Permit {
    /// The bytes that this permit holds.
    pub fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64
    }

    /// Moves `bytes` out of this permit into a new one; `None` when it holds fewer.
    pub fn split(&mut self, bytes: u64) -> Option<Permit> {
        let permit = self.permit.split(usize::try_from(bytes).ok()?)?;
        Some(Permit { permit, budget: Arc::clone(&self.budget) })
    }

    /// Adds the bytes of `other` to this permit.
    ///
    /// # Panics
    /// When `other` is of another budget.
    pub fn merge(&mut self, mut other: Permit) {
        assert!(Arc::ptr_eq(&self.budget, &other.budget), "merging permits of two budgets");
        let all = other.permit.num_permits();
        if let Some(moved) = other.permit.split(all) {
            self.permit.merge(moved);
        }
    }

    /// Gives back what is held beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        drop(self.bytes().checked_sub(bytes).and_then(|excess| self.split(excess)));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Counted down before the semaphore gets the bytes back, so that `in_use` never shows more than the capacity.
        self.budget.in_use.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn permits_count_and_return() {
        let budget = ByteBudget::new(100);
        let mut first = budget.acquire(60).await;
        assert_eq!((budget.in_use(), budget.capacity()), (60, 100));
        assert!(budget.try_acquire(41).is_none());
        let second = first.split(20).unwrap();
        assert!(first.split(41).is_none());
        assert_eq!((first.bytes(), second.bytes(), budget.in_use()), (40, 20, 60));
        drop(second);
        assert_eq!(budget.in_use(), 40);
        let third = budget.try_acquire(60).unwrap();
        first.merge(third);
        assert_eq!((first.bytes(), budget.in_use()), (100, 100));
        first.shrink_to(10);
        assert_eq!((first.bytes(), budget.in_use()), (10, 10));
        first.shrink_to(50);
        assert_eq!(first.bytes(), 10);
        drop(first);
        assert_eq!((budget.in_use(), budget.peak()), (0, 100));
        assert_eq!(budget.acquire(100).await.bytes(), 100, "nothing was lost");
    }

    #[tokio::test]
    async fn a_request_beyond_the_capacity_waits_for_all_of_it() {
        let budget = ByteBudget::new(100);
        let held = budget.acquire(1).await;
        let mut large = Box::pin(budget.acquire(1 << 40));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut large).await.is_err());
        assert!(budget.try_acquire(1).is_none(), "nobody overtakes the one that waits");
        drop(held);
        assert_eq!(large.await.bytes(), 100);
    }

    #[tokio::test]
    async fn an_abandoned_wait_frees_the_queue() {
        let budget = ByteBudget::new(10);
        let held = budget.acquire(5).await;
        let waiting = budget.acquire(10);
        assert!(tokio::time::timeout(Duration::from_millis(20), waiting).await.is_err());
        assert_eq!(budget.try_acquire(5).unwrap().bytes(), 5);
        drop(held);
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_tasks_never_exceed_the_capacity() {
        let budget = ByteBudget::new(1000);
        let tasks: Vec<_> = (0..64u64)
            .map(|n| {
                let budget = budget.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let permit = budget.acquire(1 + n * 7 % 400).await;
                        assert!(budget.in_use() <= budget.capacity());
                        tokio::task::yield_now().await;
                        drop(permit);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(budget.in_use(), 0);
        assert!(budget.peak() > 400 && budget.peak() <= 1000, "{}", budget.peak());
    }

    #[test]
    #[should_panic(expected = "two budgets")]
    fn permits_of_two_budgets_do_not_mix() {
        let (one, two) = (ByteBudget::new(1), ByteBudget::new(1));
        let (mut a, b) = (one.try_acquire(1).unwrap(), two.try_acquire(1).unwrap());
        a.merge(b);
    }
}
