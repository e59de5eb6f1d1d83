//! Starting and stopping a controller.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use breakwater_core::{Chain, Clock, Entropy, ErrorClass, Uid};
use breakwater_proto::v1::agent_link_server::AgentLinkServer;
use breakwater_proto::v1::enrolment_server::EnrolmentServer;
use breakwater_proto::v1::operator_server::OperatorServer;
use breakwater_runtime::{SystemClock, SystemEntropy, TaskGroup};
use breakwater_state::StateStore;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::auth::{Doorkeeper, operator_token};
use crate::book::Book;
use crate::config::ControllerConfig;
use crate::dispatcher::Dispatcher;
use crate::enrolment::Registrar;
use crate::fleet::Fleet;
use crate::jobs::Jobs;
use crate::link::Link;
use crate::operator::Desk;
use crate::overview::Overview;
use crate::pki::{Authority, PkiError};

/// How long a stopping controller waits for its tasks.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A quiet connection is probed this often, and dropped when the probe is not answered.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How often the state's history is compacted.
const COMPACTION_PERIOD: Duration = Duration::from_secs(300);

/// Revisions of history kept for watchers that come late.
const HISTORY_REVISIONS: u64 = 10_000;

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or directory.
    #[error("{}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The address.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Keys or certificates.
    #[error("certificates")]
    Pki(#[from] PkiError),
    /// The store.
    #[error("the state store")]
    State(#[from] breakwater_state::StateError),
    /// TLS.
    #[error("the server's TLS settings")]
    Tls(#[source] tonic::transport::Error),
}

impl StartError {
    /// The class.
    pub fn class(&self) -> ErrorClass {
        match self {
            StartError::File { source, .. } | StartError::Listen { source, .. } => ErrorClass::of_io(source),
            StartError::Pki(error) => error.class(),
            StartError::State(error) => error.class(),
            StartError::Tls(_) => ErrorClass::Internal,
        }
    }
}

/// A running controller.
#[derive(Debug)]
pub struct Running {
    /// The address that it serves on.
    pub address: SocketAddr,
    /// Its id.
    pub controller_id: String,
    /// The authority's certificate, PEM.
    pub ca_pem: String,
    /// The authority's pin.
    pub ca_pin: String,
    /// The operator token.
    pub operator_token: String,
    /// A file that `brctl` reads to reach it.
    pub context_file: PathBuf,
    /// Makes join tokens without a network call.
    pub registrar: Registrar,
    tasks: TaskGroup,
}

impl Running {
    /// Stops serving. Agents go on without it. Answers the names of tasks that would not stop.
    pub async fn stop(self) -> Result<(), Vec<String>> {
        self.tasks.shutdown(STOP_PATIENCE).await
    }
}

/// Starts a controller on `store`.
pub async fn start(config: ControllerConfig, store: Arc<dyn StateStore>) -> Result<Running, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let now = clock.now();
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::File { path, source }
    };
    std::fs::create_dir_all(&config.data_dir).map_err(file_error(&config.data_dir))?;
    let authority = Arc::new(Authority::open(&config.data_dir.join("pki"), now)?);
    let token_path = config.data_dir.join("operator.token");
    let token = operator_token(&token_path, entropy.as_ref()).map_err(file_error(&token_path))?;

    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Listen { address: config.listen, source })?;
    let address = listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
    let context_file = config.data_dir.join("brctl.json");
    write_context(&context_file, address, authority.certificate_pem(), &token).map_err(file_error(&context_file))?;

    let controller_id = Uid::v7(now, entropy.as_ref()).to_string();
    let book = Book::new(store);
    let fleet = Arc::new(Fleet::default());
    let jobs = Jobs::new(book.clone(), Arc::clone(&fleet));
    let registrar = Registrar::new(book.clone(), Arc::clone(&authority), Arc::clone(&clock), Arc::clone(&entropy));
    let overview =
        Overview { book: book.clone(), fleet: Arc::clone(&fleet), jobs: jobs.clone(), clock: Arc::clone(&clock) };
    let doorkeeper = Doorkeeper::new(Arc::clone(&authority), &token);
    let tasks = TaskGroup::new("controller");

    let dispatcher =
        Dispatcher { book: book.clone(), fleet: Arc::clone(&fleet), jobs: jobs.clone(), clock: Arc::clone(&clock) };
    tasks.spawn("dispatcher", dispatcher.run(tasks.token()));
    tasks.spawn("compaction", compact(Arc::clone(book.store()), tasks.token()));

    let link = Link {
        doorkeeper: doorkeeper.clone(),
        book: book.clone(),
        fleet: Arc::clone(&fleet),
        jobs: jobs.clone(),
        clock: Arc::clone(&clock),
        controller_id: controller_id.clone(),
        shutdown: tasks.token(),
    };
    let (metrics_for, overview_for) = (doorkeeper.clone(), overview.clone());
    let desk = Desk {
        doorkeeper,
        book,
        fleet,
        jobs,
        registrar: registrar.clone(),
        overview,
        clock,
        controller_id: controller_id.clone(),
    };
    let routes = Routes::new(EnrolmentServer::new(registrar.clone()))
        .add_service(AgentLinkServer::new(link))
        .add_service(OperatorServer::new(desk))
        .into_axum_router()
        .route("/metrics", axum::routing::get(move |headers| metrics(metrics_for, overview_for, headers)));
    let server = Server::builder()
        .tls_config(tls(&config, &authority, address, now)?)
        .map_err(StartError::Tls)?
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(Routes::from(routes));
    let token_of_tasks = tasks.token();
    tasks.spawn("server", async move {
        let incoming = TcpListenerStream::new(listener);
        // Streams of watchers and agents would hold a graceful end for ever, so it is bounded.
        tokio::select! {
            result = server.serve_with_incoming(incoming) => {
                if let Err(error) = result {
                    tracing::error!(error = %Chain(&error), "the server ended");
                }
            }
            () = token_of_tasks.cancelled() => {}
        }
    });
    tracing::info!(%address, controller.id = controller_id, "controller started");
    Ok(Running {
        address,
        controller_id,
        ca_pem: authority.certificate_pem().to_owned(),
        ca_pin: authority.pin(),
        operator_token: token,
        context_file,
        registrar,
        tasks,
    })
}

/// Answers what monitoring asks, to an operator.
async fn metrics(doorkeeper: Doorkeeper, overview: Overview, headers: HeaderMap) -> axum::response::Response {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Err(message) = doorkeeper.bearer(header) {
        return (StatusCode::UNAUTHORIZED, message).into_response();
    }
    match crate::metrics::text(&overview).await {
        Ok(text) => ([(CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Chain(&error).to_string()).into_response(),
    }
}

/// Gives up the history that no watcher needs any more; etcd would keep it for ever.
async fn compact(store: Arc<dyn StateStore>, shutdown: tokio_util::sync::CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(COMPACTION_PERIOD) => {}
        }
        let compacted = match store.revision().await {
            Ok(revision) if revision.0 > HISTORY_REVISIONS => {
                store.compact(breakwater_state::Revision(revision.0 - HISTORY_REVISIONS)).await
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = compacted {
            tracing::warn!(error = %Chain(&error), "the state's history was not compacted");
        }
    }
}

/// TLS for both kinds of callers: agents show a certificate, people and enrolling agents do not.
fn tls(
    config: &ControllerConfig,
    authority: &Authority,
    address: SocketAddr,
    now: breakwater_core::Timestamp,
) -> Result<ServerTlsConfig, StartError> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), address.ip().to_string()];
    names.extend(config.advertise.iter().cloned());
    names.dedup();
    let identity = authority.server(&names, now)?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(identity.certificate_pem, identity.key_pem))
        .client_ca_root(Certificate::from_pem(authority.certificate_pem()))
        .client_auth_optional(true))
}

/// Writes what `brctl` needs to reach this controller, for this user only.
fn write_context(path: &Path, address: SocketAddr, ca_pem: &str, token: &str) -> std::io::Result<()> {
    let host = if address.ip().is_unspecified() { "localhost".to_owned() } else { address.ip().to_string() };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let context = serde_json::json!({
        "controller": format!("https://{host}:{}", address.port()),
        "ca": ca_pem,
        "token": token,
    });
    let temporary = path.with_extension("json.new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{context:#}")?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}
