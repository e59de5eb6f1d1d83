//! Creating objects: content alone, with its description in one body, or in a session of several requests
//! (<https://cloud.google.com/storage/docs/json_api/v1/how-tos/upload>, `…/docs/performing-resumable-uploads`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};

use super::State;
use super::answer::{Answer, Refused, invalid, refuse, unknown};
use super::list::selected;
use super::objects::{check_lock_alone, flag};
use super::route::{Asked, Call, Conditions, Query};
use super::store::{CLASSES, Version, only_fields, wanted_lock};

/// What the length of every piece but the last is a multiple of.
const GRAIN: u64 = 256 << 10;

/// An upload of several requests.
#[derive(Debug)]
pub(crate) struct Session {
    bucket: String,
    plan: Plan,
    length: Option<u64>,
    stored: BytesMut,
    end: End,
}

#[derive(Debug)]
enum End {
    Open,
    Done(Value),
    Cancelled,
}

/// An object to be made.
#[derive(Clone, Debug)]
struct Plan {
    name: String,
    fields: Map<String, Value>,
    conditions: Conditions,
    selection: Option<String>,
    may_replace: bool,
    caller: super::access::Caller,
}

impl Call<'_> {
    pub(crate) fn insert(&self, state: &mut State, query: &mut Query) -> Result<Answer, Refused> {
        let kind = query.take("uploadType");
        let content_type = self.asked.header("content-type").unwrap_or_default();
        let (fields, content) = match kind.as_deref() {
            Some("media") => {
                let kind = (!content_type.is_empty()).then(|| ("contentType".to_owned(), Value::from(content_type)));
                (kind.into_iter().collect(), self.asked.body.clone())
            }
            Some("multipart") => parts(content_type, &self.asked.body)?,
            other => return Err(unknown(format!("uploadType {other:?}"))),
        };
        let plan = self.plan(fields, query)?;
        check(state, self.bucket, &plan)?;
        Ok(Answer::json(&finish(state, self.bucket, &plan, content)?))
    }

    pub(crate) fn begin(&self, state: &mut State, query: &mut Query) -> Result<Answer, Refused> {
        query.take("uploadType");
        let fields = if self.asked.body.is_empty() { Map::new() } else { self.asked.json()? };
        let length = self.asked.header("x-upload-content-length").map(str::parse).transpose();
        let length = length.map_err(|_| invalid("Invalid X-Upload-Content-Length"))?;
        let plan = self.plan(fields, query)?;
        check(state, self.bucket, &plan)?;
        let id = format!("session-{}", state.store.sessions.len());
        let host = self.asked.header("host").unwrap_or_default();
        let location =
            format!("http://{host}/upload/storage/v1/b/{}/o?uploadType=resumable&upload_id={id}", self.bucket);
        let session = Session { bucket: self.bucket.to_owned(), plan, length, stored: BytesMut::new(), end: End::Open };
        state.store.sessions.insert(id, session);
        Ok(Answer::empty(200).with("location", location))
    }

    fn plan(&self, fields: Map<String, Value>, query: &mut Query) -> Result<Plan, Refused> {
        let known =
            ["name", "bucket", "contentType", "crc32c", "storageClass", "retention", "temporaryHold", "eventBasedHold"];
        only_fields(&fields, &known)?;
        let (asked, said) = (query.take("name"), fields.get("name").and_then(Value::as_str).map(str::to_owned));
        let name = match (asked, said) {
            (Some(asked), Some(said)) if asked != said => return Err(invalid("The names of the object differ")),
            (asked, said) => asked.or(said).ok_or_else(|| refuse(400, "required", "Required"))?,
        };
        check_name(&name)?;
        let (conditions, selection) = (query.conditions("")?, query.take("fields"));
        query.end()?;
        self.caller.must("storage.objects.create", &name)?;
        if fields.contains_key("retention") {
            self.caller.must("storage.objects.setRetention", &name)?;
        }
        let may_replace = self.caller.may("storage.objects.delete", &name);
        Ok(Plan { name, fields, conditions, selection, may_replace, caller: self.caller.clone() })
    }
}

impl Asked {
    /// A piece of a session, or the question how much it holds.
    pub(crate) fn send(&self, state: &mut State, mut query: Query) -> Result<Answer, Refused> {
        let id = session_id(&mut query)?;
        let session = state.store.sessions.get_mut(&id).ok_or_else(gone)?;
        match &session.end {
            End::Cancelled => return Err(cancelled()),
            End::Done(object) => return Ok(Answer::json(object)),
            End::Open => {}
        }
        let range = self.header("content-range").ok_or_else(|| unknown("a piece without Content-Range"))?;
        let piece = Piece::parse(range).ok_or_else(|| invalid("Failed to parse Content-Range header."))?;
        let total = piece.total.or(session.length);
        if piece.total.is_some() && session.length.is_some() && piece.total != session.length {
            return Err(invalid("Content-Range disagrees with X-Upload-Content-Length"));
        }
        let stored = session.stored.len() as u64;
        if let Some((first, last)) = piece.span {
            let is_last = total == Some(last + 1);
            // A piece that was cut on the way is kept as far as it came.
            let came = self.body.len() as u64;
            let is_whole = came == last - first + 1 || (self.is_cut && came < last - first + 1);
            if !is_whole || first > stored || (!is_last && (last + 1 - first) % GRAIN != 0) {
                return Err(invalid(
                    "Invalid request. The number of bytes uploaded is required to be equal or greater than \
                                    262144, except for the final request, and to begin where the last one ended.",
                ));
            }
            let known = usize::try_from(stored - first).unwrap_or(usize::MAX).min(self.body.len());
            session.stored.extend_from_slice(&self.body[known..]);
        } else if !self.body.is_empty() {
            return Err(invalid("a question has no body"));
        }
        let stored = session.stored.len() as u64;
        if total != Some(stored) {
            let answer = Answer::empty(308);
            return Ok(if stored == 0 { answer } else { answer.with("range", format!("bytes=0-{}", stored - 1)) });
        }
        let (bucket, plan) = (session.bucket.clone(), session.plan.clone());
        let content = session.stored.clone().freeze();
        check(state, &bucket, &plan)?;
        let object = finish(state, &bucket, &plan, content)?;
        if let Some(session) = state.store.sessions.get_mut(&id) {
            session.end = End::Done(object.clone());
        }
        Ok(Answer::json(&object))
    }

    pub(crate) fn cancel(&self, state: &mut State, mut query: Query) -> Result<Answer, Refused> {
        let id = session_id(&mut query)?;
        let session = state.store.sessions.get_mut(&id).ok_or_else(gone)?;
        session.end = End::Cancelled;
        session.stored = BytesMut::new();
        Err(cancelled())
    }
}

fn session_id(query: &mut Query) -> Result<String, Refused> {
    query.take("uploadType");
    let id = query.take("upload_id").ok_or_else(|| invalid("Missing upload_id"))?;
    query.end()?;
    Ok(id)
}

fn gone() -> Refused {
    refuse(404, "notFound", "Not Found")
}

fn cancelled() -> Refused {
    refuse(499, "", "the upload is cancelled")
}

/// What may be looked at before the content is there.
fn check(state: &State, bucket: &str, plan: &Plan) -> Result<(), Refused> {
    let bucket = state.store.bucket(bucket)?;
    let live = bucket.live(&plan.name);
    let must_replace = || plan.caller.must("storage.objects.delete", &plan.name);
    if live.is_some() && !plan.may_replace && bucket.settings.permission_first {
        must_replace()?;
    }
    plan.conditions.check(live)?;
    if live.is_some() {
        must_replace()?;
    }
    if let Some(retention) = plan.fields.get("retention") {
        wanted_lock(&bucket.settings, retention, state.now())?;
    }
    Ok(())
}

/// Makes the object that `plan` describes of `content`.
fn finish(state: &mut State, bucket_name: &str, plan: &Plan, content: Bytes) -> Result<Value, Refused> {
    let now = state.now();
    let crc32c = crc32c::crc32c(&content);
    if let Some(said) = plan.fields.get("crc32c") {
        let calculated = STANDARD.encode(crc32c.to_be_bytes());
        if said.as_str() != Some(&*calculated) {
            let said = said.as_str().unwrap_or_default();
            return Err(invalid(format!(
                "Provided CRC32C \"{said}\" doesn't match calculated CRC32C \"{calculated}\"."
            )));
        }
    }
    let text = |field: &str| plan.fields.get(field).and_then(Value::as_str).map(str::to_owned);
    let class = text("storageClass").unwrap_or_else(|| "STANDARD".to_owned());
    if !CLASSES.contains(&class.as_str()) {
        return Err(invalid(format!("Invalid argument: {class}")));
    }
    let generation = state.store.next_generation(now);
    let bucket = state.store.bucket_mut(bucket_name)?;
    let lock = plan.fields.get("retention").map(|value| wanted_lock(&bucket.settings, value, now)).transpose()?;
    let version = Version {
        generation,
        metageneration: 1,
        live: true,
        content,
        crc32c,
        created: now,
        class,
        content_type: text("contentType"),
        lock,
        temporary_hold: flag(&plan.fields, "temporaryHold")?,
        event_based_hold: flag(&plan.fields, "eventBasedHold")?,
        kept_from: now,
    };
    check_lock_alone(&version)?;
    bucket.put(bucket_name, &plan.name, version.clone(), now)?;
    selected(bucket.resource(bucket_name, &plan.name, &version), plan.selection.as_deref())
}

/// <https://cloud.google.com/storage/docs/objects#naming>.
fn check_name(name: &str) -> Result<(), Refused> {
    let is_reserved = name == "." || name == ".." || name.starts_with(".well-known/acme-challenge/");
    if name.is_empty() || name.len() > 1024 || name.contains(['\r', '\n']) || is_reserved {
        return Err(invalid(format!("Invalid object name: {name:?}")));
    }
    Ok(())
}

/// The description and the content of a body of type `multipart/related`.
fn parts(content_type: &str, body: &Bytes) -> Result<(Map<String, Value>, Bytes), Refused> {
    let malformed = || invalid("Malformed multipart body.");
    let boundary = content_type.strip_prefix("multipart/related; boundary=").ok_or_else(malformed)?.trim_matches('"');
    let find = |from: usize, what: &str| {
        let at = body[from..].windows(what.len()).position(|window| window == what.as_bytes())?;
        Some(from + at)
    };
    let begin = format!("--{boundary}\r\n");
    let between = format!("\r\n--{boundary}\r\n");
    if !body.starts_with(begin.as_bytes()) {
        return Err(malformed());
    }
    let description = find(begin.len(), "\r\n\r\n").ok_or_else(malformed)?;
    if !body[begin.len()..description].to_ascii_lowercase().starts_with(b"content-type: application/json") {
        return Err(malformed());
    }
    let middle = find(description, &between).ok_or_else(malformed)?;
    let content = find(middle + between.len(), "\r\n\r\n").ok_or_else(malformed)? + 4;
    let ends = [format!("\r\n--{boundary}--"), format!("\r\n--{boundary}--\r\n")];
    let end = ends.iter().find(|end| body.ends_with(end.as_bytes())).ok_or_else(malformed)?;
    let end = body.len() - end.len();
    if content > end {
        return Err(malformed());
    }
    let description = serde_json::from_slice(&body[description + 4..middle]).map_err(|_| malformed())?;
    Ok((description, body.slice(content..end)))
}

/// What a `Content-Range` says.
struct Piece {
    span: Option<(u64, u64)>,
    total: Option<u64>,
}

impl Piece {
    fn parse(text: &str) -> Option<Piece> {
        let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        if span == "*" {
            return Some(Piece { span: None, total });
        }
        let (first, last) = span.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && total.is_none_or(|total| last < total)).then_some(Piece { span: Some((first, last)), total })
    }
}
