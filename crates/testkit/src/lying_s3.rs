//! A small store that speaks S3 and keeps its promises, but for those it is told to break: for tests that find out stores which lie,
//! count requests, and answer as no other server here does.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
// Writing to a string does not fail, so its outcome is dropped below.
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

/// A promise that the store breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It takes a create of a name that is taken, as stores do that do not know `If-None-Match`.
    Overwrites,
    /// It looks whether a name is free, and then writes, with time in between.
    Races,
    /// It takes the headers of a lock and forgets them.
    ForgetsLocks,
    /// It answers the question for a part with the bytes from the start.
    WrongRange,
    /// The same, and says so.
    OtherRange,
    /// It forgets storage classes.
    ForgetsClasses,
}

/// An answer that is given in place of the true one.
#[derive(Clone, Debug, Default)]
pub struct Canned {
    /// The HTTP status.
    pub status: u16,
    /// Headers by name.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

#[derive(Debug)]
struct Object {
    content: Bytes,
    headers: HeaderMap,
}

#[derive(Debug)]
struct State {
    lies: Vec<Lie>,
    /// Where creates of [`Lie::Races`] meet between looking and writing.
    meeting: Barrier,
    objects: Mutex<BTreeMap<String, Object>>,
    canned: Mutex<VecDeque<Canned>>,
    requests: Mutex<Vec<String>>,
}

/// A running store with one bucket, whatever its name. Stops when dropped.
#[derive(Debug)]
pub struct LyingS3 {
    port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LyingS3 {
    /// Starts a store that tells `lies`.
    pub async fn start(lies: &[Lie]) -> Result<LyingS3> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for S3")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            lies: lies.to_vec(),
            meeting: Barrier::new(2),
            objects: Mutex::default(),
            canned: Mutex::default(),
            requests: Mutex::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(LyingS3 { port, state, task })
    }

    /// Where it listens: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Answers the next requests with these, one each.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Canned>) {
        lock(&self.state.canned).extend(answers);
    }

    /// The requests since the last time this was asked: `PUT /bucket/key?query`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.state.requests))
    }
}

impl Drop for LyingS3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(state.answer(request).await) });
            // A client that hangs up ends the connection, and nothing else.
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// What is asked for: the key, empty for the bucket itself, and the query.
struct Target {
    key: String,
    query: BTreeMap<String, String>,
}

impl Target {
    fn of(request: &Request<Incoming>) -> Target {
        let path = request.uri().path().trim_start_matches('/');
        let key = path.split_once('/').map_or("", |(_, key)| key);
        let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Target { key: decoded(key), query: query.map(|(name, value)| (name.to_owned(), decoded(value))).collect() }
    }

    fn asks(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let target = Target::of(&request);
        lock(&self.requests).push(format!("{} {}", request.method(), request.uri()));
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return refusal(400, "IncompleteBody") };
        let canned = lock(&self.canned).pop_front();
        if let Some(canned) = canned {
            return canned.into_response();
        }
        match (parts.method, target.key.as_str()) {
            (Method::GET, "") if target.asks("versioning") => self.versioning(),
            (Method::GET, "") if target.asks("object-lock") => self.lock_configuration(),
            (Method::GET, "") => self.list(&target.query),
            (Method::HEAD, "") => plain(200),
            (Method::PUT, key) => self.put(key, parts.headers, body.to_bytes()).await,
            (Method::GET | Method::HEAD, key) => self.get(key, parts.headers.get("range")),
            (Method::DELETE, key) => self.delete(key),
            (Method::POST, "") if target.asks("delete") => self.delete_many(&body.to_bytes()),
            _ => refusal(501, "NotImplemented"),
        }
    }

    fn tells(&self, lie: Lie) -> bool {
        self.lies.contains(&lie)
    }

    fn versioning(&self) -> Response<Full<Bytes>> {
        let status = if self.tells(Lie::ForgetsLocks) { "<Status>Enabled</Status>" } else { "" };
        xml(format!("<VersioningConfiguration>{status}</VersioningConfiguration>"))
    }

    fn lock_configuration(&self) -> Response<Full<Bytes>> {
        if !self.tells(Lie::ForgetsLocks) {
            return refusal(404, "ObjectLockConfigurationNotFoundError");
        }
        let enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>";
        xml(format!("<ObjectLockConfiguration>{enabled}</ObjectLockConfiguration>"))
    }

    async fn put(&self, key: &str, headers: HeaderMap, content: Bytes) -> Response<Full<Bytes>> {
        let must_be_free = headers.contains_key("if-none-match") && !self.tells(Lie::Overwrites);
        let taken = || refusal(412, "PreconditionFailed");
        if self.tells(Lie::Races) && must_be_free {
            if lock(&self.objects).contains_key(key) {
                return taken();
            }
            // Whoever finds the name free waits for a second one that does, if there is one soon.
            tokio::time::timeout(std::time::Duration::from_millis(200), self.meeting.wait()).await.ok();
            lock(&self.objects).insert(key.to_owned(), Object { content, headers });
            return plain(200);
        }
        let mut objects = lock(&self.objects);
        if must_be_free && objects.contains_key(key) {
            return taken();
        }
        objects.insert(key.to_owned(), Object { content, headers });
        plain(200)
    }

    fn get(&self, key: &str, range: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        let objects = lock(&self.objects);
        let Some(object) = objects.get(key) else { return refusal(404, "NoSuchKey") };
        let size = object.content.len();
        let Some(range) = range.and_then(|range| range.to_str().ok()) else {
            return self.described(object, 200, object.content.clone());
        };
        let Some((start, end)) = resolved(range, size) else { return refusal(416, "InvalidRange") };
        let sent =
            if self.tells(Lie::WrongRange) || self.tells(Lie::OtherRange) { (0, end - start) } else { (start, end) };
        let said = if self.tells(Lie::OtherRange) { sent } else { (start, end) };
        let mut response = self.described(object, 206, object.content.slice(sent.0..sent.1));
        header(&mut response, "content-range", &format!("bytes {}-{}/{size}", said.0, said.1 - 1));
        response
    }

    fn described(&self, object: &Object, status: u16, content: Bytes) -> Response<Full<Bytes>> {
        let mut response = with_body(status, content);
        header(&mut response, "last-modified", MODIFIED);
        let lock_headers =
            ["x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"].map(|name| (name, Lie::ForgetsLocks));
        for (name, lie) in lock_headers.into_iter().chain([("x-amz-storage-class", Lie::ForgetsClasses)]) {
            if let Some(value) = object.headers.get(name).filter(|_| !self.tells(lie)) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }

    fn delete(&self, key: &str) -> Response<Full<Bytes>> {
        lock(&self.objects).remove(key);
        plain(204)
    }

    fn delete_many(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let body = String::from_utf8_lossy(body);
        let keys = body.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0));
        let mut answer = "<DeleteResult>".to_owned();
        for key in keys {
            lock(&self.objects).remove(&key.replace("&lt;", "<").replace("&amp;", "&"));
            write!(answer, "<Deleted><Key>{key}</Key></Deleted>").ok();
        }
        xml(answer + "</DeleteResult>")
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
        let prefix = query.get("prefix").map_or("", String::as_str);
        let mut body = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (key, object) in lock(&self.objects).iter().filter(|(key, _)| key.starts_with(prefix)) {
            let key = key.replace('&', "&amp;").replace('<', "&lt;");
            let size = object.content.len();
            write!(
                body,
                "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{LISTED}</LastModified></Contents>"
            )
            .ok();
        }
        xml(body + "</ListBucketResult>")
    }
}

/// When everything here was made, as answers say it.
const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const LISTED: &str = "2026-01-01T00:00:00.000Z";

/// The bytes that `range` asks of an object of `size` bytes: the first, and the first that is not; none when there are none.
fn resolved(range: &str, size: usize) -> Option<(usize, usize)> {
    let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = if start.is_empty() {
        (size.saturating_sub(last.parse().unwrap_or(usize::MAX)), size)
    } else {
        (start.parse().ok()?, last.parse::<usize>().unwrap_or(usize::MAX).saturating_add(1).min(size))
    };
    (start < end).then_some((start, end))
}

impl Canned {
    /// An error with this code.
    pub fn error(status: u16, code: &str, more: &str) -> Canned {
        let body = format!("<Error><Code>{code}</Code><Message>told to</Message>{more}</Error>");
        Canned { status, headers: Vec::new(), body }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = with_body(self.status, Bytes::from(self.body));
        for (name, value) in self.headers {
            header(&mut response, name, &value);
        }
        response
    }
}

fn with_body(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status.try_into().expect("a status of three digits");
    response
}

fn plain(status: u16) -> Response<Full<Bytes>> {
    with_body(status, Bytes::new())
}

fn xml(body: String) -> Response<Full<Bytes>> {
    with_body(200, Bytes::from(body))
}

fn refusal(status: u16, code: &str) -> Response<Full<Bytes>> {
    Canned::error(status, code, "").into_response()
}

fn header(response: &mut Response<Full<Bytes>>, name: &'static str, value: &str) {
    response.headers_mut().insert(name, value.parse().expect("a header of visible characters"));
}

/// Percent-decodes a part of a URL.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &after[2..];
            }
            (other, _) => {
                bytes.push(*other);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
