//! The service of tests keeps the rules of Google's JSON API reference, and refuses what it does not know.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::time::Duration;

use breakwater_core::Timestamp;
use breakwater_testkit::gcs::{BucketSettings, Fault, Gcs, Grant};
use reqwest::{Client, Method};
use serde_json::Value;

/// A service whose bucket `b` everyone may use.
async fn service(settings: BucketSettings) -> (Gcs, Client) {
    let gcs = Gcs::start().await.unwrap();
    gcs.set_open(true);
    gcs.set_bucket("b", settings);
    (gcs, Client::new())
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} is no JSON: {}", self.status, self.body))
    }

    fn reason(&self) -> String {
        self.json()["error"]["errors"][0]["reason"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }
}

/// `GET /path`, with headers and a body; a body that begins with `{` is JSON.
async fn call(at: &(Gcs, Client), request: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let url = if path.starts_with('/') { format!("{}{path}", at.0.endpoint()) } else { path.to_owned() };
    let body = body.into();
    let mut request = at.1.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
    if body.starts_with(b"{") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.body(body).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.text().await.unwrap() }
}

async fn put(at: &(Gcs, Client), name: &str, content: &str) -> Value {
    let made = call(at, &format!("POST /upload/storage/v1/b/b/o?uploadType=media&name={name}"), &[], content).await;
    assert_eq!(made.status, 200, "{}", made.body);
    made.json()
}

fn in_minutes(minutes: u64) -> String {
    use std::time::{SystemTime, UNIX_EPOCH};
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + minutes * 60;
    Timestamp::from_micros(i64::try_from(seconds).unwrap() * 1_000_000).to_string()
}

#[tokio::test]
async fn what_is_not_known_is_refused() {
    let at = service(BucketSettings::default()).await;
    put(&at, "a", "1").await;
    for (request, status) in [
        ("GET /storage/v1/b/b/o/a?projection=full", 501),
        ("GET /storage/v1/b/b/o?delimiter=-", 501),
        ("GET /storage/v1/b/b/o?matchGlob=x", 501),
        ("GET /storage/v1/b/b/o/a?fields=sise", 400),
        ("GET /storage/v1/b/b/o/a?generation=x", 400),
        ("GET /storage/v1/b/b/o/a?generation=1&generation=1", 400),
        ("GET /storage/v1/b/b/o?maxResults=0", 400),
        ("GET /storage/v1/b/b/o?pageToken=x", 400),
        ("PUT /storage/v1/b/b/o/a", 501),
        ("GET /b/a", 501),
        ("POST /upload/storage/v1/b/b/o?name=x", 501),
        ("POST /upload/storage/v1/b/b/o?uploadType=media", 400),
        ("POST /upload/storage/v1/b/b/o?uploadType=media&name=.", 400),
    ] {
        assert_eq!(call(&at, request, &[], "").await.status, status, "{request}");
    }
    let odd = call(&at, "PATCH /storage/v1/b/b/o/a", &[], r#"{"storageClass":"COLDLINE"}"#).await;
    assert_eq!(odd.status, 400);
    let odd = call(&at, "GET /storage/v1/b/b/o/a?alt=media", &[("range", "bytes=0-1,3-4")], "").await;
    assert_eq!(odd.status, 501);
}

#[tokio::test]
async fn preconditions_are_of_the_live_object() {
    let at = service(BucketSettings::default()).await;
    let insert = |condition: &str| format!("POST /upload/storage/v1/b/b/o?uploadType=media&name=a&{condition}");
    assert_eq!(call(&at, &insert("ifGenerationMatch=7"), &[], "1").await.status, 412);
    let made = call(&at, &insert("ifGenerationMatch=0"), &[], "1").await;
    let generation = made.json()["generation"].as_str().unwrap().to_owned();
    let second = call(&at, &insert("ifGenerationMatch=0"), &[], "2").await;
    assert_eq!((second.status, &*second.reason()), (412, "conditionNotMet"));
    assert_eq!(call(&at, &insert("ifGenerationNotMatch=0"), &[], "1").await.status, 200);
    assert_eq!(
        call(&at, &insert(&format!("ifGenerationMatch={generation}")), &[], "3").await.status,
        412,
        "it is replaced"
    );
    let patch = |condition: &str| format!("PATCH /storage/v1/b/b/o/a?{condition}");
    let hold = r#"{"temporaryHold":false}"#;
    assert_eq!(call(&at, &patch("ifMetagenerationMatch=2"), &[], hold).await.status, 412);
    assert_eq!(call(&at, &patch("ifMetagenerationMatch=1"), &[], hold).await.json()["metageneration"], "2");
    assert_eq!(call(&at, &patch("ifMetagenerationNotMatch=2"), &[], hold).await.status, 412);
    assert_eq!(call(&at, "GET /storage/v1/b/b/o/a?ifMetagenerationNotMatch=2", &[], "").await.status, 304);
    assert_eq!(call(&at, "GET /storage/v1/b/b/o/a?ifMetagenerationMatch=1", &[], "").await.status, 412);
    assert_eq!(call(&at, "DELETE /storage/v1/b/b/o/a?ifGenerationMatch=1", &[], "").await.status, 412);
    assert_eq!(call(&at, "DELETE /storage/v1/b/b/o/a", &[], "").await.status, 204);
    assert_eq!(call(&at, "DELETE /storage/v1/b/b/o/a", &[], "").await.status, 404);
}

#[tokio::test]
async fn ranges_and_checksums() {
    let at = service(BucketSettings::default()).await;
    put(&at, "a", "0123456789").await;
    put(&at, "empty", "").await;
    let get = async |name: &str, range: &str| {
        call(&at, &format!("GET /storage/v1/b/b/o/{name}?alt=media"), &[("range", range)], "").await
    };
    for (range, body, of) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=8-", "89", "bytes 8-9/10"),
        ("bytes=5-99", "56789", "bytes 5-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let answer = get("a", range).await;
        assert_eq!((answer.status, &*answer.body, answer.header("content-range")), (206, body, Some(of)), "{range}");
        assert_eq!(answer.header("x-goog-hash"), Some("crc32c=KAwGng=="), "of the whole object");
    }
    for (name, range) in
        [("a", "bytes=10-"), ("a", "bytes=99-100"), ("a", "bytes=-0"), ("empty", "bytes=0-0"), ("empty", "bytes=-1")]
    {
        assert_eq!(get(name, range).await.status, 416, "{name} {range}");
    }
    assert_eq!(get("a", "bytes=10-").await.header("content-range"), Some("bytes */10"));
    let missing = call(&at, "GET /storage/v1/b/b/o/none?alt=media", &[], "").await;
    assert_eq!((missing.status, &*missing.body), (404, "No such object: b/none"), "plain text");
    let gone = call(&at, "GET /storage/v1/b/none/o/a", &[], "").await;
    assert_eq!(
        (gone.status, gone.json()["error"]["message"].as_str()),
        (404, Some("The specified bucket does not exist."))
    );

    let multipart = |description: &str, content: &str| {
        format!(
            "--x\r\nContent-Type: application/json\r\n\r\n{description}\r\n--x\r\nContent-Type: text/plain\r\n\r\n{content}\r\n--x--\r\n"
        )
    };
    let insert = async |body: String| {
        let headers = [("content-type", "multipart/related; boundary=x")];
        call(&at, "POST /upload/storage/v1/b/b/o?uploadType=multipart", &headers, body).await
    };
    let made =
        insert(multipart(r#"{"name":"m","crc32c":"KAwGng==","storageClass":"NEARLINE"}"#, "0123456789")).await.json();
    assert_eq!((made["size"].as_str(), made["storageClass"].as_str()), (Some("10"), Some("NEARLINE")));
    let wrong = insert(multipart(r#"{"name":"w","crc32c":"KAwGng=="}"#, "0123456780")).await;
    assert!(wrong.status == 400 && wrong.body.contains("doesn't match calculated CRC32C"), "{}", wrong.body);
    assert_eq!(call(&at, "GET /storage/v1/b/b/o/w", &[], "").await.status, 404);
    for description in [r#"{"name":"u","unknown":1}"#, r#"{"name":"u","storageClass":"GLACIER"}"#, "{}", "no json"] {
        assert_eq!(insert(multipart(description, "1")).await.status, 400, "{description}");
    }
    assert_eq!(
        insert(multipart(r#"{"name":"u"}"#, "1").replace("--x--", "")).await.status,
        400,
        "it ends with the boundary"
    );
}

#[tokio::test]
async fn lists_have_pages_prefixes_and_versions() {
    let at = service(BucketSettings { versioning: true, ..BucketSettings::default() }).await;
    for name in ["a-b", "a/b", "a/c", "b"] {
        put(&at, &name.replace('/', "%2F"), "1").await;
    }
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.json()["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let list = async |query: &str| call(&at, &format!("GET /storage/v1/b/b/o?{query}"), &[], "").await;
    assert_eq!(names(&list("").await), ["a-b", "a/b", "a/c", "b"]);
    assert_eq!(names(&list("startOffset=a/c&endOffset=b").await), ["a/c"]);
    let folded = list("delimiter=/").await;
    assert_eq!(names(&folded), ["a-b", "b"]);
    assert_eq!(folded.json()["prefixes"], serde_json::json!(["a/"]));
    let first = list("maxResults=3&prefix=a").await;
    assert!(names(&first).len() == 3 && first.json().get("nextPageToken").is_none(), "the last page has no token");
    let first = list("maxResults=3").await;
    let token = first.json()["nextPageToken"].as_str().unwrap().to_owned();
    assert_eq!(names(&list(&format!("maxResults=3&pageToken={token}")).await), ["b"]);
    assert_eq!(list(&format!("prefix=a&pageToken={token}")).await.status, 400, "a token belongs to its list");
    let slim = list("fields=items(name,size)&prefix=b").await.json();
    assert_eq!(slim, serde_json::json!({"items": [{"name": "b", "size": "1"}]}));

    let old = call(&at, "GET /storage/v1/b/b/o/b", &[], "").await.json()["generation"].as_str().unwrap().to_owned();
    put(&at, "b", "22").await;
    assert_eq!(names(&list("prefix=b&versions=true").await), ["b", "b"]);
    assert_eq!(call(&at, "DELETE /storage/v1/b/b/o/b", &[], "").await.status, 204);
    assert_eq!(names(&list("prefix=b").await), Vec::<String>::new());
    assert_eq!(names(&list("prefix=b&versions=true").await).len(), 2, "the live object became a version");
    assert_eq!(call(&at, &format!("GET /storage/v1/b/b/o/b?alt=media&generation={old}"), &[], "").await.body, "1");
    assert_eq!(call(&at, &format!("DELETE /storage/v1/b/b/o/b?generation={old}"), &[], "").await.status, 204);
    assert_eq!(names(&list("prefix=b&versions=true").await).len(), 1);
}

#[tokio::test]
async fn a_session_keeps_what_came() {
    let at = service(BucketSettings::default()).await;
    let begin = async |name: &str, length: &str| {
        let request = format!("POST /upload/storage/v1/b/b/o?uploadType=resumable&ifGenerationMatch=0&name={name}");
        let begun = call(&at, &request, &[("x-upload-content-length", length)], "").await;
        assert_eq!(begun.status, 200, "{}", begun.body);
        format!("PUT {}", begun.header("location").unwrap())
    };
    const GRAIN: usize = 256 << 10;
    let session = begin("a", "262146").await;
    let send = async |range: &str, body: Vec<u8>| call(&at, &session, &[("content-range", range)], body).await;
    assert_eq!((send("bytes */262146", vec![]).await.status, at.0.versions("b")), (308, 0));
    assert_eq!(send("bytes 0-9/262146", vec![1; 10]).await.status, 400, "a piece has a multiple of 256 KiB");
    assert_eq!(send("bytes 1-262145/262146", vec![1; GRAIN + 1]).await.status, 400, "there is no gap");
    let half = send("bytes 0-262143/262146", vec![1; GRAIN]).await;
    assert_eq!((half.status, half.header("range")), (308, Some("bytes=0-262143")));
    assert_eq!(send("bytes */262147", vec![]).await.status, 400, "another length than was announced");
    let done = send("bytes 262144-262145/262146", vec![2; 2]).await;
    assert_eq!((done.status, done.json()["size"].as_str()), (200, Some("262146")));
    assert_eq!(send("bytes */262146", vec![]).await.status, 200, "what is done is answered again");

    // The precondition counts when it is finished, too.
    let (one, two) = (begin("c", "1").await, begin("c", "1").await);
    assert_eq!(call(&at, &one, &[("content-range", "bytes 0-0/1")], "1").await.status, 200);
    assert_eq!(call(&at, &two, &[("content-range", "bytes 0-0/1")], "2").await.status, 412);
    let cancelled = begin("d", "1").await;
    assert_eq!(call(&at, &cancelled.replace("PUT", "DELETE"), &[], "").await.status, 499);
    assert_eq!(call(&at, &cancelled, &[("content-range", "bytes 0-0/1")], "1").await.status, 499);
    assert_eq!(
        call(&at, &format!("{}x", begin("e", "1").await), &[("content-range", "bytes */1")], "").await.status,
        404
    );
}

#[tokio::test]
async fn holds_and_locks_keep_objects() {
    let at = service(BucketSettings { object_retention: true, ..BucketSettings::default() }).await;
    put(&at, "a", "1").await;
    let patch =
        async |query: &str, body: &str| call(&at, &format!("PATCH /storage/v1/b/b/o/a?{query}"), &[], body).await;
    let delete = async || call(&at, "DELETE /storage/v1/b/b/o/a", &[], "").await;
    for (field, word) in [("temporaryHold", "Temporary"), ("eventBasedHold", "Event-Based")] {
        assert_eq!(patch("", &format!(r#"{{"{field}":true}}"#)).await.status, 200);
        let held = delete().await;
        assert!(held.status == 403 && held.reason() == "forbidden" && held.body.contains(word), "{}", held.body);
        assert_eq!(patch("", &format!(r#"{{"{field}":false}}"#)).await.status, 200);
    }
    let lock = |mode: &str, until: &str| format!(r#"{{"retention":{{"mode":"{mode}","retainUntilTime":"{until}"}}}}"#);
    let hour = in_minutes(60);
    assert_eq!(patch("", &lock("Unlocked", "2020-01-01T00:00:00Z")).await.status, 400, "not in the past");
    assert_eq!(patch("", r#"{"retention":{"mode":"Locked"}}"#).await.status, 400, "both or none");
    assert_eq!(patch("", &lock("Unlocked", &hour)).await.status, 200);
    assert_eq!(delete().await.reason(), "retentionPolicyNotMet");
    let sooner = lock("Unlocked", &in_minutes(30));
    assert_eq!(patch("", &sooner).await.status, 403, "shortening needs the word");
    assert_eq!(patch("overrideUnlockedRetention=true", &sooner).await.status, 200);
    assert_eq!(patch("", &lock("Unlocked", &hour)).await.status, 200, "longer is free");
    assert_eq!(patch("", &lock("Locked", &hour)).await.status, 403, "sealing needs the word");
    assert_eq!(patch("", r#"{"retention":null}"#).await.status, 403);
    assert_eq!(patch("overrideUnlockedRetention=true", &lock("Locked", &hour)).await.status, 200);
    assert_eq!(patch("overrideUnlockedRetention=true", r#"{"retention":null}"#).await.status, 403);
    assert_eq!(patch("overrideUnlockedRetention=true", &lock("Unlocked", &hour)).await.status, 403);
    assert_eq!(patch("", r#"{"eventBasedHold":true}"#).await.status, 400, "not beside a lock");
    let replace = call(&at, "POST /upload/storage/v1/b/b/o?uploadType=media&name=a", &[], "2").await;
    assert_eq!(replace.reason(), "retentionPolicyNotMet");
    let conditional =
        call(&at, "POST /upload/storage/v1/b/b/o?uploadType=media&name=a&ifGenerationMatch=0", &[], "2").await;
    assert_eq!(conditional.status, 412, "the precondition comes first");
    let rewrite = call(&at, "POST /storage/v1/b/b/o/a/rewriteTo/b/b/o/a", &[], r#"{"storageClass":"COLDLINE"}"#).await;
    assert_eq!(rewrite.reason(), "retentionPolicyNotMet");
    at.0.set_clock_ahead(Duration::from_secs(3601), false);
    assert_eq!(delete().await.status, 204);

    at.0.set_bucket("b", BucketSettings { retention_period: Some(60), versioning: true, ..BucketSettings::default() });
    put(&at, "a", "1").await;
    let refused = patch("", &lock("Locked", "2999-01-01T00:00:00Z")).await;
    assert!(refused.status == 400 && refused.body.contains("not enabled"), "{}", refused.body);
    let object = call(&at, "GET /storage/v1/b/b/o/a", &[], "").await.json();
    assert!(object["retentionExpirationTime"].is_string());
    let generation = object["generation"].as_str().unwrap();
    let pinned = format!("DELETE /storage/v1/b/b/o/a?generation={generation}");
    assert_eq!(call(&at, &pinned, &[], "").await.reason(), "retentionPolicyNotMet");
    assert_eq!(delete().await.status, 204, "a lock does not forbid to make it an older version");
    assert_eq!(call(&at, &pinned, &[], "").await.reason(), "retentionPolicyNotMet", "but it stays");
}

#[tokio::test]
async fn a_rewrite_goes_in_steps() {
    let at = service(BucketSettings { rewrite_step: 4, ..BucketSettings::default() }).await;
    put(&at, "a", "0123456789").await;
    let rewrite = async |query: &str| {
        let request = format!("POST /storage/v1/b/b/o/a/rewriteTo/b/b/o/a?{query}");
        call(&at, &request, &[], r#"{"storageClass":"ARCHIVE"}"#).await
    };
    let first = rewrite("").await.json();
    assert_eq!((&first["done"], first["totalBytesRewritten"].as_str()), (&Value::Bool(false), Some("4")));
    let token = first["rewriteToken"].as_str().unwrap();
    let second = rewrite(&format!("rewriteToken={token}")).await.json();
    assert_eq!(rewrite(&format!("rewriteToken={token}")).await.status, 400, "a token is used once");
    let last = rewrite(&format!("rewriteToken={}", second["rewriteToken"].as_str().unwrap())).await.json();
    assert_eq!((&last["done"], last["resource"]["storageClass"].as_str()), (&Value::Bool(true), Some("ARCHIVE")));
    assert_eq!(rewrite("ifSourceGenerationMatch=1").await.status, 412);
    assert_eq!(rewrite("ifGenerationMatch=1").await.status, 412);
    assert_eq!(call(&at, "GET /storage/v1/b/b/o/a?alt=media", &[], "").await.body, "0123456789");
}

#[tokio::test]
async fn tokens_are_those_that_were_issued() {
    let at = service(BucketSettings::default()).await;
    at.0.set_open(false);
    let get = async |token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        call(&at, "GET /storage/v1/b/b/o/below%2Fa", &headers, "").await
    };
    let none = get(None).await;
    assert_eq!((none.status, &*none.reason()), (401, "required"));
    let forged = get(Some("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.AAAA")).await;
    assert_eq!((forged.status, &*forged.reason()), (401, "authError"));
    let token = at.0.token(&[Grant::new(&["storage.objects.get"], "below/")]);
    assert_eq!(get(Some(&token)).await.status, 404);
    let other =
        at.0.token(&[Grant::new(&["storage.objects.get"], "beside/"), Grant::new(&["storage.objects.list"], "")]);
    let denied = get(Some(&other)).await;
    assert!(denied.status == 403 && denied.body.contains("Permission 'storage.objects.get' denied"), "{}", denied.body);
    at.0.set_clock_ahead(Duration::from_secs(3601), false);
    assert_eq!(get(Some(&token)).await.status, 401, "it has run out");
}

#[tokio::test]
async fn faults_happen_as_often_as_they_were_ordered() {
    let at = service(BucketSettings::default()).await;
    at.0.inject("head", Fault::Refuse(429, Some(3)), 1);
    at.0.inject("insert", Fault::LoseAnswer, 1);
    let insert = format!("{}/upload/storage/v1/b/b/o?uploadType=media&name=b", at.0.endpoint());
    assert!(at.1.post(insert).body("1").send().await.is_err());
    let refused = call(&at, "GET /storage/v1/b/b/o/b", &[], "").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("3")));
    assert_eq!(call(&at, "GET /storage/v1/b/b/o/b", &[], "").await.status, 200, "the lost insert was done");
    assert_eq!(at.0.requests(), ["insert", "head", "head"]);
    at.0.inject("*", Fault::Reset, 1);
    assert!(at.1.get(format!("{}/storage/v1/b/b", at.0.endpoint())).send().await.is_err());
}
