//! Google Cloud Storage as its JSON API reference describes it (<https://cloud.google.com/storage/docs/json_api/v1>), in this
//! process and in memory. It is strict: a parameter, a field or a header that it does not know is refused, so that a test never
//! passes because something was ignored. Where answers of the real service are known to differ from the reference, it gives
//! those; each such place says so.
//!
//! Reading order: this file (what tests set up and ask), `gcs/serve.rs` (connections, faults, the log), `gcs/route.rs` (which
//! request is what), `gcs/upload.rs`, `gcs/objects.rs`, `gcs/list.rs` (what is done), `gcs/store.rs` (what there is),
//! `gcs/access.rs` (who may).

mod access;
mod answer;
mod list;
mod objects;
mod route;
mod serve;
mod store;
mod upload;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use breakwater_core::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use access::Grant;
pub use store::BucketSettings;

/// A running service. Gone when dropped.
#[derive(Debug)]
pub struct Gcs {
    address: String,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

/// What happens to a request instead of what should.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is refused with this status and, in seconds, `Retry-After`.
    Refuse(u16, Option<u64>),
    /// The connection is closed before anything is done.
    Reset,
    /// It is done, and the connection is closed without an answer.
    LoseAnswer,
    /// Of a piece of an upload, so many bytes are stored; then the connection is closed.
    StorePart(usize),
    /// The answer promises its length and ends after half of it.
    CutAnswer,
    /// One bit of the content of the request is turned on the way in.
    DamageRequest,
    /// One bit of the content of the answer is turned on the way out.
    DamageAnswer,
}

/// Everything the service knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) store: store::Store,
    pub(crate) access: access::Access,
    pub(crate) faults: VecDeque<(&'static str, Fault)>,
    pub(crate) log: Vec<&'static str>,
    /// How far its clock is ahead of the host's, in microseconds.
    ahead: i64,
}

impl State {
    /// The present moment by the service's clock.
    pub(crate) fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)).plus_micros(self.ahead)
    }
}

impl Gcs {
    /// Starts a service without buckets.
    pub async fn start() -> Result<Gcs> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let server = tokio::spawn(serve::serve(listener, Arc::clone(&state)));
        Ok(Gcs { address, state, server })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Where it listens: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its metadata server, as `GCE_METADATA_HOST` names one.
    pub fn metadata_host(&self) -> &str {
        &self.address
    }

    /// Makes a bucket, or changes its settings.
    pub fn set_bucket(&self, name: &str, settings: BucketSettings) {
        self.state().store.set_bucket(name, settings);
    }

    /// Takes a bucket away with all that is in it.
    pub fn remove_bucket(&self, name: &str) {
        self.state().store.remove_bucket(name);
    }

    /// A token for whoever shows it. An empty list of grants is an account that may do nothing.
    pub fn token(&self, grants: &[Grant]) -> String {
        let now = self.state().now();
        self.state().access.issue(grants.to_vec(), now)
    }

    /// The key file of a service account with these grants.
    pub fn service_account(&self, email: &str, grants: &[Grant]) -> Result<String> {
        self.state().access.service_account(email, grants.to_vec())
    }

    /// A configuration of workload identity federation for a pool that trades the token in `subject_file`, when it reads
    /// `subject`, for one with these grants.
    pub fn federation(&self, subject: &str, subject_file: &str, grants: &[Grant]) -> String {
        self.state().access.federate(&self.endpoint(), subject, subject_file, grants.to_vec())
    }

    /// What the account of the metadata server may do; without this there is none.
    pub fn set_host_identity(&self, grants: &[Grant]) {
        self.state().access.host = Some(grants.to_vec());
    }

    /// Whether requests without a token may do everything, as in an emulator.
    pub fn set_open(&self, open: bool) {
        self.state().access.open = open;
    }

    /// Sets its clock ahead of the host's, or behind it.
    pub fn set_clock_ahead(&self, by: Duration, behind: bool) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.state().ahead = if behind { -micros } else { micros };
    }

    /// The next `times` requests of the kind `operation` go wrong. Kinds: those of [`requests`](Gcs::requests), `*` for any.
    pub fn inject(&self, operation: &'static str, fault: Fault, times: usize) {
        let mut state = self.state();
        state.faults.extend((0..times).map(|_| (operation, fault.clone())));
    }

    /// The kinds of the requests since the last call: `bucket`, `head`, `media`, `list`, `insert`, `begin`, `piece`, `ask`,
    /// `cancel`, `patch`, `delete`, `rewrite`, `token`, and `unknown`.
    pub fn requests(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().log)
    }

    /// How many versions a bucket holds in all, whatever their names.
    pub fn versions(&self, bucket: &str) -> usize {
        self.state().store.versions(bucket)
    }

    /// Turns a bit of what is stored as the live object `name`.
    pub fn damage(&self, bucket: &str, name: &str) {
        self.state().store.damage(bucket, name);
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Each request changes the state in one go, so it is whole also after a panic elsewhere.
pub(crate) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
