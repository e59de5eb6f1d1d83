//! Moto, which plays AWS: the key management service, S3 and IAM on a port of its own, with keys and objects that are gone when it
//! stops.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::dirs::{caches, tail, temp_dir};
use crate::port::free_port;

/// How long it may take to start; Python reads much before it does.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a start on a fresh port is tried, should somebody else take it first.
const TRIES: u32 = 3;

const REGION: &str = "eu-central-1";

/// Moto with one request at a time: it looks whether a name is free and writes later, so creates at once would race, as they do not
/// on S3.
const PROGRAM: &str = "
import threading, moto.server as server
lock, answer = threading.Lock(), server.DomainDispatcherApplication.__call__
def one_at_a_time(*arguments):
    with lock:
        return answer(*arguments)
server.DomainDispatcherApplication.__call__ = one_at_a_time
server.main()
";

/// A running moto server. Killed when dropped.
#[derive(Debug)]
pub struct Moto {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Moto {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Result<Moto> {
        let python = find_python()?;
        let mut last = None;
        for _ in 0..TRIES {
            let dir = temp_dir("moto")?;
            let port = free_port();
            let log = File::create(dir.path().join("log")).context("make moto's log")?;
            let mut command = Command::new(&python);
            command.args(["-c", PROGRAM, "-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(dir.path());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            let mut moto = Moto { dir, port, child: command.spawn().context("start moto")? };
            match moto.wait().await {
                Ok(()) => return Ok(moto),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("moto found no free port")?)
    }

    async fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.call("TrentService.ListKeys", "{}").await.is_err() {
            let exited = self.child.try_wait()?;
            if exited.is_some() || start.elapsed() > PATIENCE {
                bail!("moto did not come up ({exited:?}); its log ends:\n{}", tail(&self.dir.path().join("log"), 15));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Where it listens: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The environment that sends AWS clients here, and nowhere else.
    pub fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", "testing".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "testing".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Makes a symmetric key. Gives its id.
    pub async fn create_key(&self) -> Result<String> {
        let answer = self.call("TrentService.CreateKey", "{}").await?;
        let id = answer["KeyMetadata"]["KeyId"].as_str();
        id.map(str::to_owned).with_context(|| format!("moto made no key: {answer}"))
    }

    async fn call(&self, target: &str, body: &str) -> Result<serde_json::Value> {
        let headers = format!("Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: {target}\r\n");
        let body = self.post("/", "kms", &headers, body).await.with_context(|| format!("ask moto for {target}"))?;
        Ok(if body.trim().is_empty() { serde_json::Value::Null } else { serde_json::from_str(&body)? })
    }

    /// Makes a user who may do what `policy` (a document in JSON) allows. Gives the id of an access key and its secret.
    pub async fn create_user(&self, name: &str, policy: &str) -> Result<(String, String)> {
        self.iam(&[("Action", "CreateUser"), ("UserName", name)]).await?;
        let policy = [("UserName", name), ("PolicyName", "p"), ("PolicyDocument", policy)];
        self.iam(&[&[("Action", "PutUserPolicy")], &policy[..]].concat()).await?;
        let answer = self.iam(&[("Action", "CreateAccessKey"), ("UserName", name)]).await?;
        let element = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>"))?;
            Some(rest.split_once("</")?.0.to_owned())
        };
        element("AccessKeyId").zip(element("SecretAccessKey")).with_context(|| format!("moto made no key: {answer}"))
    }

    /// From now on every request is checked: its signature, and what its user may do. Until then moto lets all pass.
    pub async fn enforce_policies(&self) -> Result<()> {
        self.post("/moto-api/reset-auth", "iam", "", "0").await.map(drop).context("make moto strict")
    }

    async fn iam(&self, parameters: &[(&str, &str)]) -> Result<String> {
        let pairs = parameters.iter().chain(&[("Version", "2010-05-08")]);
        let body = pairs.map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&");
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.post("/", "iam", headers, &body).await.with_context(|| format!("ask moto for {parameters:?}"))
    }

    /// Makes a bucket without versions.
    pub async fn create_bucket(&self, name: &str) -> Result<()> {
        self.bucket(name, "").await
    }

    /// Makes a bucket with versions whose objects can be locked.
    pub async fn create_locking_bucket(&self, name: &str) -> Result<()> {
        self.bucket(name, "x-amz-bucket-object-lock-enabled: true\r\n").await
    }

    async fn bucket(&self, name: &str, headers: &str) -> Result<()> {
        let place = format!(
            "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        let made = self.send("PUT", &format!("/{name}"), "s3", headers, &place).await;
        made.map(drop).with_context(|| format!("make the bucket {name}"))
    }

    async fn post(&self, path: &str, service: &str, headers: &str, body: &str) -> Result<String> {
        self.send("POST", path, service, headers, body).await
    }

    /// The body of the answer, which must be a success.
    async fn send(&self, method: &str, path: &str, service: &str, headers: &str, body: &str) -> Result<String> {
        let talk = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            // Moto looks for the service's name in the scope of the signature, and does not verify it unless told to.
            let request = format!(
                "{method} {path} HTTP/1.0\r\nHost: {service}.{REGION}.amazonaws.com\r\n{headers}\
                 Authorization: AWS4-HMAC-SHA256 Credential=testing/20260101/{REGION}/{service}/aws4_request, \
                 SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
            if head.split(' ').nth(1) != Some("200") {
                bail!("moto refused: {answer}");
            }
            Ok(body.to_owned())
        };
        tokio::time::timeout(Duration::from_secs(10), talk).await.context("moto took too long")?
    }
}

/// Percent-encodes a value of a form.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn find_python() -> Result<PathBuf> {
    let found = caches().into_iter().map(|cache| cache.join("moto/bin/python")).find(|path| path.exists());
    found.context("moto is not installed\nhint: run tests/setup")
}
