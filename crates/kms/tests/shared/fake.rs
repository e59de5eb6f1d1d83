//! A small HTTP server on loopback that answers as a service's reference documents say, and refuses what they do not describe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// One request.
pub(crate) struct Request {
    pub(crate) path: String,
    /// By their names in small letters.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Request {
    /// The body's texts, when it has these fields and no others.
    pub(crate) fn texts<const N: usize>(&self, fields: [&str; N]) -> Option<[String; N]> {
        let object = self.body.as_object()?;
        let expected: BTreeSet<&str> = fields.into_iter().collect();
        let given: BTreeSet<&str> = object.keys().map(String::as_str).collect();
        let texts: Vec<String> =
            fields.iter().filter_map(|field| Some(object.get(*field)?.as_str()?.to_owned())).collect();
        (expected == given).then_some(())?;
        texts.try_into().ok()
    }
}

type Answer = (u16, Value);

/// Serves on a port of its own for as long as the test lives. Gives `127.0.0.1:port`.
pub(crate) async fn serve(handle: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handle = Arc::new(handle);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handle = handle.clone();
            tokio::spawn(async move { talk(stream, handle.as_ref()).await });
        }
    });
    address
}

async fn talk(mut stream: TcpStream, handle: &(dyn Fn(&Request) -> Answer + Send + Sync)) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request is cut short");
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers: BTreeMap<String, String> = head.lines().skip(1).filter_map(header).collect();
        let length: usize = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        if body.len() >= length {
            break ((head.lines().next().unwrap().to_owned(), headers), body.to_owned());
        }
    };
    let (line, headers) = head;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap().to_owned());
    let is_json = headers.get("content-type").is_some_and(|kind| kind == "application/json");
    let (status, answer) = match serde_json::from_str(&body) {
        Ok(body) if method == "POST" && is_json => handle(&Request { path, headers, body }),
        _ => (405, json!({"error": "not a POST of JSON"})),
    };
    let body = answer.to_string();
    let answer = format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
}
