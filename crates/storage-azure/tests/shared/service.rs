//! Blob Storage as its reference documents describe it, for what Azurite does not have: an account with versioning, and a container
//! with version-level immutability. What the documents do not describe is refused.
//!
//! Sources: "Blob service REST API" (Put Blob, Get Blob, Get Blob Properties, Delete Blob, Set Blob Tier, Set Blob Immutability Policy,
//! Set Blob Legal Hold, List Blobs, Get Container Properties, Get Account Information) below
//! https://learn.microsoft.com/rest/api/storageservices, and "Version-level WORM policies" for what a lock forbids. Where they leave
//! open whether a locked current version can be deleted, this one lets it become a previous version, which is the worse for a client.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use azure_core::time::{OffsetDateTime, parse_rfc7231, to_rfc7231};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How many items a page of a list has, so that lists have several.
const PAGE: usize = 500;

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Decoded, behind the container.
    pub(crate) name: String,
    pub(crate) query: BTreeMap<String, String>,
    /// By their names in small letters.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ends in the middle of the body.
    pub(crate) cut: bool,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// An error as the service words it.
    pub(crate) fn error(status: u16, code: &str) -> Answer {
        Answer::detailed(status, code, "")
    }

    /// The same with the detail that it has for requests which it cannot authenticate.
    pub(crate) fn detailed(status: u16, code: &str, detail: &str) -> Answer {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>About {code}.\nRequestId:1</Message>\
             <AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"
        );
        Answer { body: body.into_bytes(), ..Answer::new(status) }.with("x-ms-error-code", code)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

#[derive(Clone, Debug)]
struct Version {
    id: String,
    current: bool,
    content: Vec<u8>,
    created: OffsetDateTime,
    tier: String,
    rehydrating: bool,
    policy: Option<(String, OffsetDateTime)>,
    held: bool,
}

impl Version {
    fn is_kept(&self) -> bool {
        self.held || self.policy.as_ref().is_some_and(|(_, until)| OffsetDateTime::now_utc() < *until)
    }
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<String, Vec<Version>>,
    next: u64,
    requests: Vec<Request>,
    canned: VecDeque<Answer>,
}

/// A running service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Service {
    pub(crate) async fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Service { state: Arc::default(), port: listener.local_addr().unwrap().port() };
        let serving = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = serving.clone();
                // A client that goes away ends its connection and nothing else.
                tokio::spawn(async move { service.talk(stream).await.unwrap_or_default() });
            }
        });
        service
    }

    pub(crate) fn url(&self) -> String {
        format!("azure://account/box?endpoint=http://127.0.0.1:{}/account", self.port)
    }

    /// The next requests are answered so, whatever they ask.
    pub(crate) fn answer_next(&self, answer: Answer) {
        self.state().canned.push_back(answer);
    }

    /// What came since the last time that this was asked.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// How many versions there are of a blob, the current one among them.
    pub(crate) fn versions(&self, name: &str) -> usize {
        self.state().blobs.get(name).map_or(0, Vec::len)
    }

    /// Overwrites or deletes as somebody else would, so that there is a previous version.
    pub(crate) fn retire(&self, name: &str) {
        self.state().blobs.get_mut(name).unwrap().iter_mut().for_each(|version| version.current = false);
    }

    /// What takes hours takes a moment: everything that is being thawed is thawed.
    pub(crate) fn hours_pass(&self) {
        for version in self.state().blobs.values_mut().flatten().filter(|version| version.rehydrating) {
            (version.tier, version.rehydrating) = ("Hot".to_owned(), false);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn talk(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            let head = loop {
                if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            };
            let mut request = parse(std::str::from_utf8(&bytes[..head]).unwrap());
            let length: usize = request.header("content-length").map_or(0, |text| text.parse().unwrap());
            bytes.reserve(length);
            while bytes.len() < head + length {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            }
            request.body = bytes[head..head + length].to_vec();
            bytes.drain(..head + length);
            let is_head = request.method == "HEAD";
            let answer = self.answer(request);
            let mut text = format!("HTTP/1.1 {} Said\r\n", answer.status);
            let dated = answer.headers.iter().any(|(name, _)| name == "date");
            if !dated {
                write!(text, "date: {}\r\n", to_rfc7231(&OffsetDateTime::now_utc())).unwrap();
            }
            for (name, value) in &answer.headers {
                write!(text, "{name}: {value}\r\n").unwrap();
            }
            if !answer.headers.iter().any(|(name, _)| name == "content-length") {
                write!(text, "content-length: {}\r\n", answer.body.len() + usize::from(answer.cut)).unwrap();
            }
            text.push_str("\r\n");
            stream.write_all(text.as_bytes()).await?;
            if !is_head {
                stream.write_all(&answer.body).await?;
            }
            if answer.cut {
                return Ok(());
            }
        }
    }

    fn answer(&self, request: Request) -> Answer {
        let mut state = self.state();
        state.requests.push(request.clone());
        if let Some(canned) = state.canned.pop_front() {
            return canned;
        }
        let signed = request.header("authorization").is_some_and(|value| value.starts_with("SharedKey account:"));
        if !signed || request.header("x-ms-date").is_none() || request.header("x-ms-version").is_none() {
            return Answer::error(403, "AuthenticationFailed");
        }
        match (request.method.as_str(), request.query("restype"), request.query("comp")) {
            ("GET" | "HEAD", Some("account"), Some("properties")) => Answer::new(200)
                .with("x-ms-sku-name", "Standard_LRS")
                .with("x-ms-account-kind", "StorageV2")
                .with("x-ms-is-hns-enabled", "false"),
            ("GET" | "HEAD", Some("container"), None) => {
                Answer::new(200).with("x-ms-immutable-storage-with-versioning-enabled", "true")
            }
            ("GET", Some("container"), Some("list")) => list(&state, &request),
            ("PUT", None, None) => put(&mut state, request),
            ("DELETE", None, None) => delete(&mut state, &request),
            ("GET" | "HEAD", None, None) => read(&state, &request),
            ("PUT", None, Some(change)) => {
                let found = state.blobs.get_mut(&request.name).and_then(|all| all.iter_mut().find(|one| one.current));
                match found {
                    None => Answer::error(404, "BlobNotFound"),
                    Some(version) => set(version, change, &request),
                }
            }
            _ => Answer::error(405, "UnsupportedHttpVerb"),
        }
    }
}

fn parse(head: &str) -> Request {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap());
    let url = Url::parse(&format!("http://host{target}")).unwrap();
    let name = url.path().strip_prefix("/account/box").expect("the account and the container");
    let name = decoded(name.trim_start_matches('/'));
    let headers = lines.filter_map(|line| line.split_once(':'));
    Request {
        method,
        name,
        query: url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
        body: Vec::new(),
    }
}

/// A path without its escapes. A form's decoding does it once `+` is out of the way.
fn decoded(path: &str) -> String {
    let form = format!("http://host/?p={}", path.replace('+', "%2B"));
    Url::parse(&form).unwrap().query_pairs().next().unwrap().1.into_owned()
}

/// The lock that a request asks for: both headers or none, and an end that is yet to come.
fn policy(request: &Request) -> Result<Option<(String, OffsetDateTime)>, Answer> {
    let mode = request.header("x-ms-immutability-policy-mode");
    let until = request.header("x-ms-immutability-policy-until-date");
    let (mode, until) = match (mode, until) {
        (None, None) => return Ok(None),
        (Some(mode @ ("locked" | "unlocked")), Some(until)) => (mode, until),
        _ => return Err(Answer::error(400, "InvalidHeaderValue")),
    };
    match parse_rfc7231(until) {
        Ok(until) if until > OffsetDateTime::now_utc() => Ok(Some((mode.to_owned(), until))),
        _ => Err(Answer::error(400, "InvalidHeaderValue")),
    }
}

fn put(state: &mut State, request: Request) -> Answer {
    if request.header("x-ms-blob-type") != Some("BlockBlob") {
        return Answer::error(400, "InvalidHeaderValue");
    }
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &request.body).to_le_bytes();
    if request.header("x-ms-content-crc64").is_some_and(|sent| sent != STANDARD.encode(sum)) {
        return Answer::error(400, "Crc64Mismatch");
    }
    let policy = match policy(&request) {
        Ok(policy) => policy,
        Err(refused) => return refused,
    };
    let tier = request.header("x-ms-access-tier").unwrap_or("Hot").to_owned();
    state.next += 1;
    let id = format!("2026-01-01T00:00:00.{:07}Z", state.next);
    let versions = state.blobs.entry(request.name).or_default();
    if versions.iter().any(|version| version.current) {
        match request.headers.get("if-none-match").map(String::as_str) {
            Some("*") => return Answer::error(409, "BlobAlreadyExists"),
            _ => versions.iter_mut().for_each(|version| version.current = false),
        }
    }
    let created = OffsetDateTime::now_utc();
    let version = Version {
        id: id.clone(),
        current: true,
        content: request.body,
        created,
        tier,
        rehydrating: false,
        policy,
        held: false,
    };
    versions.push(version);
    Answer::new(201).with("etag", format!("\"{id}\"")).with("x-ms-version-id", id)
}

fn read(state: &State, request: &Request) -> Answer {
    let version = state.blobs.get(&request.name).and_then(|all| all.iter().find(|version| version.current));
    let Some(version) = version else { return Answer::error(404, "BlobNotFound") };
    let mut answer = Answer::new(200)
        .with("etag", format!("\"{}\"", version.id))
        .with("x-ms-version-id", &version.id)
        .with("x-ms-is-current-version", "true")
        .with("x-ms-creation-time", to_rfc7231(&version.created))
        .with("last-modified", to_rfc7231(&version.created))
        .with("x-ms-blob-type", "BlockBlob")
        .with("x-ms-access-tier", &version.tier)
        .with("x-ms-legal-hold", version.held.to_string());
    if version.rehydrating {
        answer = answer.with("x-ms-archive-status", "rehydrate-pending-to-hot");
    }
    if let Some((mode, until)) = &version.policy {
        answer = answer
            .with("x-ms-immutability-policy-mode", mode)
            .with("x-ms-immutability-policy-until-date", to_rfc7231(until));
    }
    if request.method == "HEAD" {
        return answer.with("content-length", version.content.len().to_string());
    }
    if version.tier == "Archive" {
        return Answer::error(409, if version.rehydrating { "BlobBeingRehydrated" } else { "BlobArchived" });
    }
    let size = version.content.len();
    let range = request.header("x-ms-range").or(request.header("range"));
    let Some((start, end)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        answer.body.clone_from(&version.content);
        return answer;
    };
    let start: usize = start.parse().unwrap();
    if start >= size {
        return Answer::error(416, "InvalidRange");
    }
    let end = end.parse::<usize>().map_or(size, |end| end.saturating_add(1).min(size));
    answer.status = 206;
    answer.body = version.content[start..end].to_vec();
    answer.with("content-range", format!("bytes {start}-{}/{size}", end - 1))
}

fn delete(state: &mut State, request: &Request) -> Answer {
    let Some(versions) = state.blobs.get_mut(&request.name) else { return Answer::error(404, "BlobNotFound") };
    match request.query("versionid") {
        None => {
            let Some(version) = versions.iter_mut().find(|version| version.current) else {
                return Answer::error(404, "BlobNotFound");
            };
            version.current = false;
        }
        Some(id) => {
            let Some(at) = versions.iter().position(|version| version.id == id) else {
                return Answer::error(404, "BlobNotFound");
            };
            if versions[at].current {
                return Answer::error(403, "OperationNotAllowedOnRootBlob");
            }
            if versions[at].is_kept() {
                return Answer::error(409, "BlobImmutableDueToPolicy");
            }
            versions.remove(at);
            if versions.is_empty() {
                state.blobs.remove(&request.name);
            }
        }
    }
    Answer::new(202)
}

fn set(version: &mut Version, change: &str, request: &Request) -> Answer {
    match change {
        "immutabilityPolicies" => {
            let wanted = match policy(request) {
                Ok(Some(wanted)) => wanted,
                Ok(None) => return Answer::error(400, "MissingRequiredHeader"),
                Err(refused) => return refused,
            };
            let weakens = |(mode, until): &(String, OffsetDateTime)| {
                mode == "locked" && (wanted.0 != "locked" || wanted.1 < *until)
            };
            if version.policy.as_ref().is_some_and(weakens) {
                return Answer::error(409, "ImmutabilityPolicyCannotBeWeakened");
            }
            version.policy = Some(wanted);
            Answer::new(200)
        }
        "legalhold" => match request.header("x-ms-legal-hold") {
            Some(held @ ("true" | "false")) => {
                version.held = held == "true";
                Answer::new(200).with("x-ms-legal-hold", held)
            }
            _ => Answer::error(400, "MissingRequiredHeader"),
        },
        "tier" => match request.header("x-ms-access-tier") {
            Some("Hot" | "Cool" | "Cold") if version.tier == "Archive" => {
                version.rehydrating = true;
                Answer::new(202)
            }
            Some(tier @ ("Hot" | "Cool" | "Cold" | "Archive")) => {
                version.tier = tier.to_owned();
                Answer::new(200)
            }
            _ => Answer::error(400, "InvalidHeaderValue"),
        },
        _ => Answer::error(400, "InvalidQueryParameterValue"),
    }
}

fn list(state: &State, request: &Request) -> Answer {
    let prefix = request.query("prefix").unwrap_or_default();
    let from = request.query("marker").unwrap_or_default();
    let all = request.query("include").is_some_and(|include| include.contains("versions"));
    let room = request.query("maxresults").map_or(PAGE, |text| text.parse().unwrap());
    let (mut items, mut count, mut next) = (String::new(), 0, "");
    let mut directory = String::new();
    for (name, versions) in state.blobs.range(from.to_owned()..).filter(|(name, _)| name.starts_with(prefix)) {
        let shown: Vec<&Version> = versions.iter().filter(|version| all || version.current).collect();
        if shown.is_empty() {
            continue;
        }
        let below = name[prefix.len()..].split_once('/').filter(|_| request.query("delimiter") == Some("/"));
        if let Some((first, _)) = below {
            let found = format!("{prefix}{first}/");
            if found == directory {
                continue;
            }
            directory = found;
        }
        if count >= room {
            next = name;
            break;
        }
        count += shown.len();
        if below.is_some() {
            write!(items, "<BlobPrefix><Name>{}</Name></BlobPrefix>", escaped(&directory)).unwrap();
            continue;
        }
        for version in shown {
            let status =
                if version.rehydrating { "<ArchiveStatus>rehydrate-pending-to-hot</ArchiveStatus>" } else { "" };
            let current = if version.current { "<IsCurrentVersion>true</IsCurrentVersion>" } else { "" };
            let id = if all { format!("<VersionId>{}</VersionId>{current}", version.id) } else { String::new() };
            write!(
                items,
                "<Blob><Name>{}</Name>{id}<Properties><Creation-Time>{}</Creation-Time><Content-Length>{}</Content-Length>\
                 <BlobType>BlockBlob</BlobType><AccessTier>{}</AccessTier>{status}</Properties></Blob>",
                escaped(name),
                to_rfc7231(&version.created),
                version.content.len(),
                version.tier
            )
            .unwrap();
        }
    }
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"box\"><Blobs>{items}</Blobs>\
         <NextMarker>{}</NextMarker></EnumerationResults>",
        escaped(next)
    );
    Answer { body: body.into_bytes(), ..Answer::new(200) }.with("content-type", "application/xml")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
