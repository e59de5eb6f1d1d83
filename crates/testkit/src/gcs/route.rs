//! Which request is what. A path, a method or a parameter that is in no rule here is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::Method;
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::State;
use super::access::Caller;
use super::answer::{Answer, Refused, invalid, plain, precondition, refuse, unknown};
use super::store::{Version, damaged};

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    method: Method,
    /// Decoded, without empty ones at the ends.
    segments: Vec<String>,
    query: Result<BTreeMap<String, String>, String>,
    headers: BTreeMap<String, String>,
    pub(crate) body: Bytes,
    /// Whether a fault took the end of the body.
    pub(crate) is_cut: bool,
}

impl Asked {
    pub(crate) fn new(head: &Parts, body: Bytes) -> Asked {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let segments = head.uri.path().split('/').skip(1).map(decode).collect();
        let mut query = Ok(BTreeMap::new());
        for (name, value) in form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned() {
            let taken = query.as_mut().is_ok_and(|query| query.insert(name.clone(), value).is_some());
            if taken {
                query = Err(name);
            }
        }
        let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Asked { method: head.method.clone(), segments, query, headers, body, is_cut: false }
    }

    /// The kind of the request, for the log and for faults.
    pub(crate) fn kind(&self) -> &'static str {
        let upload = self.query.as_ref().ok().and_then(|query| query.get("uploadType")).map(String::as_str);
        let is_media = self.query.as_ref().is_ok_and(|query| query.get("alt").is_some_and(|alt| alt == "media"));
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        match (&self.method, segments.as_slice()) {
            (&Method::GET, ["storage", "v1", "b", _]) => "bucket",
            (&Method::GET, ["storage", "v1", "b", _, "o"]) => "list",
            (&Method::GET, ["storage", "v1", "b", _, "o", _]) if is_media => "media",
            (&Method::GET, ["storage", "v1", "b", _, "o", _]) => "head",
            (&Method::PATCH, ["storage", "v1", "b", _, "o", _]) => "patch",
            (&Method::DELETE, ["storage", "v1", "b", _, "o", _]) => "delete",
            (&Method::POST, ["storage", "v1", "b", _, "o", _, "rewriteTo", "b", _, "o", _]) => "rewrite",
            (&Method::POST, ["upload", "storage", "v1", "b", _, "o"]) if upload == Some("resumable") => "begin",
            (&Method::POST, ["upload", "storage", "v1", "b", _, "o"]) => "insert",
            (&Method::PUT, ["upload", "storage", "v1", "b", _, "o"]) if self.body.is_empty() => "ask",
            (&Method::PUT, ["upload", "storage", "v1", "b", _, "o"]) => "piece",
            (&Method::DELETE, ["upload", "storage", "v1", "b", _, "o"]) => "cancel",
            (&Method::POST, ["v1", "token"]) => "token",
            (&Method::GET, ["computeMetadata", "v1", "instance", "service-accounts", "default", "token"]) => "token",
            _ => "unknown",
        }
    }

    pub(crate) fn handle(&self, state: &mut State) -> Result<Answer, Refused> {
        let kind = self.kind();
        let now = state.now();
        match (kind, self.method == Method::POST) {
            ("token", true) => return state.access.exchange(&self.body, now),
            ("token", false) => return state.access.of_host(self.header("metadata-flavor"), now),
            _ => {}
        }
        let query = self.query.clone().map_err(|name| invalid(format!("parameter {name} is given twice")))?;
        let mut query = Query(query);
        let [bucket, name, target] = [3, 5, 10].map(|at| self.segments.get(at).cloned().unwrap_or_default());
        let at_upload = self.segments.get(4).cloned().unwrap_or_default();
        // The address of a session is all that it takes to use it.
        match kind {
            "piece" | "ask" => return self.send(state, query),
            "cancel" => return self.cancel(state, query),
            _ => {}
        }
        let answer = state.access.caller(self.header("authorization"), now).and_then(|caller| {
            let bucket = if matches!(kind, "insert" | "begin") { &at_upload } else { &bucket };
            self.check_payer(state, bucket)?;
            let call = Call { asked: self, caller, bucket, name: &name };
            match kind {
                "bucket" => call.bucket(state, &mut query),
                "list" => call.list(state, &mut query),
                "media" => call.media(state, &mut query),
                "head" => call.head(state, &mut query),
                "patch" => call.patch(state, &mut query),
                "delete" => call.delete(state, &mut query),
                "rewrite" => call.rewrite(state, &mut query, &self.segments[8], &target),
                "insert" => call.insert(state, &mut query),
                "begin" => call.begin(state, &mut query),
                _ => Err(unknown(format!("{} /{}", self.method, self.segments.join("/")))),
            }
        });
        if kind == "media" { answer.map_err(plain) } else { answer }
    }

    fn check_payer(&self, state: &State, bucket: &str) -> Result<(), Refused> {
        let pays = state.store.bucket(bucket).is_ok_and(|bucket| bucket.settings.requester_pays);
        match self.header("x-goog-user-project") {
            None if pays => {
                Err(refuse(400, "required", "Bucket is a requester pays bucket but no user project provided."))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body as a JSON object.
    pub(crate) fn json(&self) -> Result<Map<String, Value>, Refused> {
        let is_json = self.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
        let parsed = serde_json::from_slice(&self.body).ok().filter(|_| is_json);
        parsed.ok_or_else(|| refuse(400, "parseError", "Parse Error"))
    }

    pub(crate) fn cut(self, bytes: usize) -> Asked {
        Asked { body: self.body.slice(..bytes.min(self.body.len())), is_cut: true, ..self }
    }

    pub(crate) fn damaged(self) -> Asked {
        Asked { body: damaged(&self.body), ..self }
    }
}

/// A request of a caller about a bucket and perhaps an object.
pub(crate) struct Call<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) caller: Caller,
    pub(crate) bucket: &'a str,
    pub(crate) name: &'a str,
}

/// The parameters that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<i64>, Refused> {
        let Some(text) = self.take(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| invalid(format!("Invalid value for {name}: {text}")))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Refused> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(invalid(format!("Invalid value for {name}: {other}"))),
        }
    }

    /// Refuses what nobody took.
    pub(crate) fn end(&self) -> Result<(), Refused> {
        match self.0.keys().next() {
            Some(name) => Err(unknown(format!("the parameter {name} here"))),
            None => Ok(()),
        }
    }

    pub(crate) fn conditions(&mut self, prefix: &str) -> Result<Conditions, Refused> {
        let name = |rest: &str| {
            let word = format!("{prefix}{rest}");
            // `ifGenerationMatch`, but `ifSourceGenerationMatch`.
            format!("if{word}")
        };
        Ok(Conditions {
            generation: self.number(&name("GenerationMatch"))?,
            not_generation: self.number(&name("GenerationNotMatch"))?,
            metageneration: self.number(&name("MetagenerationMatch"))?,
            not_metageneration: self.number(&name("MetagenerationNotMatch"))?,
        })
    }
}

/// What must hold of the live object (<https://cloud.google.com/storage/docs/request-preconditions>).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    generation: Option<i64>,
    not_generation: Option<i64>,
    metageneration: Option<i64>,
    not_metageneration: Option<i64>,
}

impl Conditions {
    /// Generation 0 is that there is no object.
    pub(crate) fn check(&self, object: Option<&Version>) -> Result<(), Refused> {
        let generation = object.map_or(0, |object| object.generation);
        let metageneration = object.map_or(0, |object| i64::try_from(object.metageneration).unwrap_or(i64::MAX));
        let holds = self.generation.is_none_or(|wanted| wanted == generation)
            && self.not_generation.is_none_or(|wanted| wanted != generation)
            && self.metageneration.is_none_or(|wanted| wanted == metageneration)
            && self.not_metageneration.is_none_or(|wanted| wanted != metageneration);
        if holds { Ok(()) } else { Err(precondition()) }
    }

    /// The same for reads, where a `NotMatch` that fails is no error (304).
    pub(crate) fn check_read(&self, object: &Version) -> Result<Option<Answer>, Refused> {
        let matches = Conditions { not_generation: None, not_metageneration: None, ..*self };
        matches.check(Some(object))?;
        Ok(self.check(Some(object)).is_err().then(|| Answer::empty(304)))
    }
}
