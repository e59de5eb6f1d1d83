//! A proxy between a client and an HTTP store on this host that does to requests what networks and stores do on bad days.
//!
//! Faults are drawn from a seed, one request after the other. What the proxy does is real: connections are reset, bytes are missing,
//! requests arrive twice or long after their client gave up. It knows nothing of what it carries but which requests put an object and
//! which list objects.

mod message;
mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use message::{Answer, Request};
pub use plan::{Dice, FaultKind, Odds};

/// How long the store may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What takes the store longer than this is noted.
const SLOW: Duration = Duration::from_secs(3);

/// The pieces into which a slow answer is cut, and the longest wait between two. One slow answer in four hangs before its last piece.
const PIECES: usize = 8;
const LONGEST_PAUSE_MILLIS: u64 = 100;
const HANG: Duration = Duration::from_secs(10);

/// Requests that a storm answers at most, and after how many further requests a late put arrives at most.
const STORM: u64 = 12;
const LATE: u64 = 40;

/// A running proxy. Stops when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    odds: Odds,
    injected: BTreeMap<FaultKind, u64>,
    storm: Option<Storm>,
    /// Puts that are held, with the requests after which each arrives.
    late: Vec<(u64, Request)>,
    late_targets: BTreeSet<String>,
    /// What took the store so long that the client may have given up before it was done.
    slow_targets: BTreeSet<String>,
    /// What a list said when it was last asked.
    listed: HashMap<String, Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct Storm {
    left: u64,
    status: u16,
    retry_after: Option<u64>,
}

impl FaultProxy {
    /// A proxy before the store at `upstream` (`http://127.0.0.1:port`), drawing faults of `odds` from `seed`.
    pub async fn start(upstream: &str, seed: u64, odds: Odds) -> Result<FaultProxy> {
        let upstream = upstream.strip_prefix("http://").context("the store speaks plain HTTP")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen for clients of the proxy")?;
        let port = listener.local_addr()?.port();
        let state = State {
            dice: Dice::new(seed),
            odds,
            injected: BTreeMap::new(),
            storm: None,
            late: Vec::new(),
            late_targets: BTreeSet::new(),
            slow_targets: BTreeSet::new(),
            listed: HashMap::new(),
        };
        let shared = Arc::new(Shared { upstream: upstream.to_owned(), state: Mutex::new(state) });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(FaultProxy { port, shared, task })
    }

    /// Where it listens: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How often each fault was done so far.
    pub fn injected(&self) -> BTreeMap<FaultKind, u64> {
        self.shared.state().injected.clone()
    }

    /// Whether a put of what ends with `key` was ever held back and delivered late.
    pub fn was_late(&self, key: &str) -> bool {
        self.shared.state().late_targets.iter().any(|subject| subject.ends_with(key))
    }

    /// Whether the store itself ever took unusually long for a request about what ends with `key`, so that it was done when its client
    /// had perhaps given up.
    pub fn was_slow(&self, key: &str) -> bool {
        self.shared.state().slow_targets.iter().any(|subject| subject.ends_with(key))
    }

    /// Ends all faults and delivers what is still held.
    pub async fn heal(&self) -> Result<()> {
        let held = {
            let mut state = self.shared.state();
            (state.odds, state.storm) = (Odds::none(), None);
            std::mem::take(&mut state.late)
        };
        for (_, put) in held {
            self.shared.forward(&put).await?;
        }
        Ok(())
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut clients = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let shared = Arc::clone(&shared);
                // Whatever ends a connection is the client's to see.
                clients.spawn(async move { shared.serve(stream).await.ok() });
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection until it ends, by the client or by a fault.
    async fn serve(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut client = BufReader::new(stream);
        while let Some(request) = Request::read(&mut client).await? {
            self.deliver_late().await?;
            let fault = self.state().draw(&request);
            let goes_on = match fault {
                None => {
                    let answer = self.forward(&request).await?;
                    client.get_mut().write_all(&answer.to_bytes()).await?;
                    self.state().remember(&request, &answer);
                    true
                }
                Some(fault) => self.inject(fault, &request, &mut client).await?,
            };
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Does `fault` to `request`. Answers whether the connection lives on.
    async fn inject(&self, fault: FaultKind, request: &Request, client: &mut BufReader<TcpStream>) -> Result<bool> {
        let stream = client.get_mut();
        match fault {
            FaultKind::ResetBefore => reset(stream)?,
            FaultKind::ResetInRequest => {
                let bytes = request.to_bytes();
                let mut store = TcpStream::connect(&self.upstream).await?;
                store.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default()).await?;
                store.set_zero_linger()?;
                reset(stream)?;
            }
            FaultKind::ResetInAnswer => {
                let bytes = self.forward(request).await?.to_bytes();
                stream.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default()).await?;
                stream.flush().await?;
                reset(stream)?;
            }
            FaultKind::ResetAfter => {
                self.forward(request).await?;
                reset(stream)?;
            }
            FaultKind::Truncate => {
                // An orderly end before the length that was promised.
                let bytes = self.forward(request).await?.to_bytes();
                stream.write_all(bytes.get(..bytes.len().saturating_sub(2)).unwrap_or_default()).await?;
                stream.shutdown().await?;
            }
            FaultKind::Storm => {
                let storm = self.state().storm_answer();
                let refusal = Answer::refusal(storm.status, storm.retry_after, request.is_head());
                stream.write_all(&refusal.to_bytes()).await?;
                return Ok(true);
            }
            FaultKind::Trickle => {
                let bytes = self.forward(request).await?.to_bytes();
                let mut left = bytes.chunks(bytes.len().div_ceil(PIECES).max(1)).peekable();
                while let Some(piece) = left.next() {
                    let pause = self.state().pause(left.peek().is_none());
                    tokio::time::sleep(pause).await;
                    stream.write_all(piece).await?;
                }
                return Ok(true);
            }
            FaultKind::Twice => {
                let first = self.forward(request).await?;
                let second = self.forward(request).await?;
                let answer = if self.state().dice.below(2) == 0 { first } else { second };
                stream.write_all(&answer.to_bytes()).await?;
                return Ok(true);
            }
            FaultKind::Late => {
                let mut state = self.state();
                let after = 1 + state.dice.below(LATE);
                state.late.push((after, request.clone()));
                state.late_targets.insert(request.subject());
                drop(state);
                reset(stream)?;
            }
            FaultKind::ShortList | FaultKind::LostPage | FaultKind::StaleList => {
                let mut answer = self.forward(request).await?;
                let earlier = self.state().listed.get(request.target()).cloned();
                match fault {
                    FaultKind::ShortList => answer.drop_last_listed(),
                    FaultKind::LostPage => answer.end_list(),
                    _ => answer.body = earlier.unwrap_or(answer.body),
                }
                stream.write_all(&answer.to_bytes()).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Delivers puts whose time has come.
    async fn deliver_late(&self) -> Result<()> {
        let due: Vec<Request> = {
            let mut state = self.state();
            state.late.iter_mut().for_each(|(after, _)| *after = after.saturating_sub(1));
            let (due, held) = std::mem::take(&mut state.late).into_iter().partition(|(after, _)| *after == 0);
            state.late = held;
            Vec::into_iter(due).map(|(_, put)| put).collect()
        };
        for put in due {
            self.forward(&put).await?;
        }
        Ok(())
    }

    async fn forward(&self, request: &Request) -> Result<Answer> {
        let exchange = async {
            let mut store = TcpStream::connect(&self.upstream).await.context("the store does not listen")?;
            store.set_nodelay(true)?;
            store.write_all(&request.to_bytes()).await?;
            Answer::read(&mut BufReader::new(store), request.is_head()).await
        };
        let begun = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        if begun.elapsed() > SLOW {
            self.state().slow_targets.insert(request.subject());
        }
        match answer {
            Ok(answer) => answer,
            Err(_) => bail!("the store does not answer"),
        }
    }
}

/// Ends a connection so that the other side sees a reset.
fn reset(stream: &TcpStream) -> Result<()> {
    Ok(stream.set_zero_linger()?)
}

impl State {
    /// The fault that `request` meets, counted.
    fn draw(&mut self, request: &Request) -> Option<FaultKind> {
        let fault = match &self.storm {
            Some(_) => Some(FaultKind::Storm),
            None => self.odds.draw(&mut self.dice, request.is_put(), request.is_list(), request.is_head()),
        }?;
        *self.injected.entry(fault).or_default() += 1;
        Some(fault)
    }

    /// The wait before a piece of a slow answer.
    fn pause(&mut self, is_last: bool) -> Duration {
        if is_last && self.dice.below(4) == 0 {
            HANG
        } else {
            Duration::from_millis(self.dice.below(LONGEST_PAUSE_MILLIS))
        }
    }

    /// What the storm that is on answers, or a new one.
    fn storm_answer(&mut self) -> Storm {
        let storm = self.storm.unwrap_or_else(|| Storm {
            left: 1 + self.dice.below(STORM),
            status: if self.dice.below(2) == 0 { 500 } else { 503 },
            retry_after: (self.dice.below(4) == 0).then_some(1),
        });
        self.storm = (storm.left > 1).then_some(Storm { left: storm.left - 1, ..storm });
        storm
    }

    fn remember(&mut self, request: &Request, answer: &Answer) {
        if request.is_list() {
            self.listed.insert(request.target().to_owned(), answer.body.clone());
        }
    }
}
