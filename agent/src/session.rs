//! The one stream between this agent and a controller: dialled, lost and dialled again for as long as the agent runs.
//!
//! Invariant: nothing that the agent does waits for a controller. Jobs and streams go on without one; what they have to
//! say lies in the [`outbox`] or the journal until somebody hears it.

pub mod outbox;

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Chain, Entropy, ErrorClass};
use breakwater_proto::v1::agent_link_client::AgentLinkClient;
use breakwater_proto::v1::agent_message::Body as Said;
use breakwater_proto::v1::controller_message::Body as Told;
use breakwater_proto::{PROTOCOL_VERSION, v1};
use breakwater_runtime::{RetryPolicy, TaskGroup};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};

use crate::error::AgentError;
use crate::identity::renew::CurrentIdentity;
use crate::jobs::Runner;
use crate::questions::Respondent;
use outbox::{Outbox, SentResults};

/// Waits between tries at a session.
const RETRY: RetryPolicy = RetryPolicy::new(u32::MAX, Duration::from_millis(500), Duration::from_secs(30));

/// The wait after a controller has shut this agent out; half of it more or less.
const SHUT_OUT: Duration = Duration::from_secs(30);

/// No try comes sooner after the last one than this.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// How long dialling and greeting may take.
const GREETING: Duration = Duration::from_secs(15);

/// How long a controller may leave a message untaken before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// A silent connection is probed this often.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Messages on their way out.
const IN_FLIGHT: usize = 32;

/// How the last session ended, or that there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Dialling.
    Away,
    /// A controller greets back.
    Connected {
        /// Its id.
        controller: String,
    },
    /// The controller will not have this agent.
    ShutOut {
        /// Why.
        reason: String,
    },
}

/// Keeps a session with a controller.
#[derive(Debug)]
pub struct SessionTask {
    /// Who we are; renewals change it.
    pub identity: CurrentIdentity,
    /// Where to dial.
    pub controller: String,
    /// The name of this host.
    pub host: String,
    /// What waits to be said.
    pub outbox: Arc<Outbox>,
    /// The jobs.
    pub runner: Runner,
    /// Answers questions.
    pub respondent: Respondent,
    /// Where assignments go.
    pub assignments: watch::Sender<Option<v1::Assignment>>,
    /// The last assignment applied.
    pub applied: watch::Receiver<u64>,
    /// Where the state of the link is shown.
    pub state: watch::Sender<LinkState>,
    /// Answers run here.
    pub tasks: TaskGroup,
    /// Draws the jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// Why a session is over.
enum End {
    Stopped,
    Lost(AgentError),
}

impl SessionTask {
    /// Dials and listens until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let mut greeted = false;
            let error = match self.once(&stop, &mut greeted).await {
                End::Stopped => return,
                End::Lost(error) => error,
            };
            failures = if greeted { 0 } else { failures };
            let wait = if crate::identity::is_shut_out(error.class()) {
                self.state.send_replace(LinkState::ShutOut { reason: Chain(&error).to_string() });
                tracing::warn!(error = %Chain(&error), "the controller shuts this agent out; streams and jobs go on");
                SHUT_OUT / 2 + RetryPolicy::new(1, SHUT_OUT, SHUT_OUT).delay(0, self.entropy.as_ref())
            } else {
                self.state.send_replace(LinkState::Away);
                if failures == 0 {
                    tracing::warn!(error = %Chain(&error), "no session with a controller; streams and jobs go on");
                } else {
                    tracing::debug!(error = %Chain(&error), failures, "still no session with a controller");
                }
                RETRY.delay(failures, self.entropy.as_ref()).max(LEAST_WAIT)
            };
            failures = failures.saturating_add(1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn once(&self, stop: &CancellationToken, greeted: &mut bool) -> End {
        let (sender, messages) = mpsc::channel(IN_FLIGHT);
        let greeting = async {
            let channel = self.dial().await?;
            let hello = v1::AgentMessage { body: Some(Said::Hello(self.hello())) };
            sender.try_send(hello).map_err(|_| AgentError::Defect("a new channel is full".to_owned()))?;
            let mut client = AgentLinkClient::new(channel);
            let told = client.session(ReceiverStream::new(messages)).await;
            Ok((client, told.map_err(AgentError::controller("the session"))?.into_inner()))
        };
        let greeting = async {
            match tokio::time::timeout(GREETING, greeting).await {
                Ok(done) => done,
                Err(_) => Err(AgentError::Unavailable(format!("{} does not answer in time", self.controller))),
            }
        };
        let (client, mut told) = tokio::select! {
            () = stop.cancelled() => return End::Stopped,
            greeted = greeting => match greeted {
                Ok(both) => both,
                Err(error) => return End::Lost(error),
            },
        };
        let mut sent = SentResults::default();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outgoing = tokio::select! {
                () = stop.cancelled() => return End::Stopped,
                message = told.message() => match message {
                    Ok(Some(v1::ControllerMessage { body: Some(body) })) => {
                        *greeted = true;
                        match self.hear(body, &client) {
                            Ok(()) => continue,
                            Err(error) => return End::Lost(error),
                        }
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) => return End::Lost(AgentError::Unavailable("the controller ended the session".to_owned())),
                    Err(status) => return End::Lost(AgentError::controller("the session")(status)),
                },
                () = self.outbox.urgent() => self.outbox.take_urgent(&mut sent),
                _ = second.tick() => self.outbox.take_all(&mut sent),
            };
            for message in outgoing {
                let sending = tokio::time::timeout(PATIENCE, sender.send(message));
                let taken = tokio::select! {
                    () = stop.cancelled() => return End::Stopped,
                    taken = sending => taken,
                };
                if !matches!(taken, Ok(Ok(()))) {
                    return End::Lost(AgentError::Unavailable("the controller takes no messages".to_owned()));
                }
            }
        }
    }

    fn hear(&self, body: Told, client: &AgentLinkClient<Channel>) -> Result<(), AgentError> {
        match body {
            Told::Welcome(welcome) => {
                tracing::info!(controller.id = welcome.controller_id, version = welcome.version, "connected");
                self.state.send_replace(LinkState::Connected { controller: welcome.controller_id });
            }
            Told::Assignment(assignment) => drop(self.assignments.send_replace(Some(assignment))),
            Told::StartJob(start) => self.runner.start(start),
            Told::CancelJob(cancel) => self.runner.cancel(&cancel.job_id, &cancel.reason),
            Told::ResultAck(ack) => {
                let journal = Arc::clone(self.outbox.journal());
                self.tasks.spawn("acknowledge", async move {
                    if let Err(error) = journal.acknowledged(ack.sequence).await {
                        tracing::warn!(error = %Chain(&error), "an acknowledged result stays in the journal");
                    }
                });
            }
            Told::Question(question) => {
                let (respondent, client) = (self.respondent.clone(), client.clone());
                self.tasks.spawn("answer", respondent.answer(question, client));
            }
            Told::Goodbye(goodbye) => {
                let reason = goodbye.reason.unwrap_or_default();
                let class = match reason.error_class() {
                    ErrorClass::Internal => ErrorClass::Unavailable,
                    class => class,
                };
                return Err(AgentError::Controller { what: "goodbye", class, message: reason.message });
            }
        }
        Ok(())
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            running: self.runner.running(),
            understands: Vec::new(),
            assignment_revision: *self.applied.borrow(),
        }
    }

    async fn dial(&self) -> Result<Channel, AgentError> {
        let identity = self.identity.get();
        let bad = |_| AgentError::Invalid(format!("`{}` is not the address of a controller", self.controller));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&identity.ca_pem))
            .identity(TlsIdentity::from_pem(&identity.certificate_pem, &identity.key_pem));
        let endpoint = Endpoint::from_shared(self.controller.clone()).map_err(bad)?.tls_config(tls).map_err(bad)?;
        let endpoint = endpoint
            .connect_timeout(GREETING)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        endpoint.connect().await.map_err(|source| AgentError::Dial { address: self.controller.clone(), source })
    }
}
