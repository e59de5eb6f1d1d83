//! A tracing span around every operation, so that the trace of a job shows each call to each region.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::{
    Backend, Features, Listing, ObjectMeta, Payload, Placement, Protection, Retention, StorageError, StorageErrorKind,
    Thaw, Tier,
};

/// A backend whose operations are spans `storage.create`, `storage.get` and so on, with the fields `region`, `key` and
/// `bytes`, and `error` with the kind of trouble. They are at level info within another span; what nobody's span asks for,
/// such as probes and copies in the background, is at level debug, so that it does not flood a collector.
#[derive(Clone, Debug)]
pub struct Traced {
    inner: Arc<dyn Backend>,
    region: Arc<str>,
}

impl Traced {
    /// Traces operations of `inner`; `region` is how the spans name it.
    pub fn new(inner: Arc<dyn Backend>, region: &str) -> Traced {
        Traced { inner, region: region.into() }
    }
}

// A macro, because the name and the level of a span are part of a static.
macro_rules! span {
    ($name:literal, $traced:expr, $key:expr) => {
        if Span::current().is_none() {
            span!(tracing::Level::DEBUG, $name, $traced, $key)
        } else {
            span!(tracing::Level::INFO, $name, $traced, $key)
        }
    };
    ($level:expr, $name:literal, $traced:expr, $key:expr) => {
        tracing::span!(
            $level,
            $name,
            otel.kind = "client",
            region = &*$traced.region,
            key = $key,
            bytes = Empty,
            objects = Empty,
            error = Empty,
            otel.status_code = Empty
        )
    };
}

#[async_trait]
impl Backend for Traced {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn may_lose_answers(&self) -> bool {
        self.inner.may_lose_answers()
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let bytes = payload.len();
        observe(span!("storage.create", self, key), self.inner.create(key, payload, placement), |()| Some(bytes)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        observe(span!("storage.get", self, key), self.inner.get(key), |content| Some(content.len() as u64)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let span = span!("storage.get_range", self, key);
        observe(span, self.inner.get_range(key, range), |content| Some(content.len() as u64)).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let span = span!("storage.get_tail", self, key);
        observe(span, self.inner.get_tail(key, length), |(content, _)| Some(content.len() as u64)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        observe(span!("storage.head", self, key), self.inner.head(key), |_| None).await
    }

    fn list(&self, prefix: &str) -> Listing {
        let span = span!("storage.list", self, prefix);
        let listing = span.in_scope(|| self.inner.list(prefix));
        futures::stream::unfold((listing, span, 0_i64), |(mut listing, span, objects)| async move {
            let next = listing.next().instrument(span.clone()).await;
            match &next {
                Some(Ok(_)) => {}
                Some(Err(error)) => record(&span, error.kind),
                None => drop(span.record("objects", objects).clone()),
            }
            next.map(|next| (next, (listing, span, objects + 1)))
        })
        .boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        observe(span!("storage.list_directories", self, prefix), self.inner.list_directories(prefix), |_| None).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        observe(span!("storage.delete", self, key), self.inner.delete(key), |()| None).await
    }

    async fn delete_many(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        let span = span!("storage.delete_many", self, keys.first().map_or("", String::as_str));
        span.record("objects", i64::try_from(keys.len()).unwrap_or(i64::MAX));
        let results = self.inner.delete_many(keys).instrument(span.clone()).await;
        if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            record(&span, error.kind);
        }
        results
    }

    async fn features(&self) -> Result<Features, StorageError> {
        observe(span!("storage.features", self, ""), self.inner.features(), |_| None).await
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        observe(span!("storage.protection", self, key), self.inner.protection(key), |_| None).await
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        observe(span!("storage.retain", self, key), self.inner.retain(key, retention), |_| None).await
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        observe(span!("storage.hold", self, key), self.inner.hold(key, held), |_| None).await
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        observe(span!("storage.set_tier", self, key), self.inner.set_tier(key, tier), |_| None).await
    }

    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        observe(span!("storage.thaw", self, key), self.inner.thaw(key, thaw), |_| None).await
    }
}

async fn observe<T>(
    span: Span,
    work: impl Future<Output = Result<T, StorageError>>,
    bytes: impl FnOnce(&T) -> Option<u64>,
) -> Result<T, StorageError> {
    let result = work.instrument(span.clone()).await;
    match &result {
        Ok(value) => {
            if let Some(bytes) = bytes(value) {
                // Signed, because OTLP has no unsigned integers and would show a string.
                span.record("bytes", i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        Err(error) => record(&span, error.kind),
    }
    result
}

fn record(span: &Span, kind: StorageErrorKind) {
    span.record("error", kind.as_str());
    // That a name is free or taken is an answer; whether it is trouble, the caller knows.
    if !matches!(kind, StorageErrorKind::NotFound | StorageErrorKind::AlreadyExists) {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use futures::TryStreamExt;
    use tracing::instrument::WithSubscriber;
    use tracing_subscriber::fmt::format::FmtSpan;

    use super::*;
    use crate::Storage;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_operation_is_a_span_with_its_figures() {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || sink.clone())
            .with_ansi(false)
            .with_span_events(FmtSpan::CLOSE)
            .finish();
        let storage = Storage::memory().traced("paris");
        let work = async {
            storage.create("meta/a", Payload::from(vec![0; 42])).await.unwrap();
            storage.create("meta/a", Payload::from(vec![0; 42])).await.unwrap_err();
            storage.get("meta/a").await.unwrap();
            storage.get_range("meta/a", 1..3).await.unwrap();
            storage.get_range("meta/a", 1..99).await.unwrap_err();
            storage.get_tail("meta/a", 9).await.unwrap();
            storage.head("meta/b").await.unwrap_err();
            storage.list_directories("").await.unwrap();
            assert_eq!(storage.list("meta/").try_collect::<Vec<_>>().await.unwrap().len(), 1);
            storage.delete("meta/a").await.unwrap();
        };
        async {
            storage.head("background").await.unwrap_err();
            work.instrument(tracing::info_span!("work")).await;
        }
        .with_subscriber(subscriber)
        .await;
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let spans: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once("storage."))
            .map(|(_, rest)| {
                let end = rest.find('}').unwrap();
                rest[..end].replace("otel.kind=\"client\" region=\"paris\" key=", "")
            })
            .collect();
        assert_eq!(
            spans,
            [
                "create{\"meta/a\" bytes=42",
                "create{\"meta/a\" error=\"already-exists\"",
                "get{\"meta/a\" bytes=42",
                "get_range{\"meta/a\" bytes=2",
                "get_range{\"meta/a\" error=\"corrupt\" otel.status_code=\"ERROR\"",
                "get_tail{\"meta/a\" bytes=9",
                "head{\"meta/b\" error=\"not-found\"",
                "list_directories{\"\"",
                "list{\"meta/\" objects=1",
                "delete{\"meta/a\"",
            ]
        );
    }
}
