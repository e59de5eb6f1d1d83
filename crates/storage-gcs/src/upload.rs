//! Creating objects: in one request as far as that goes, in a session of several above it. The condition that nothing has the
//! name, the checksum, the class and the lock travel with the content, so there is no moment at which one of them is missing.
//!
//! Source: <https://cloud.google.com/storage/docs/uploading-objects#uploading-an-object>, `…/performing-resumable-uploads`.

use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, Request, Url};

use crate::resource::{NewObject, Object};
use crate::rope::Rope;
use crate::wire::{Trouble, Wire, json};

/// The largest object that is created in one request, in bytes: what a pack has at most, with room to spare. It is in memory
/// anyway, and a request that breaks is sent again by whoever retries.
pub const SINGLE_BYTES_MAX: u64 = 128 << 20;

/// How much one request of a session sends: a multiple of 256 KiB, as the service demands.
const PIECE_BYTES: u64 = 64 << 20;

/// What was created, as the answer has it.
const FIELDS: (&str, &str) = ("fields", "name,size,crc32c,generation");

/// An object on its way into `bucket`.
pub(crate) struct Upload<'a> {
    pub(crate) wire: &'a Wire,
    pub(crate) bucket: &'a str,
    pub(crate) object: &'a NewObject,
    pub(crate) payload: &'a Payload,
    /// What separates the parts of a body: nobody could have put it into the content.
    pub(crate) boundary: &'a str,
}

impl Upload<'_> {
    /// Creates the object if nothing has its name.
    pub(crate) async fn create(&self) -> Result<Object, Trouble> {
        if self.payload.len() <= SINGLE_BYTES_MAX { self.at_once().await } else { self.in_pieces().await }
    }

    fn url(&self, kind: &str) -> Url {
        let query = [("uploadType", kind), ("ifGenerationMatch", "0"), FIELDS];
        self.wire.url(&["upload", "storage", "v1", "b", self.bucket, "o"], &query)
    }

    fn description(&self) -> Result<Vec<u8>, Trouble> {
        serde_json::to_vec(self.object).map_err(|error| Trouble::failed(StorageErrorKind::Other, error))
    }

    async fn at_once(&self) -> Result<Object, Trouble> {
        let boundary = self.boundary;
        let mut head = format!("--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n").into_bytes();
        head.extend(self.description()?);
        head.extend(format!("\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n").into_bytes());
        let mut rope = Rope::default();
        rope.push(head.into());
        rope.push_range(self.payload, 0..self.payload.len());
        rope.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
        let mut request = self.wire.request(Method::POST, self.url("multipart"));
        header(&mut request, CONTENT_TYPE, &format!("multipart/related; boundary={boundary}"))?;
        *request.body_mut() = Some(Body::wrap(rope));
        json(self.wire.send(request).await?).await
    }

    /// A session goes on where it broke as long as every request stores something more; it is no second policy of retries.
    async fn in_pieces(&self) -> Result<Object, Trouble> {
        let size = self.payload.len();
        let session = self.begin().await?;
        let mut stored = 0;
        loop {
            let sent = self.send(&session, stored..size.min(stored + PIECE_BYTES)).await;
            let (outcome, broken) = match sent {
                Err(trouble) if is_passing(&trouble) => (self.ask(&session).await?, Some(trouble)),
                other => (other?, None),
            };
            match outcome {
                Ok(object) => return Ok(object),
                Err(more) if more > stored && more < size => stored = more,
                Err(_) => return Err(broken.unwrap_or_else(|| Trouble::nonsense("an upload does not go on"))),
            }
        }
    }

    async fn begin(&self) -> Result<Url, Trouble> {
        let mut request = self.wire.request(Method::POST, self.url("resumable"));
        header(&mut request, CONTENT_TYPE, "application/json; charset=UTF-8")?;
        let headers = request.headers_mut();
        headers.insert("x-upload-content-type", HeaderValue::from_static("application/octet-stream"));
        headers.insert("x-upload-content-length", HeaderValue::from(self.payload.len()));
        *request.body_mut() = Some(self.description()?.into());
        let response = self.wire.send(request).await?;
        self.wire.location(&response)
    }

    async fn send(&self, session: &Url, range: std::ops::Range<u64>) -> Result<Result<Object, u64>, Trouble> {
        let mut rope = Rope::default();
        rope.push_range(self.payload, range.clone());
        let mut request = self.wire.request(Method::PUT, session.clone());
        header(
            &mut request,
            CONTENT_RANGE,
            &format!("bytes {}-{}/{}", range.start, range.end - 1, self.payload.len()),
        )?;
        *request.body_mut() = Some(Body::wrap(rope));
        self.progress(request).await
    }

    /// How much the session holds.
    async fn ask(&self, session: &Url) -> Result<Result<Object, u64>, Trouble> {
        let mut request = self.wire.request(Method::PUT, session.clone());
        header(&mut request, CONTENT_RANGE, &format!("bytes */{}", self.payload.len()))?;
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
        self.progress(request).await
    }

    async fn progress(&self, request: Request) -> Result<Result<Object, u64>, Trouble> {
        match self.wire.send_piece(request).await? {
            Ok(response) => Ok(Ok(json(response).await?)),
            Err(stored) => Ok(Err(stored)),
        }
    }
}

fn header(request: &mut Request, name: reqwest::header::HeaderName, value: &str) -> Result<(), Trouble> {
    let value = HeaderValue::from_str(value).map_err(|error| Trouble::failed(StorageErrorKind::Other, error))?;
    request.headers_mut().insert(name, value);
    Ok(())
}

/// Whether the session may have gone on in spite of it.
fn is_passing(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Failed(kind, _) => *kind == StorageErrorKind::Unreachable,
        Trouble::Refused(refusal) => matches!(refusal.status, 408 | 429 | 500 | 502 | 503 | 504),
    }
}
