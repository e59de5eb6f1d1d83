//! Requests and answers of HTTP/1.1, read whole and written again with a length. No more of the protocol than stores use.

use anyhow::{Context as _, Result, bail};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Headers that speak of the connection or of the form of the body, and are written anew.
const REWRITTEN: [&str; 5] = ["connection", "keep-alive", "transfer-encoding", "content-length", "expect"];

/// Head lines longer than this are no head.
const LONGEST_HEAD: usize = 64 << 10;

/// The first line and the headers.
#[derive(Clone, Debug, Default)]
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` when the connection ended before it.
    async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Head>> {
        let Some(first) = line(from).await? else { return Ok(None) };
        let mut head = Head { first, headers: Vec::new() };
        loop {
            let line = line(from).await?.context("the connection ended within a head")?;
            if line.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = line.split_once(':').context("a header without a value")?;
            head.headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn length(&self) -> Result<Option<usize>> {
        self.header("content-length").map(|text| text.parse().context("a length that is no number")).transpose()
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    fn write(&self, connection: &str, length: Option<usize>) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            if !REWRITTEN.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if let Some(length) = length {
            text.push_str(&format!("Content-Length: {length}\r\n"));
        }
        text.push_str(&format!("Connection: {connection}\r\n\r\n"));
        text.into_bytes()
    }
}

async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    if from.take(LONGEST_HEAD as u64).read_until(b'\n', &mut bytes).await? == 0 {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).context("a head that is no text")?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

async fn exactly(from: &mut (impl AsyncBufRead + Unpin), length: usize) -> Result<Vec<u8>> {
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.context("a body shorter than promised")?;
    Ok(body)
}

async fn chunks(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from).await?.context("the connection ended within a body")?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("a chunk without a size")?;
        if size == 0 {
            // Trailers end with an empty line.
            while line(from).await?.is_some_and(|line| !line.is_empty()) {}
            return Ok(body);
        }
        body.extend(exactly(from, size).await?);
        line(from).await?;
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    head: Head,
    body: Vec<u8>,
}

impl Request {
    /// Reads a request; `None` when the client has no other one.
    pub(super) async fn read(client: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
        let Some(head) = Head::read(client).await? else { return Ok(None) };
        if head.header("expect").is_some() {
            client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = if head.is_chunked() {
            chunks(client).await?
        } else {
            exactly(client, head.length()?.unwrap_or(0)).await?
        };
        Ok(Some(Request { head, body }))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let has_length = !self.body.is_empty() || matches!(self.method(), "PUT" | "POST");
        let mut bytes = self.head.write("close", has_length.then_some(self.body.len()));
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn method(&self) -> &str {
        self.head.first.split(' ').next().unwrap_or_default()
    }

    /// Path and query.
    pub(super) fn target(&self) -> &str {
        self.head.first.split(' ').nth(1).unwrap_or_default()
    }

    fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// What it is about: the path, which ends with the object's name, or the name that an upload to Google says in its body.
    pub(super) fn subject(&self) -> String {
        let said = self.body.get(..self.body.len().min(LONGEST_HEAD)).map(String::from_utf8_lossy).unwrap_or_default();
        let named = said.split_once(r#""name":""#).and_then(|(_, rest)| rest.split_once('"'));
        match named.filter(|_| self.path().contains("/upload/")) {
            Some((name, _)) => name.to_owned(),
            None => percent_decode_str(self.path()).decode_utf8_lossy().into_owned(),
        }
    }

    pub(super) fn is_head(&self) -> bool {
        self.method() == "HEAD"
    }

    /// Whether it brings an object, or a part of one.
    pub(super) fn is_put(&self) -> bool {
        self.method() == "PUT" || (self.method() == "POST" && self.path().contains("/upload/"))
    }

    /// Whether it lists objects, in the words of S3, Azure or Google.
    pub(super) fn is_list(&self) -> bool {
        let words = ["list-type=2", "comp=list"];
        let google = self.path().ends_with("/o") && self.path().contains("/b/");
        self.method() == "GET" && (google || words.iter().any(|word| self.target().contains(word)))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    head: Head,
    /// The length that is promised of a body that does not come, as to a HEAD.
    promised: Option<usize>,
    has_body: bool,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) async fn read(store: &mut BufReader<TcpStream>, to_head: bool) -> Result<Answer> {
        let mut head = Head::read(store).await?.context("the store ended the connection without an answer")?;
        while status(&head)? < 200 {
            head = Head::read(store).await?.context("the store ended the connection without an answer")?;
        }
        let promised = head.length()?;
        let has_body = !to_head && !matches!(status(&head)?, 204 | 304);
        let body = match promised {
            _ if !has_body => Vec::new(),
            _ if head.is_chunked() => chunks(store).await?,
            Some(length) => exactly(store, length).await?,
            None => {
                let mut body = Vec::new();
                store.read_to_end(&mut body).await?;
                body
            }
        };
        Ok(Answer { head, promised, has_body, body })
    }

    /// What a store answers that cannot or will not work now.
    pub(super) fn refusal(status: u16, retry_after: Option<u64>, to_head: bool) -> Answer {
        let (code, words) =
            if status == 503 { ("SlowDown", "Slow Down") } else { ("InternalError", "Internal Server Error") };
        let mut headers = vec![("Content-Type".to_owned(), "application/xml".to_owned())];
        headers.extend(retry_after.map(|seconds| ("Retry-After".to_owned(), seconds.to_string())));
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{words}</Message></Error>");
        let head = Head { first: format!("HTTP/1.1 {status} {words}"), headers };
        let body = if to_head { Vec::new() } else { body.into_bytes() };
        Answer { head, promised: None, has_body: !to_head, body }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let length = if self.has_body { Some(self.body.len()) } else { self.promised };
        let mut bytes = self.head.write("keep-alive", length);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Takes the last object out of a list in the XML of S3 or Azure.
    pub(super) fn drop_last_listed(&mut self) {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        for (open, close) in [("<Contents>", "</Contents>"), ("<Blob>", "</Blob>")] {
            let found = text.rfind(open).zip(text.rfind(close));
            if let Some((before, after)) =
                found.and_then(|(from, to)| Some((text.get(..from)?, text.get(to + close.len()..)?)))
            {
                self.body = format!("{before}{after}").into_bytes();
                return;
            }
        }
    }

    /// Makes a list say that this page is its last.
    pub(super) fn end_list(&mut self) {
        let text = String::from_utf8_lossy(&self.body).replace("<IsTruncated>true<", "<IsTruncated>false<");
        let cut = |text: String, tag: &str| {
            let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
            let found = text.find(&open).zip(text.find(&close));
            let parts = found.and_then(|(from, to)| Some((text.get(..from)?, text.get(to + close.len()..)?)));
            parts.map(|(before, after)| format!("{before}{after}")).unwrap_or(text)
        };
        self.body = cut(cut(text, "NextContinuationToken"), "NextMarker").into_bytes();
    }
}

fn status(head: &Head) -> Result<u16> {
    match head.first.split(' ').nth(1).map(str::parse) {
        Some(Ok(status)) => Ok(status),
        _ => bail!("no answer of HTTP: {}", head.first),
    }
}
