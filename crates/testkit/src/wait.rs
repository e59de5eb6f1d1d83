//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Polls `condition` until it answers `Some`, and panics with `description` once `deadline` has passed.
pub async fn until<T>(description: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {description}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Polls `condition` until it is true, and panics with `description` once `deadline` has passed.
pub async fn until_true(description: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) {
    until(description, deadline, async || condition().await.then_some(())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_with_the_value() {
        let mut count = 0;
        let value = until("the third look", Duration::from_secs(5), async || {
            count += 1;
            (count == 3).then_some(count)
        });
        assert_eq!(value.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for: pigs to fly")]
    async fn names_what_did_not_happen() {
        until_true("pigs to fly", Duration::from_millis(50), async || false).await;
    }
}
