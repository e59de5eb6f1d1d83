//! The one policy of trying again.
//!
//! Full jitter: the wait before try n is drawn evenly from zero to `min(cap, base * 2^n)`, so that many callers that
//! failed together do not come back together.

use std::time::Duration;

use breakwater_core::Entropy;
use tokio::time::Instant;

/// How often and how patiently an operation is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included; 0 counts as 1.
    pub attempts: u32,
    /// The upper bound of the first wait; it doubles with every further one.
    pub base: Duration,
    /// The upper bound of every wait.
    pub cap: Duration,
    /// No try is begun when this much time has passed since the first. `None`: only `attempts` counts.
    pub budget: Option<Duration>,
}

impl RetryPolicy {
    /// A policy of `attempts` tries without a limit of time.
    pub const fn new(attempts: u32, base: Duration, cap: Duration) -> RetryPolicy {
        RetryPolicy { attempts, base, cap, budget: None }
    }

    /// One try and no second.
    pub const fn never() -> RetryPolicy {
        RetryPolicy::new(1, Duration::ZERO, Duration::ZERO)
    }

    /// The same policy that begins no try later than `budget` after the first.
    pub const fn within(self, budget: Duration) -> RetryPolicy {
        RetryPolicy { budget: Some(budget), ..self }
    }

    /// The wait before retry number `retry` (the first is 0).
    pub fn delay(&self, retry: u32, entropy: &dyn Entropy) -> Duration {
        let ceiling =
            2u32.checked_pow(retry).and_then(|factor| self.base.checked_mul(factor)).unwrap_or(self.cap).min(self.cap);
        let mut random = [0; 4];
        entropy.fill(&mut random);
        ceiling.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
    }

    /// Calls `operation` until it succeeds, fails with an error that is not transient, or the policy is used up; answers
    /// the last result. Dropping the future cancels the try in progress.
    pub async fn run<T, E, F>(
        &self,
        entropy: &dyn Entropy,
        mut operation: impl FnMut() -> F,
        is_transient: impl Fn(&E) -> bool,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let begun = Instant::now();
        let mut retry = 0;
        loop {
            let error = match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !is_transient(&error) {
                return Err(error);
            }
            let Some(delay) = self.next(retry, begun, Duration::ZERO, entropy) else { return Err(error) };
            tokio::time::sleep(delay).await;
            retry += 1;
        }
    }

    /// The wait before retry number `retry` of an operation first tried at `begun`; `None` when there shall be none. It is
    /// at least `asked`, how long the other side wants to be left alone, and the jitter comes on top of that.
    pub fn next(&self, retry: u32, begun: Instant, asked: Duration, entropy: &dyn Entropy) -> Option<Duration> {
        if retry.saturating_add(1) >= self.attempts {
            return None;
        }
        let delay = asked.saturating_add(self.delay(retry, entropy));
        let in_time = self.budget.is_none_or(|budget| begun.elapsed() + delay < budget);
        in_time.then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Gives the same byte for ever.
    #[derive(Debug)]
    struct Byte(u8);

    impl Entropy for Byte {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    const POLICY: RetryPolicy = RetryPolicy::new(5, Duration::from_millis(100), Duration::from_secs(1));

    async fn count(policy: RetryPolicy, succeed_at: u32, transient: bool) -> (Result<u32, u32>, u32) {
        let calls = Cell::new(0);
        let operation = || {
            calls.set(calls.get() + 1);
            let call = calls.get();
            async move { if call == succeed_at { Ok(call) } else { Err(call) } }
        };
        let result = policy.run(&Byte(255), operation, |_| transient).await;
        (result, calls.get())
    }

    #[test]
    fn waits_double_up_to_the_cap_and_jitter_down_to_zero() {
        let longest = |retry| POLICY.delay(retry, &Byte(255)).as_millis();
        assert_eq!([longest(0), longest(1), longest(2), longest(3), longest(4)], [100, 200, 400, 800, 1000]);
        assert_eq!(longest(200), 1000, "no overflow");
        assert_eq!(POLICY.delay(3, &Byte(0)), Duration::ZERO);
        let half = POLICY.delay(0, &Byte(127)).as_millis();
        assert!((49..=50).contains(&half), "{half}");
    }

    #[tokio::test]
    async fn tries_until_success_or_the_last_attempt() {
        const POLICY: RetryPolicy = RetryPolicy::new(5, Duration::from_micros(100), Duration::from_millis(1));
        assert_eq!(count(POLICY, 1, true).await, (Ok(1), 1));
        assert_eq!(count(POLICY, 4, true).await, (Ok(4), 4));
        assert_eq!(count(POLICY, 99, true).await, (Err(5), 5));
        assert_eq!(count(POLICY, 99, false).await, (Err(1), 1), "what is not transient is not tried again");
        assert_eq!(count(RetryPolicy::never(), 99, true).await, (Err(1), 1));
    }

    #[tokio::test]
    async fn begins_nothing_after_the_budget() {
        let begun = Instant::now();
        // The waits are 0.2, 0.4 and 0.8 s: the third would end after the budget.
        let policy = RetryPolicy::new(9, Duration::from_millis(200), Duration::from_secs(9));
        let (result, calls) = count(policy.within(Duration::from_millis(1300)), 99, true).await;
        assert_eq!((result, calls), (Err(3), 3));
        assert!(begun.elapsed() < Duration::from_millis(1300));
    }
}
