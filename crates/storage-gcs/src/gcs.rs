//! A place in a bucket of Google Cloud Storage.
//!
//! Objects are created only where nothing has the name (`ifGenerationMatch=0`), with a checksum that the service compares. What
//! is deleted is deleted in all its generations, so that a bucket that keeps versions keeps none of ours.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use breakwater_core::{Clock as _, Entropy};
use breakwater_runtime::SystemClock;
use breakwater_storage::key::check_key;
use breakwater_storage::{
    Backend, Features, Listing, LockMode, ObjectMeta, Operation, Payload, Placement, Protection, Retention,
    StorageError, StorageErrorKind, Thaw, Tier,
};
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::lock::{self, Change};
use crate::refusal::{Meaning, Refusal};
use crate::resource::{self, Bucket, META_FIELDS, NewObject, Object, ObjectRetention, Page};
use crate::upload::Upload;
use crate::wire::{self, Trouble, Wire};

/// The largest offset that the service understands; no object comes near it.
const OFFSET_MAX: u64 = i64::MAX.cast_unsigned();
/// What binds an object, and which one that is.
const BOUND_FIELDS: &str =
    "generation,metageneration,storageClass,retention,retentionExpirationTime,temporaryHold,eventBasedHold";
/// Objects in a page of a list: as many as the service gives.
const PAGE: &str = "1000";

/// Objects below a prefix of a bucket.
#[derive(Clone)]
pub struct Gcs(Arc<Place>);

struct Place {
    location: String,
    bucket: String,
    prefix: String,
    wire: Wire,
    entropy: Arc<dyn Entropy>,
    /// Whether the bucket keeps what is deleted. It is asked once.
    versions: OnceCell<bool>,
}

impl Gcs {
    pub(crate) fn new(bucket: &str, prefix: String, wire: Wire, entropy: Arc<dyn Entropy>) -> Gcs {
        let location = format!("gs://{bucket}/{prefix}").trim_end_matches('/').to_owned();
        Gcs(Arc::new(Place { location, bucket: bucket.to_owned(), prefix, wire, entropy, versions: OnceCell::new() }))
    }
}

impl fmt::Debug for Gcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gcs").field(&self.0.location).finish()
    }
}

impl Place {
    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A call about one object.
    async fn call(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<Response, Trouble> {
        let url = self.wire.url(&["storage", "v1", "b", &self.bucket, "o", &self.name(key)], query);
        self.call_at(method, url, body).await
    }

    async fn call_at(&self, method: Method, url: reqwest::Url, body: Option<Value>) -> Result<Response, Trouble> {
        let mut request = self.wire.request(method, url);
        if let Some(body) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.to_string().into());
        }
        self.wire.send(request).await
    }

    async fn object(&self, key: &str, fields: &str) -> Result<Object, Trouble> {
        wire::json(self.call(Method::GET, key, &[("fields", fields)], None).await?).await
    }

    async fn objects<T: DeserializeOwned>(&self, query: &[(&str, &str)]) -> Result<T, Trouble> {
        let url = self.wire.url(&["storage", "v1", "b", &self.bucket, "o"], query);
        wire::json(self.call_at(Method::GET, url, None).await?).await
    }

    async fn bucket(&self) -> Result<Bucket, Trouble> {
        let url = self.wire.url(&["storage", "v1", "b", &self.bucket], &[("fields", Bucket::FIELDS)]);
        wire::json(self.call_at(Method::GET, url, None).await?).await
    }

    /// Whether what is deleted may stay as a version. Who may not look up the bucket must reckon with it.
    async fn keeps_versions(&self) -> Result<bool, Trouble> {
        let look = || async {
            match self.bucket().await {
                Ok(bucket) => Ok(bucket.keeps_versions()),
                Err(Trouble::Refused(refusal)) if refusal.status == 403 => Ok(true),
                Err(trouble) => Err(trouble),
            }
        };
        self.versions.get_or_try_init(look).await.copied()
    }

    /// The error that `trouble` is. The service may leave open whether an object or the bucket is missing; then the bucket is
    /// asked for, since an object is never missing because its place is gone.
    async fn fault(&self, operation: Operation, key: &str, trouble: Trouble) -> StorageError {
        if let Trouble::Refused(refusal) = &trouble
            && refusal.meaning() == Meaning::Missing
        {
            let name = self.name(key);
            let query = [("prefix", name.as_str()), ("maxResults", "1"), ("fields", "nextPageToken")];
            return match self.objects::<Page>(&query).await {
                Ok(_) => self.error(StorageErrorKind::NotFound, operation, key).because(refusal.to_string()),
                Err(trouble) => self.plain_fault(operation, key, trouble),
            };
        }
        self.plain_fault(operation, key, trouble)
    }

    fn plain_fault(&self, operation: Operation, key: &str, trouble: Trouble) -> StorageError {
        let refusal = match trouble {
            Trouble::Failed(kind, source) => return self.error(kind, operation, key).because(source),
            Trouble::Refused(refusal) => refusal,
        };
        let (kind, hint) = match refusal.meaning() {
            Meaning::Trouble(kind, hint) => (kind, hint),
            Meaning::Precondition if operation == Operation::Create => (StorageErrorKind::AlreadyExists, None),
            // Somebody else changed the object between a look and the change: the next try looks again.
            Meaning::Precondition => (StorageErrorKind::Unreachable, None),
            // The list of the bucket itself is missing, too.
            Meaning::Missing => (StorageErrorKind::Unreachable, Some(crate::refusal::Hint::Bucket)),
        };
        let text = match hint {
            Some(hint) => format!("{refusal} ({})", refusal.advice(hint, &self.bucket)),
            None => refusal.to_string(),
        };
        self.error(kind, operation, key).because(text).after(refusal.retry_after)
    }

    fn error(&self, kind: StorageErrorKind, operation: Operation, key: &str) -> StorageError {
        StorageError::new(kind, operation, &self.location, key)
    }

    /// The bytes that the header `range` asks for, from where they begin, and the size of the object.
    async fn read(&self, key: &str, range: &str) -> Result<Content, Trouble> {
        let url = self.wire.url(&["storage", "v1", "b", &self.bucket, "o", &self.name(key)], &[("alt", "media")]);
        let mut request = self.wire.request(Method::GET, url);
        let value = HeaderValue::from_str(range).map_err(|error| Trouble::failed(StorageErrorKind::Other, error))?;
        request.headers_mut().insert(RANGE, value);
        Content::of(self.wire.send(request).await?).await
    }

    async fn page(&self, prefix: &str, query: &[(&str, &str)], token: Option<&str>) -> Result<Page, Trouble> {
        let prefix = self.name(prefix);
        let mut query = [query, &[("prefix", &*prefix), ("maxResults", PAGE)]].concat();
        query.extend(token.map(|token| ("pageToken", token)));
        self.objects(&query).await
    }

    /// Every generation of `key`, the live one among them.
    async fn generations(&self, key: &str) -> Result<Vec<String>, Trouble> {
        let name = self.name(key);
        // Nothing that a key can have sorts between the name and the name followed by a space.
        let end = format!("{name} ");
        let mut generations = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut query = vec![
                ("versions", "true"),
                // For accounts that may list below a prefix alone.
                ("prefix", &*name),
                ("startOffset", &*name),
                ("endOffset", &*end),
                ("maxResults", PAGE),
                ("fields", "items(name,generation),nextPageToken"),
            ];
            query.extend(token.as_deref().map(|token| ("pageToken", token)));
            let page: Page = self.objects(&query).await?;
            let ours = page.items.into_iter().filter(|object| object.name.as_ref() == Some(&name));
            generations.extend(ours.filter_map(|object| object.generation));
            token = page.next_page_token;
            if token.is_none() {
                return Ok(generations);
            }
        }
    }

    async fn delete_generation(
        &self,
        operation: Operation,
        key: &str,
        generation: Option<&str>,
    ) -> Result<(), StorageError> {
        let query: Vec<_> = generation.into_iter().map(|generation| ("generation", generation)).collect();
        let trouble = match self.call(Method::DELETE, key, &query, None).await {
            Ok(_) => return Ok(()),
            Err(trouble) => trouble,
        };
        let error = self.fault(operation, key, trouble).await;
        if error.is_not_found() { Ok(()) } else { Err(error) }
    }

    /// The mode of what keeps `object` beyond its own lock: the policy of the bucket.
    async fn policy_mode(&self) -> Result<LockMode, Trouble> {
        match self.bucket().await {
            Ok(bucket) if bucket.has_locked_policy() => Ok(LockMode::Compliance),
            Ok(_) => Ok(LockMode::Governance),
            // Who may not know takes it for the weaker.
            Err(Trouble::Refused(refusal)) if refusal.status == 403 => Ok(LockMode::Governance),
            Err(trouble) => Err(trouble),
        }
    }

    async fn protection(&self, key: &str) -> Result<Protection, Trouble> {
        let object = self.object(key, BOUND_FIELDS).await?;
        let held = object.is_held();
        let Some(until) = object.kept_until().filter(|until| SystemClock.now() < *until) else {
            return Ok(Protection { retention: None, held });
        };
        let own = object.retention.as_ref().and_then(ObjectRetention::lock).filter(|lock| lock.until == until);
        let mode = match own {
            Some(lock) => lock.mode,
            None => self.policy_mode().await?,
        };
        Ok(Protection { retention: Some(Retention { mode, until }), held })
    }

    async fn move_to(&self, key: &str, object: &Object, tier: Tier) -> Result<(), Trouble> {
        let name = self.name(key);
        let generation =
            object.generation.as_deref().ok_or_else(|| Trouble::nonsense("an object without a generation"))?;
        let segments = ["storage", "v1", "b", &*self.bucket, "o", &*name, "rewriteTo", "b", &*self.bucket, "o", &*name];
        let mut token: Option<String> = None;
        loop {
            let mut query = vec![("ifGenerationMatch", generation), ("sourceGeneration", generation)];
            query.push(("fields", "done,rewriteToken"));
            query.extend(token.as_deref().map(|token| ("rewriteToken", token)));
            let body =
                json!({"storageClass": resource::storage_class(tier), "contentType": "application/octet-stream"});
            let answer = self.call_at(Method::POST, self.wire.url(&segments, &query), Some(body)).await?;
            let answer: Value = wire::json(answer).await?;
            if answer["done"] == true {
                return Ok(());
            }
            let next = answer["rewriteToken"].as_str().map(str::to_owned);
            token = Some(next.ok_or_else(|| Trouble::nonsense("a move that neither ends nor goes on"))?);
        }
    }
}

/// A part of an object.
struct Content {
    bytes: Bytes,
    start: u64,
    size: u64,
    crc32c: Option<u32>,
}

impl Content {
    async fn of(response: Response) -> Result<Content, Trouble> {
        let text = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (partial, range) = (response.status().as_u16() == 206, text(CONTENT_RANGE.as_str()));
        let hashes = response.headers().get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
        let crc32c = hashes
            .flat_map(|value| value.split(','))
            .find_map(|hash| resource::crc32c_of(hash.trim().strip_prefix("crc32c=")?));
        let bytes = wire::content(response).await?;
        if !partial {
            return Ok(Content { size: bytes.len() as u64, bytes, start: 0, crc32c });
        }
        let parsed = range.as_deref().and_then(content_range);
        let (start, end, size) =
            parsed.ok_or_else(|| Trouble::nonsense("a part of an object that does not say which"))?;
        if end - start != bytes.len() as u64 {
            return Err(Trouble::failed(StorageErrorKind::Unreachable, "the answer is cut short"));
        }
        Ok(Content { bytes, start, size, crc32c })
    }
}

/// Where `bytes 5-9/20` begins and ends, exclusively, and of how many bytes.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) = (first.parse().ok()?, last.parse::<u64>().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first, last + 1, size))
}

/// The reason why an object is not what it should be.
fn short(range: &Range<u64>, size: u64) -> String {
    format!("bytes {} to {} were asked of an object of {size} bytes", range.start, range.end)
}

#[async_trait]
impl Backend for Gcs {
    fn location(&self) -> &str {
        &self.0.location
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let place = &self.0;
        let crc = payload.parts().iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let mut random = [0; 16];
        place.entropy.fill(&mut random);
        let object = NewObject::new(place.name(key), crc, placement);
        let (bucket, boundary) = (&place.bucket, &format!("breakwater-{}", hex::encode(random)));
        let upload = Upload { wire: &place.wire, bucket, object: &object, payload: &payload, boundary };
        let made = match upload.create().await {
            Ok(made) => made,
            // There is something that may not be written over: a lock, or an account that may not delete, says so
            // where the precondition is looked at later.
            Err(Trouble::Refused(refusal)) if is_taken(&refusal) => {
                let taken = place.error(StorageErrorKind::AlreadyExists, Operation::Create, key);
                return Err(taken.because(refusal.to_string()));
            }
            Err(trouble) => return Err(place.fault(Operation::Create, key, trouble).await),
        };
        if made.size() != Some(payload.len()) || made.crc32c().is_some_and(|stored| stored != crc) {
            let damaged = place.error(StorageErrorKind::Corrupt, Operation::Create, key);
            return Err(damaged.because("the service says that it stored something else"));
        }
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        let place = &self.0;
        let read = async {
            let response = place.call(Method::GET, key, &[("alt", "media")], None).await?;
            Content::of(response).await
        };
        let content = match read.await {
            Ok(content) => content,
            Err(trouble) => return Err(place.fault(Operation::Get, key, trouble).await),
        };
        if content.crc32c.is_some_and(|stored| stored != crc32c::crc32c(&content.bytes)) {
            let damaged = place.error(StorageErrorKind::Corrupt, Operation::Get, key);
            return Err(damaged.because("the content does not match the checksum that came with it"));
        }
        Ok(content.bytes)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let place = &self.0;
        let error = |kind| place.error(kind, Operation::GetRange, key);
        if range.start > range.end {
            return Err(error(StorageErrorKind::Invalid).because(format!("{} comes behind {}", range.start, range.end)));
        }
        if range.is_empty() {
            // An empty range cannot be asked for; that the object reaches there can.
            let size = self.head(key).await?.size;
            let corrupt = || error(StorageErrorKind::Corrupt).because(short(&range, size));
            return if range.end <= size { Ok(Bytes::new()) } else { Err(corrupt()) };
        }
        let header = format!("bytes={}-{}", range.start.min(OFFSET_MAX), (range.end - 1).min(OFFSET_MAX));
        let content = match place.read(key, &header).await {
            Ok(content) => content,
            Err(trouble) => return Err(place.fault(Operation::GetRange, key, trouble).await),
        };
        let within = |offset: u64| usize::try_from(offset.checked_sub(content.start)?).ok();
        let part = within(range.start).zip(within(range.end)).and_then(|(start, end)| {
            (start <= end && end <= content.bytes.len()).then(|| content.bytes.slice(start..end))
        });
        part.ok_or_else(|| error(StorageErrorKind::Corrupt).because(short(&range, content.size)))
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let place = &self.0;
        if length == 0 {
            return Ok((Bytes::new(), self.head(key).await?.size));
        }
        match place.read(key, &format!("bytes=-{}", length.min(OFFSET_MAX))).await {
            Ok(content) => {
                let surplus = (content.bytes.len() as u64).saturating_sub(length);
                let from = usize::try_from(surplus).unwrap_or(usize::MAX);
                Ok((content.bytes.slice(from..), content.size))
            }
            // An empty object has no last byte.
            Err(Trouble::Refused(Refusal { status: 416, .. })) => match self.head(key).await? {
                ObjectMeta { size: 0, .. } => Ok((Bytes::new(), 0)),
                meta => {
                    let odd = place.error(StorageErrorKind::Other, Operation::GetTail, key);
                    Err(odd.because(format!("the service has no end of an object of {} bytes", meta.size)))
                }
            },
            Err(trouble) => Err(place.fault(Operation::GetTail, key, trouble).await),
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let place = &self.0;
        match place.object(key, META_FIELDS).await {
            Ok(object) => object.meta(key).ok_or_else(|| {
                let odd = place.error(StorageErrorKind::Other, Operation::Head, key);
                odd.because("the service describes an object without size or time")
            }),
            Err(trouble) => Err(place.fault(Operation::Head, key, trouble).await),
        }
    }

    fn list(&self, prefix: &str) -> Listing {
        let (place, prefix) = (Arc::clone(&self.0), prefix.to_owned());
        let fields = format!("items({META_FIELDS}),nextPageToken");
        let pages = futures::stream::unfold(Next::First, move |next| {
            let (place, prefix, fields) = (Arc::clone(&place), prefix.clone(), fields.clone());
            async move {
                let token = match next {
                    Next::First => None,
                    Next::Page(token) => Some(token),
                    Next::End => return None,
                };
                let page = match place.page(&prefix, &[("fields", &fields)], token.as_deref()).await {
                    Ok(page) => page,
                    Err(trouble) => {
                        let error = place.plain_fault(Operation::List, &prefix, trouble);
                        return Some((vec![Err(error)], Next::End));
                    }
                };
                let metas = page.items.iter().filter_map(|object| place.listed(object, &prefix)).collect();
                Some((metas, page.next_page_token.map_or(Next::End, Next::Page)))
            }
        });
        pages.flat_map(futures::stream::iter).boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let place = &self.0;
        let (mut names, mut token) = (Vec::new(), None::<String>);
        loop {
            let query = [("delimiter", "/"), ("fields", "prefixes,nextPageToken")];
            let page = match place.page(prefix, &query, token.as_deref()).await {
                Ok(page) => page,
                Err(trouble) => return Err(place.plain_fault(Operation::ListDirectories, prefix, trouble)),
            };
            let name = |whole: &String| {
                let name = whole.strip_prefix(&place.prefix)?.strip_prefix(prefix)?.strip_suffix('/')?;
                check_key(name).is_ok().then(|| name.to_owned())
            };
            names.extend(page.prefixes.iter().filter_map(name));
            token = page.next_page_token;
            if token.is_none() {
                // The service sorts them with their slash.
                names.sort_unstable();
                names.dedup();
                return Ok(names);
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let place = &self.0;
        let fault = |trouble| place.fault(Operation::Delete, key, trouble);
        match place.keeps_versions().await {
            Ok(false) => return place.delete_generation(Operation::Delete, key, None).await,
            Ok(true) => {}
            Err(trouble) => return Err(fault(trouble).await),
        }
        let generations = match place.generations(key).await {
            Ok(generations) => generations,
            Err(trouble) => return Err(fault(trouble).await),
        };
        for generation in generations {
            place.delete_generation(Operation::Delete, key, Some(&generation)).await?;
        }
        Ok(())
    }

    async fn features(&self) -> Result<Features, StorageError> {
        match self.0.bucket().await {
            Ok(bucket) => Ok(Features {
                locks: bucket.has_locks(),
                holds: true,
                versions: bucket.keeps_versions(),
                tiers: Tier::ALL.to_vec(),
                checksums: true,
            }),
            Err(trouble) => Err(self.0.plain_fault(Operation::Features, "", trouble)),
        }
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        match self.0.protection(key).await {
            Ok(protection) => Ok(protection),
            Err(trouble) => Err(self.0.fault(Operation::Protection, key, trouble).await),
        }
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        let place = &self.0;
        let fault = |trouble| place.fault(Operation::Retain, key, trouble);
        let object = match place.object(key, BOUND_FIELDS).await {
            Ok(object) => object,
            Err(trouble) => return Err(fault(trouble).await),
        };
        let current = object.retention.as_ref().and_then(ObjectRetention::lock);
        let Some(change) = lock::change(current, retention, SystemClock.now()) else {
            let locked = place.error(StorageErrorKind::Locked, Operation::Retain, key);
            return Err(locked.because("its lock can be made neither shorter nor weaker"));
        };
        if change == Change::Nothing {
            return Ok(());
        }
        // What was judged must be what is changed.
        let mut query = vec![("fields", "name")];
        query.extend(object.generation.as_deref().map(|generation| ("generation", generation)));
        query.extend(object.metageneration.as_deref().map(|version| ("ifMetagenerationMatch", version)));
        if change == Change::Override {
            query.push(("overrideUnlockedRetention", "true"));
        }
        let body = json!({"retention": ObjectRetention::from(retention)});
        match place.call(Method::PATCH, key, &query, Some(body)).await {
            Ok(_) => Ok(()),
            Err(trouble) => Err(fault(trouble).await),
        }
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        let body = json!({"temporaryHold": held});
        match self.0.call(Method::PATCH, key, &[("fields", "name")], Some(body)).await {
            Ok(_) => Ok(()),
            Err(trouble) => Err(self.0.fault(Operation::Hold, key, trouble).await),
        }
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        let place = &self.0;
        let fault = |trouble| place.fault(Operation::SetTier, key, trouble);
        let object = match place.object(key, BOUND_FIELDS).await {
            Ok(object) => object,
            Err(trouble) => return Err(fault(trouble).await),
        };
        if object.tier() == tier {
            return Ok(());
        }
        // The service moves by writing a copy, which would have neither lock nor hold.
        if object.is_held() || object.kept_until().is_some_and(|until| SystemClock.now() < until) {
            let locked = place.error(StorageErrorKind::Locked, Operation::SetTier, key);
            return Err(
                locked.because("what is kept by a lock or a hold is moved by the bucket's lifecycle rules alone")
            );
        }
        if let Err(trouble) = place.move_to(key, &object, tier).await {
            return Err(fault(trouble).await);
        }
        match place.keeps_versions().await {
            Ok(false) => Ok(()),
            Ok(true) => place.delete_generation(Operation::SetTier, key, object.generation.as_deref()).await,
            Err(trouble) => Err(fault(trouble).await),
        }
    }

    /// Every class of the provider is read at once, so there is nothing to do.
    async fn thaw(&self, _: &str, _: Thaw) -> Result<(), StorageError> {
        Ok(())
    }
}

impl Place {
    /// An object of a list; `None` for what Breakwater cannot have made, such as the folders of the Cloud console.
    fn listed(&self, object: &Object, prefix: &str) -> Option<Result<ObjectMeta, StorageError>> {
        let key = object.name.as_deref()?.strip_prefix(&self.prefix)?;
        check_key(key).ok()?;
        Some(object.meta(key).ok_or_else(|| {
            let odd = self.error(StorageErrorKind::Other, Operation::List, prefix);
            odd.because(format!("the service describes `{key}` without size or time"))
        }))
    }
}

/// What of a list comes next.
enum Next {
    First,
    Page(String),
    End,
}

/// Whether a create was refused because of an object that is there.
fn is_taken(refusal: &Refusal) -> bool {
    let meaning = refusal.meaning();
    let is_locked = meaning == Meaning::Trouble(StorageErrorKind::Locked, None);
    is_locked || (refusal.status == 403 && refusal.permission() == Some("storage.objects.delete"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers() {
        assert_eq!(content_range("bytes 5-9/20"), Some((5, 10, 20)));
        for bad in ["bytes 5-9/*", "bytes 9-5/20", "bytes 5-20/20", "5-9/20", "bytes */20"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
