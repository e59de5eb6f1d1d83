//! How a recovering server gets its log from us: its `restore_command` is a small client that asks this process through a
//! Unix socket.
//!
//! A request is one line, the name of a file. The answer is one line: `delivered <bytes>` and then that many bytes,
//! `beyond`, or `error <text>`. The client writes the file itself, as the database's user, so nobody can make this process,
//! which may be root, write to a path of their choice.
//!
//! Invariant: the client ends with 1, which PostgreSQL takes for the end of the log, only on the server's explicit
//! `beyond`. Every doubt is an exit above 125, which stops the recovery.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use breakwater_core::Chain;
use breakwater_engine::{EngineError, EngineErrorKind, LogFetch, LogFetcher};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// The file was delivered.
pub const EXIT_DELIVERED: u8 = 0;
/// The plan proves that the file does not belong to the restore.
pub const EXIT_BEYOND: u8 = 1;
/// The fetch failed, and the server said why.
pub const EXIT_FAILED: u8 = 200;
/// Nobody answers at the socket.
pub const EXIT_NO_SERVER: u8 = 201;
/// The answer broke off, came too late or was not understood.
pub const EXIT_BAD_ANSWER: u8 = 202;
/// The file could not be written.
pub const EXIT_CANNOT_WRITE: u8 = 203;

/// How long one fetch may take on the client's side: retries against a slow region included.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest name, and the longest line of an answer.
const LONGEST_NAME: u64 = 128;
const LONGEST_LINE: u64 = 4096;
/// PostgreSQL asks for one file at a time.
const MOST_AT_ONCE: usize = 4;

/// Answers fetches until it is dropped.
#[derive(Debug)]
pub struct FetchServer {
    socket: PathBuf,
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
    // Where fetched files lie until they are handed over.
    _staging: TempDir,
}

impl FetchServer {
    /// Listens on `socket`, whose directory only the database's user can enter. Besides ourselves and root, only `user`
    /// may ask.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, user: u32, fetcher: Arc<dyn LogFetcher>) -> Result<FetchServer, EngineError> {
        let wrap =
            |error| EngineError::io(format!("cannot listen for the recovering server: {}", socket.display()), error);
        let staging = tempfile::Builder::new().prefix("breakwater-fetch-").tempdir().map_err(wrap)?;
        let listener = UnixListener::bind(socket).map_err(wrap)?;
        // The directory decides who reaches the socket; the server's own check is of the user.
        std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).map_err(wrap)?;
        let requests = Arc::new(AtomicU64::new(0));
        let serve = Serve { fetcher, staging: staging.path().to_owned(), user, requests: Arc::clone(&requests) };
        let task = tokio::spawn(serve.run(listener));
        Ok(FetchServer { socket: socket.to_owned(), requests, task, _staging: staging })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How many requests were answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for FetchServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Serve {
    fetcher: Arc<dyn LogFetcher>,
    staging: PathBuf,
    user: u32,
    requests: Arc<AtomicU64>,
}

impl Serve {
    async fn run(self, listener: UnixListener) {
        let mut clients = JoinSet::new();
        loop {
            if clients.len() >= MOST_AT_ONCE {
                clients.join_next().await;
            }
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (serve, number) = (self.clone(), self.requests.load(Ordering::Relaxed));
                    clients.spawn(async move {
                        if let Err(error) = serve.answer(stream).await {
                            tracing::debug!(number, %error, "a client of the fetch socket went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the fetch socket failed");
                    return;
                }
            }
            while clients.try_join_next().is_some() {}
        }
    }

    async fn answer(&self, stream: UnixStream) -> std::io::Result<()> {
        let asking = stream.peer_cred()?.uid();
        if ![0, self.user, rustix::process::geteuid().as_raw()].contains(&asking) {
            return Err(std::io::Error::other(format!("user {asking} may not ask")));
        }
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        let mut reader = tokio::io::BufReader::new(reader.take(LONGEST_NAME));
        tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await??;
        let name = line.strip_suffix('\n').unwrap_or_default();
        let answer = self.fetch(name).await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(Some(staged)) => {
                let mut file = tokio::fs::File::open(staged.path()).await?;
                let length = file.metadata().await?.len();
                writer.write_all(format!("delivered {length}\n").as_bytes()).await?;
                tokio::io::copy(&mut file, &mut writer).await?;
            }
            Ok(None) => writer.write_all(b"beyond\n").await?,
            Err(error) => {
                tracing::error!(name, error = %Chain(&error), "a piece of the log cannot be fetched");
                let text: String = Chain(&error)
                    .to_string()
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .take(2000)
                    .collect();
                writer.write_all(format!("error {text}\n").as_bytes()).await?;
            }
        }
        writer.shutdown().await
    }

    /// Fetches into the staging directory; `None` when the plan proves that there is nothing of this name.
    async fn fetch(&self, name: &str) -> Result<Option<Staged>, EngineError> {
        let plain = |c: char| c.is_ascii_hexdigit() || c.is_ascii_lowercase() || c == '.';
        if name.len() < 8 || !name.chars().all(plain) {
            return Err(EngineError::new(
                EngineErrorKind::Invalid,
                format!("not the name of a piece of the log: `{name}`"),
            ));
        }
        let wrap = |error| EngineError::io("cannot stage a piece of the log", error);
        let dir = tempfile::Builder::new().tempdir_in(&self.staging).map_err(wrap)?;
        let staged = Staged { path: dir.path().join(name), _dir: dir };
        match self.fetcher.fetch(name, staged.path()).await? {
            LogFetch::Delivered if staged.path().is_file() => Ok(Some(staged)),
            LogFetch::Delivered => Err(EngineError::new(
                EngineErrorKind::Internal,
                format!("{name} was called delivered and is not there"),
            )),
            LogFetch::BeyondPlan => Ok(None),
        }
    }
}

/// A fetched file, removed when it was handed over.
struct Staged {
    path: PathBuf,
    _dir: TempDir,
}

impl Staged {
    fn path(&self) -> &Path {
        &self.path
    }
}

/// The client: fetches `name` to `destination` and answers the exit code of the process. What it says goes to standard
/// error, which is the server's log. Blocking.
pub fn fetch_client(socket: &Path, name: &str, destination: &Path) -> u8 {
    fetch_client_within(socket, name, destination, FETCH_TIMEOUT)
}

fn fetch_client_within(socket: &Path, name: &str, destination: &Path, timeout: Duration) -> u8 {
    match ask(socket, name, destination, timeout) {
        Ok(LogFetch::Delivered) => EXIT_DELIVERED,
        Ok(LogFetch::BeyondPlan) => EXIT_BEYOND,
        Err(failure) => {
            eprintln!("breakwater: cannot fetch {name}: {}", failure.what);
            failure.exit
        }
    }
}

struct Failure {
    exit: u8,
    what: String,
}

fn failure(exit: u8, what: impl std::fmt::Display) -> Failure {
    Failure { exit, what: what.to_string() }
}

fn ask(socket: &Path, name: &str, destination: &Path, timeout: Duration) -> Result<LogFetch, Failure> {
    let no_server =
        |error: std::io::Error| failure(EXIT_NO_SERVER, format!("nobody answers at {}: {error}", socket.display()));
    let bad = |error: std::io::Error| failure(EXIT_BAD_ANSWER, format!("the answer broke off: {error}"));
    let mut stream = StdUnixStream::connect(socket).map_err(no_server)?;
    stream.set_read_timeout(Some(timeout)).map_err(no_server)?;
    stream.set_write_timeout(Some(timeout)).map_err(no_server)?;
    stream.write_all(format!("{name}\n").as_bytes()).map_err(no_server)?;

    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.by_ref().take(LONGEST_LINE).read_line(&mut line).map_err(bad)?;
    let Some(line) = line.strip_suffix('\n') else {
        return Err(failure(EXIT_BAD_ANSWER, "the answer broke off"));
    };
    if line == "beyond" {
        return Ok(LogFetch::BeyondPlan);
    }
    if let Some(text) = line.strip_prefix("error ") {
        return Err(failure(EXIT_FAILED, text));
    }
    let length: Option<u64> = line.strip_prefix("delivered ").and_then(|text| text.parse().ok());
    let Some(length) = length else {
        return Err(failure(EXIT_BAD_ANSWER, format!("not understood: `{line}`")));
    };
    write_file(&mut reader, length, destination).map(|()| LogFetch::Delivered)
}

/// Writes through a temporary name, so that half a file is never taken for a whole one.
fn write_file(reader: &mut impl std::io::Read, length: u64, destination: &Path) -> Result<(), Failure> {
    let mut temporary = destination.as_os_str().to_owned();
    temporary.push(".breakwater");
    let temporary = PathBuf::from(temporary);
    let cannot =
        |error: std::io::Error| failure(EXIT_CANNOT_WRITE, format!("cannot write {}: {error}", destination.display()));
    let mut file = std::fs::File::create(&temporary).map_err(cannot)?;
    let mut buffer = vec![0; 256 << 10];
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let chunk = buffer.get_mut(..wanted).unwrap_or_default();
        match reader.read(chunk) {
            Ok(0) => {
                return Err(failure(
                    EXIT_BAD_ANSWER,
                    format!("the answer broke off, {left} of {length} bytes are missing"),
                ));
            }
            Ok(count) => {
                file.write_all(chunk.get(..count).unwrap_or_default()).map_err(cannot)?;
                left -= count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failure(EXIT_BAD_ANSWER, format!("the answer broke off: {error}"))),
        }
    }
    // Not synced: the server replays it at once, and a crash in mid-recovery fetches it again.
    std::fs::rename(&temporary, destination).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed;

    #[async_trait::async_trait]
    impl LogFetcher for Fixed {
        async fn fetch(&self, name: &str, destination: &Path) -> Result<LogFetch, EngineError> {
            match name {
                "000000010000000000000001" => {
                    std::fs::write(destination, vec![7; 1 << 20]).unwrap();
                    Ok(LogFetch::Delivered)
                }
                "000000010000000000000002" => Ok(LogFetch::BeyondPlan),
                "000000010000000000000003" => Ok(LogFetch::Delivered),
                "000000010000000000000004" => std::future::pending().await,
                _ => Err(EngineError::new(EngineErrorKind::Unreachable, "region `east`\ndoes not answer")),
            }
        }
    }

    async fn exit(socket: &Path, name: &str, destination: &Path, timeout: Duration) -> u8 {
        let (socket, name, destination) = (socket.to_owned(), name.to_owned(), destination.to_owned());
        tokio::task::spawn_blocking(move || fetch_client_within(&socket, &name, &destination, timeout)).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_an_explicit_answer_ends_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("fetch.sock");
        let destination = dir.path().join("RECOVERYXLOG");
        let long = Duration::from_secs(20);
        assert_eq!(exit(&socket, "000000010000000000000001", &destination, long).await, EXIT_NO_SERVER);

        let server = FetchServer::start(&socket, rustix::process::geteuid().as_raw(), Arc::new(Fixed)).unwrap();
        assert_eq!(exit(&socket, "000000010000000000000001", &destination, long).await, EXIT_DELIVERED);
        assert_eq!(std::fs::read(&destination).unwrap(), vec![7; 1 << 20]);
        std::fs::remove_file(&destination).unwrap();
        assert_eq!(exit(&socket, "000000010000000000000002", &destination, long).await, EXIT_BEYOND);
        assert_eq!(exit(&socket, "000000010000000000000003", &destination, long).await, EXIT_FAILED);
        assert_eq!(exit(&socket, "000000010000000000000009", &destination, long).await, EXIT_FAILED);
        assert_eq!(exit(&socket, "../../etc/passwd", &destination, long).await, EXIT_FAILED);
        assert_eq!(exit(&socket, "", &destination, long).await, EXIT_FAILED);
        let short = Duration::from_millis(200);
        assert_eq!(exit(&socket, "000000010000000000000004", &destination, short).await, EXIT_BAD_ANSWER);
        let nowhere = dir.path().join("none/RECOVERYXLOG");
        assert_eq!(exit(&socket, "000000010000000000000001", &nowhere, long).await, EXIT_CANNOT_WRITE);
        assert!(!destination.exists());
        drop(server);
    }

    #[test]
    fn a_broken_answer_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let destination = dir.path().join("x");
        for answer in ["", "beyond", "delivered 10\nabc", "delivered many\n", "delivered -1\n", "yes\n"] {
            std::fs::remove_file(&socket).ok();
            let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let served = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let exit = fetch_client_within(&socket, "000000010000000000000001", &destination, Duration::from_secs(10));
            served.join().unwrap();
            assert!(exit > 125, "{answer:?} ended with {exit}");
            assert!(!destination.exists(), "{answer:?}");
        }
    }
}
