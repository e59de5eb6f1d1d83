//! A limit on what a source is asked, so that one that took the question and never answers holds up nobody.

use std::future::Future;
use std::time::Duration;

use breakwater_engine::{EngineError, EngineErrorKind};

/// How long a source may take for a few small queries.
pub(crate) const SQL_PATIENCE: Duration = Duration::from_secs(60);

/// The answer of a source to `question`, or that there was none within `patience`.
pub(crate) async fn answered<T>(
    patience: Duration,
    question: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(patience, question).await {
        Ok(answer) => answer,
        Err(_) => {
            let what = format!("the source took the question and did not answer within {} s", patience.as_secs());
            Err(EngineError::new(EngineErrorKind::Unreachable, what)
                .hint("look for locks and a full disk on its server"))
        }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::ErrorClass;

    use super::*;

    #[tokio::test]
    async fn a_source_that_never_answers_is_unavailable() {
        let silent = std::future::pending::<Result<(), EngineError>>();
        let error = answered(Duration::from_millis(1), silent).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unavailable);
        assert!(answered(SQL_PATIENCE, async { Ok(7) }).await.is_ok_and(|answer| answer == 7));
    }
}
