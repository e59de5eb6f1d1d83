//! The controller over the wire: an operator and an agent that speak protocol v1 by hand, on a real server with TLS.
//!
//! Vocabulary: the *stage* is a controller on a store; the *player* is an agent's session of which each message is
//! written here.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use breakwater_controller::{ControllerConfig, Running};
use breakwater_core::ErrorClass;
use breakwater_proto::v1::agent_link_client::AgentLinkClient;
use breakwater_proto::v1::agent_message::Body as Said;
use breakwater_proto::v1::controller_message::Body as Told;
use breakwater_proto::v1::enrolment_client::EnrolmentClient;
use breakwater_proto::v1::operator_client::OperatorClient;
use breakwater_proto::{PROTOCOL_VERSION, convert, v1};
use breakwater_state::{EmbeddedStore, EtcdConfig, EtcdStore, StateStore};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(20);

const DOCUMENTS: &str = "
apiVersion: breakwater/v1
kind: Repository
metadata: {name: main}
spec: {regions: [{name: east, url: /srv/east}, {name: west, url: /srv/west}]}
---
apiVersion: breakwater/v1
kind: Source
metadata: {name: pg}
spec: {agent: host-a, postgres: {connection: 'host=/run/postgresql user=breakwater'}}
---
apiVersion: breakwater/v1
kind: Plan
metadata: {name: nightly}
spec: {repository: main, sources: [pg]}
";

type Bearer = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;
type Desk = OperatorClient<InterceptedService<Channel, Bearer>>;

struct Stage {
    running: Running,
    config: ControllerConfig,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn embedded() -> Stage {
        Stage::on(Arc::new(EmbeddedStore::in_memory().await.unwrap())).await
    }

    async fn on(store: Arc<dyn StateStore>) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let config = ControllerConfig {
            data_dir: directory.path().join("controller"),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Vec::new(),
            etcd: Vec::new(),
            etcd_ca: None,
            etcd_cert: None,
            etcd_key: None,
        };
        let running = breakwater_controller::start(config.clone(), store).await.unwrap();
        Stage { running, config, _directory: directory }
    }

    async fn channel(&self, identity: Option<Identity>) -> Channel {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.running.ca_pem)).domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let url = format!("https://127.0.0.1:{}", self.running.address.port());
        Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
    }

    async fn desk(&self) -> Desk {
        self.desk_of(&self.running.operator_token).await
    }

    async fn desk_of(&self, token: &str) -> Desk {
        let header: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        let bearer: Bearer = Box::new(move |mut request| {
            request.metadata_mut().insert("authorization", header.clone());
            Ok(request)
        });
        OperatorClient::with_interceptor(self.channel(None).await, bearer)
    }

    async fn enrol(&self, token: &str, name: &str) -> Result<(v1::EnrolResponse, KeyPair), Status> {
        let key = KeyPair::generate().unwrap();
        let request = v1::EnrolRequest {
            token: token.to_owned(),
            csr_pem: csr(&key),
            name: name.to_owned(),
            version: "t".to_owned(),
        };
        let mut client = EnrolmentClient::new(self.channel(None).await);
        Ok((client.enrol(request).await?.into_inner(), key))
    }

    async fn enrolled(&self, name: &str) -> Identity {
        let request = v1::CreateTokenRequest { agent_name: name.to_owned(), ttl_seconds: 60 };
        let token = self.desk().await.create_token(request).await.unwrap().into_inner();
        let (issued, key) = self.enrol(&token.token, name).await.unwrap();
        Identity::from_pem(issued.certificate_pem, key.serialize_pem())
    }
}

fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

struct Player {
    say: mpsc::Sender<v1::AgentMessage>,
    told: Streaming<v1::ControllerMessage>,
}

impl Player {
    async fn enter(stage: &Stage, identity: Identity, running: Vec<v1::RunningJob>) -> Result<Player, Status> {
        let mut client = AgentLinkClient::new(stage.channel(Some(identity)).await);
        let (say, messages) = mpsc::channel(16);
        let hello = v1::Hello {
            protocol: PROTOCOL_VERSION,
            version: "t".to_owned(),
            host: "h".to_owned(),
            running,
            ..Default::default()
        };
        say.send(v1::AgentMessage { body: Some(Said::Hello(hello)) }).await.unwrap();
        let told = client.session(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Player { say, told })
    }

    async fn say(&self, body: Said) {
        self.say.send(v1::AgentMessage { body: Some(body) }).await.unwrap();
    }

    /// The next message that `pick` takes; others are passed over.
    async fn told<T>(&mut self, pick: impl Fn(Told) -> Option<T>) -> T {
        let wait = async {
            loop {
                let message = self.told.message().await.unwrap().expect("the session goes on");
                if let Some(found) = message.body.and_then(&pick) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the controller says it in time")
    }

    async fn start_job(&mut self) -> v1::StartJob {
        self.told(|told| if let Told::StartJob(start) = told { Some(start) } else { None }).await
    }

    async fn end(&mut self, start: &v1::StartJob, state: v1::JobState, failure: Option<v1::Failure>, sequence: u64) {
        let result = v1::JobResult {
            sequence,
            job_id: start.job_id.clone(),
            attempt: start.attempt,
            fence: start.fence,
            state: state.into(),
            failure,
            summary_json: "{\"consistent_at\": 1795179038000123}".to_owned(),
            started: 1,
            finished: 2,
        };
        self.say(Said::JobResult(result)).await;
        self.told(|told| matches!(told, Told::ResultAck(ack) if ack.sequence == sequence).then_some(())).await;
    }
}

async fn apply(desk: &mut Desk, documents: &str) -> Result<v1::ApplyResponse, Status> {
    let request = v1::ApplyRequest { documents: documents.to_owned(), ..Default::default() };
    desk.apply(request).await.map(tonic::Response::into_inner)
}

async fn run_backup(desk: &mut Desk, request_id: &str) -> v1::Job {
    let request =
        v1::RunBackupRequest { name: "nightly".to_owned(), request_id: request_id.to_owned(), ..Default::default() };
    desk.run_backup(request).await.unwrap().into_inner().jobs.remove(0)
}

async fn job(desk: &mut Desk, id: &str) -> v1::Job {
    let request = v1::ListJobsRequest { id: id.to_owned(), ..Default::default() };
    desk.list_jobs(request).await.unwrap().into_inner().jobs.remove(0)
}

async fn wait_for_state(desk: &mut Desk, id: &str, wanted: v1::JobState) -> v1::Job {
    let mut states =
        desk.watch_job(v1::WatchJobRequest { id: id.to_owned(), ..Default::default() }).await.unwrap().into_inner();
    let wait = async {
        while let Some(job) = states.message().await.unwrap() {
            if job.state() == wanted {
                return job;
            }
        }
        panic!("the watch ended before the job was {wanted:?}");
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the job gets there in time")
}

fn class_of<T: std::fmt::Debug>(answer: Result<T, Status>) -> ErrorClass {
    convert::class_of(&answer.expect_err("refused"))
}

async fn a_job_runs_once_under_its_fence(stage: &Stage) {
    let mut desk = stage.desk().await;
    apply(&mut desk, DOCUMENTS).await.unwrap();
    let identity = stage.enrolled("host-a").await;
    let mut player = Player::enter(stage, identity.clone(), Vec::new()).await.unwrap();
    let assignment =
        player.told(|told| if let Told::Assignment(assignment) = told { Some(assignment) } else { None }).await;
    assert_eq!(assignment.sources.len(), 1);
    let source = &assignment.sources[0];
    assert!(source.stream && source.repository.as_ref().is_some_and(|repository| repository.regions.len() == 2));
    assert!(source.settings_json.contains("breakwater_pg"), "the slot's name is filled in: {}", source.settings_json);

    let first = run_backup(&mut desk, "once").await;
    let again = run_backup(&mut desk, "once").await;
    assert_eq!(first.id, again.id, "a repeated request is one job");
    let start = player.start_job().await;
    assert_eq!((start.job_id.as_str(), start.attempt), (first.id.as_str(), 1));
    let backup = match &start.work {
        Some(v1::start_job::Work::Backup(backup)) => backup.clone(),
        other => panic!("a backup was asked for, not {other:?}"),
    };
    assert_eq!(backup.snapshot_id, first.snapshot_id);

    // The agent restarts and does not know the job any more: it is sent again under a higher fence.
    drop(player);
    let mut player = Player::enter(stage, identity, Vec::new()).await.unwrap();
    let second = player.start_job().await;
    assert_eq!(second.attempt, 2);
    assert!(second.fence > start.fence);
    // What the first attempt says now is acknowledged and changes nothing.
    player.end(&start, v1::JobState::Failed, Some(v1::Failure::new(ErrorClass::Corrupt, "late")), 1).await;
    assert!(!job(&mut desk, &first.id).await.state().is_terminal());
    let update = v1::JobUpdate {
        job_id: second.job_id.clone(),
        attempt: 2,
        fence: second.fence,
        state: v1::JobState::Running.into(),
        progress: Some(v1::Progress { phase: "reading".to_owned(), bytes_done: 5, ..Default::default() }),
    };
    player.say(Said::JobUpdate(update)).await;
    let running = wait_for_state(&mut desk, &first.id, v1::JobState::Running).await;
    assert_eq!(running.progress.map(|progress| progress.bytes_done), Some(5));
    player.end(&second, v1::JobState::Succeeded, None, 2).await;
    wait_for_state(&mut desk, &first.id, v1::JobState::Succeeded).await;

    let status = desk.status(v1::StatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(status.sources[0].last_backup_id, first.snapshot_id);
    assert_ne!(status.sources[0].protection, "protected", "no stream was ever reported");
}

#[tokio::test]
async fn a_job_runs_once_on_the_embedded_store() {
    let stage = Stage::embedded().await;
    a_job_runs_once_under_its_fence(&stage).await;
}

#[tokio::test]
async fn a_job_runs_once_on_etcd() {
    let etcd = breakwater_testkit::etcd::Etcd::start().await.unwrap();
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], prefix: String::new(), tls: None, login: None };
    let stage = Stage::on(Arc::new(EtcdStore::connect(config).await.unwrap())).await;
    a_job_runs_once_under_its_fence(&stage).await;
}

#[tokio::test]
async fn passing_failures_are_tried_again_and_cancel_reaches_the_agent() {
    let stage = Stage::embedded().await;
    let mut desk = stage.desk().await;
    apply(&mut desk, DOCUMENTS).await.unwrap();
    let identity = stage.enrolled("host-a").await;
    let mut player = Player::enter(&stage, identity, Vec::new()).await.unwrap();
    let accepted = run_backup(&mut desk, "").await;
    let start = player.start_job().await;
    player.end(&start, v1::JobState::Failed, Some(v1::Failure::new(ErrorClass::Unavailable, "region east")), 1).await;
    let second = player.start_job().await;
    assert_eq!(second.attempt, 2);
    let cancel = v1::CancelJobRequest { id: accepted.id.clone(), ..Default::default() };
    desk.cancel_job(cancel).await.unwrap();
    let stopped = player.told(|told| if let Told::CancelJob(cancel) = told { Some(cancel.job_id) } else { None }).await;
    assert_eq!(stopped, accepted.id);
    player.end(&second, v1::JobState::Cancelled, Some(v1::Failure::new(ErrorClass::Cancelled, "stopped")), 2).await;
    let ended = wait_for_state(&mut desk, &accepted.id, v1::JobState::Cancelled).await;
    assert_eq!(ended.attempt, 2);
}

#[tokio::test]
async fn work_that_waits_for_an_agent_is_not_lost_when_it_comes() {
    let stage = Stage::embedded().await;
    let mut desk = stage.desk().await;
    apply(&mut desk, DOCUMENTS).await.unwrap();
    let identity = stage.enrolled("host-a").await;
    for round in 1..=5 {
        let waiting = run_backup(&mut desk, &format!("round {round}")).await;
        // Its Hello was said before the job could be handed to it, so the job is not in it.
        let mut player = Player::enter(&stage, identity.clone(), Vec::new()).await.unwrap();
        let start = player.start_job().await;
        assert_eq!((start.job_id.as_str(), start.attempt), (waiting.id.as_str(), 1));
        let running = v1::JobUpdate {
            job_id: start.job_id.clone(),
            attempt: start.attempt,
            fence: start.fence,
            state: v1::JobState::Running.into(),
            progress: None,
        };
        player.say(Said::JobUpdate(running)).await;
        player.end(&start, v1::JobState::Succeeded, None, round).await;
        let ended = wait_for_state(&mut desk, &waiting.id, v1::JobState::Succeeded).await;
        assert_eq!(ended.attempt, 1, "{:?}", ended.log);
    }
}

#[tokio::test]
async fn partial_backups_are_no_green_and_a_gc_is_told_which_are_over() {
    let stage = Stage::embedded().await;
    let mut desk = stage.desk().await;
    let compressed = |word: &str| DOCUMENTS.replace("sources: [pg]", &format!("sources: [pg], compression: {word}"));
    let bad = apply(&mut desk, &compressed("\"zstd:99\"")).await.expect_err("no such level");
    assert!(bad.message().contains("spec.compression") && bad.message().contains("-7 to 19"), "{bad}");
    apply(&mut desk, &compressed("\"zstd:9\"")).await.unwrap();
    let identity = stage.enrolled("host-a").await;
    let mut player = Player::enter(&stage, identity, Vec::new()).await.unwrap();

    let first = run_backup(&mut desk, "").await;
    let start = player.start_job().await;
    let Some(v1::start_job::Work::Backup(backup)) = &start.work else { panic!("no backup: {start:?}") };
    assert_eq!(backup.compression, "zstd:9", "the plan's");
    let missing = v1::Failure::new(ErrorClass::Partial, "2 files could not be read");
    player.end(&start, v1::JobState::Succeeded, Some(missing.clone()), 1).await;
    let ended = wait_for_state(&mut desk, &first.id, v1::JobState::Succeeded).await;
    assert_eq!((ended.failure, ended.attempt), (Some(missing), 1), "not tried again, and said");

    let request =
        v1::RunBackupRequest { name: "nightly".to_owned(), compression: "lz4".to_owned(), ..Default::default() };
    let second = desk.run_backup(request).await.unwrap().into_inner().jobs.remove(0);
    let running = player.start_job().await;
    let Some(v1::start_job::Work::Backup(backup)) = &running.work else { panic!("no backup: {running:?}") };
    assert_eq!(backup.compression, "lz4", "this run's own");

    let work = v1::repository_work::Work::Gc(v1::GcSpec::default());
    let request = v1::RunRepositoryWorkRequest {
        work: Some(work.into()),
        request_id: "tonight".to_owned(),
        ..Default::default()
    };
    let gc = desk.run_repository_work(request.clone()).await.unwrap().into_inner().jobs.remove(0);
    let again = desk.run_repository_work(request).await.unwrap().into_inner().jobs.remove(0);
    assert_eq!((gc.id.as_str(), gc.kind()), (again.id.as_str(), v1::JobKind::Gc));
    let start = player.start_job().await;
    let Some(v1::start_job::Work::RepositoryWork(told)) = start.work else { panic!("no work: {start:?}") };
    let Some(v1::repository_work::Work::Gc(told)) = told.work else { panic!("no gc") };
    let below = |id: &str| {
        let id: breakwater_core::JobId = id.parse().unwrap();
        told.over.iter().find(|over| over.job == id.as_bytes()).map(|over| over.below)
    };
    assert_eq!((below(&first.id), below(&second.id)), (Some(u32::MAX), Some(1)), "{:?}", told.over);

    let nothing = v1::RunRepositoryWorkRequest::default();
    assert_eq!(class_of(desk.run_repository_work(nothing).await), ErrorClass::Invalid);
    let elsewhere = v1::repository_work::Work::Repair(v1::RepairSpec::default());
    let request = v1::RunRepositoryWorkRequest {
        repository: "elsewhere".to_owned(),
        work: Some(elsewhere.into()),
        ..Default::default()
    };
    assert_eq!(class_of(desk.run_repository_work(request).await), ErrorClass::NotFound);
}

#[tokio::test]
async fn tokens_work_once_and_locked_agents_are_cut_off() {
    let stage = Stage::embedded().await;
    let mut desk = stage.desk().await;
    let request = v1::CreateTokenRequest { agent_name: "host-a".to_owned(), ttl_seconds: 60 };
    let token = desk.create_token(request).await.unwrap().into_inner();
    assert_eq!(token.ca_pin, stage.running.ca_pin);
    assert_eq!(class_of(stage.enrol("tdeadbeef.00", "host-a").await), ErrorClass::Denied);
    assert_eq!(class_of(stage.enrol(&token.token, "host-b").await), ErrorClass::Denied, "the name is fixed");
    let (issued, key) = stage.enrol(&token.token, "host-a").await.unwrap();
    assert_eq!(class_of(stage.enrol(&token.token, "host-a").await), ErrorClass::Denied, "used");
    let identity = Identity::from_pem(&issued.certificate_pem, key.serialize_pem());

    let revoked = desk.create_token(v1::CreateTokenRequest::default()).await.unwrap().into_inner();
    desk.revoke_token(v1::RevokeTokenRequest { id: revoked.id }).await.unwrap();
    assert_eq!(class_of(stage.enrol(&revoked.token, "host-c").await), ErrorClass::Denied, "revoked");

    let mut player = Player::enter(&stage, identity.clone(), Vec::new()).await.unwrap();
    player.told(|told| matches!(told, Told::Welcome(_)).then_some(())).await;
    let lock = v1::SetAgentLockRequest { name: "host-a".to_owned(), locked: true, reason: "stolen".to_owned() };
    assert_eq!(desk.set_agent_lock(lock).await.unwrap().into_inner().state, "locked");
    let reason = player.told(|told| if let Told::Goodbye(goodbye) = told { goodbye.reason } else { None }).await;
    assert_eq!(reason.error_class(), ErrorClass::Denied);
    assert_eq!(class_of(Player::enter(&stage, identity, Vec::new()).await.map(|_| ())), ErrorClass::Denied);
}

#[tokio::test]
async fn a_certificate_is_renewed_with_the_old_key_only() {
    use rcgen::SigningKey;
    let stage = Stage::embedded().await;
    let token = stage.desk().await.create_token(v1::CreateTokenRequest::default()).await.unwrap().into_inner();
    let (issued, key) = stage.enrol(&token.token, "host-a").await.unwrap();
    let next = KeyPair::generate().unwrap();
    let request = |signature: Vec<u8>| v1::RenewRequest {
        certificate_pem: issued.certificate_pem.clone(),
        csr_pem: csr(&next),
        signature,
    };
    let mut client = EnrolmentClient::new(stage.channel(None).await);
    let forged = request(next.sign(csr(&next).as_bytes()).unwrap());
    assert_eq!(class_of(client.renew(forged).await), ErrorClass::Denied);
    let csr_pem = csr(&next);
    let honest = v1::RenewRequest { signature: key.sign(csr_pem.as_bytes()).unwrap(), csr_pem, ..request(Vec::new()) };
    let renewed = client.renew(honest).await.unwrap().into_inner();
    assert_eq!(renewed.agent_uid, issued.agent_uid);
    let identity = Identity::from_pem(renewed.certificate_pem, next.serialize_pem());
    Player::enter(&stage, identity, Vec::new()).await.unwrap();
}

#[tokio::test]
async fn strangers_and_nonsense_are_refused() {
    let stage = Stage::embedded().await;
    assert_eq!(class_of(stage.desk_of("wrong").await.status(v1::StatusRequest::default()).await), ErrorClass::Denied);
    let no_certificate = AgentLinkClient::new(stage.channel(None).await)
        .session(tokio_stream::iter([v1::AgentMessage { body: Some(Said::Hello(v1::Hello::default())) }]))
        .await;
    assert_eq!(class_of(no_certificate.map(|_| ())), ErrorClass::Denied);

    let mut desk = stage.desk().await;
    let unknown_field = DOCUMENTS.replace("agent: host-a", "agnet: host-a");
    assert_eq!(class_of(apply(&mut desk, &unknown_field).await), ErrorClass::Invalid);
    let plan_only = DOCUMENTS.rsplit("---").next().unwrap();
    assert_eq!(class_of(apply(&mut desk, plan_only).await), ErrorClass::Refused, "its repository does not exist");
    let dry = v1::ApplyRequest { documents: DOCUMENTS.to_owned(), dry_run: true, ..Default::default() };
    assert_eq!(desk.apply(dry).await.unwrap().into_inner().applied.len(), 3);
    let nothing = v1::GetRequest { kind: "source".to_owned(), ..Default::default() };
    assert!(desk.get(nothing).await.unwrap().into_inner().objects.is_empty(), "a dry run writes nothing");

    apply(&mut desk, DOCUMENTS).await.unwrap();
    let run = v1::RunBackupRequest { name: "nightly".to_owned(), ..Default::default() };
    assert_eq!(class_of(desk.run_backup(run).await), ErrorClass::Refused, "the agent is not enrolled");
    let run = v1::RunBackupRequest { name: "nobody".to_owned(), ..Default::default() };
    assert_eq!(class_of(desk.run_backup(run).await), ErrorClass::NotFound);
    let second = DOCUMENTS.replace("name: nightly", "name: weekly");
    assert_eq!(class_of(apply(&mut desk, &second).await), ErrorClass::Refused, "a source belongs to one plan");
    let delete = v1::DeleteRequest { kind: "source".to_owned(), name: "pg".to_owned(), ..Default::default() };
    assert_eq!(class_of(desk.delete(delete).await), ErrorClass::Refused, "a plan covers it");
}

#[tokio::test]
async fn removed_sources_are_kept_until_their_slot_is_gone() {
    let stage = Stage::embedded().await;
    let mut desk = stage.desk().await;
    apply(&mut desk, DOCUMENTS).await.unwrap();
    let identity = stage.enrolled("host-a").await;
    let mut player = Player::enter(&stage, identity.clone(), Vec::new()).await.unwrap();
    let delete = |kind: &str, name: &str| v1::DeleteRequest {
        kind: kind.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    };
    desk.delete(delete("plan", "nightly")).await.unwrap();
    let effects = desk.delete(delete("source", "pg")).await.unwrap().into_inner().effects;
    assert!(effects.iter().any(|effect| effect.contains("breakwater_pg")), "{effects:?}");
    let removed = |told: Told| match told {
        Told::Assignment(assignment) if !assignment.removed.is_empty() => Some(assignment),
        _ => None,
    };
    let assignment = player.told(removed).await;
    assert!(assignment.sources.is_empty());
    let uid = assignment.removed[0].uid.clone();
    // Another session is told again, until the agent says that the slot is gone.
    drop(player);
    let mut player = Player::enter(&stage, identity.clone(), Vec::new()).await.unwrap();
    player.told(removed).await;
    let applied = v1::AssignmentApplied { forgotten: vec![uid], ..Default::default() };
    player.say(Said::AssignmentApplied(applied)).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut player = Player::enter(&stage, identity.clone(), Vec::new()).await.unwrap();
        let assignment =
            player.told(|told| if let Told::Assignment(assignment) = told { Some(assignment) } else { None }).await;
        if assignment.removed.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the record goes once the slot is gone");
    }
}

#[tokio::test]
async fn questions_go_to_the_agent_and_answers_come_back() {
    let stage = Stage::embedded().await;
    let mut desk = stage.desk().await;
    apply(&mut desk, DOCUMENTS).await.unwrap();
    assert_eq!(class_of(desk.snapshots(v1::SnapshotsRequest::default()).await.map(|_| ())), ErrorClass::NotFound);
    let identity = stage.enrolled("host-a").await;
    assert_eq!(class_of(desk.snapshots(v1::SnapshotsRequest::default()).await.map(|_| ())), ErrorClass::Unavailable);
    let mut player = Player::enter(&stage, identity.clone(), Vec::new()).await.unwrap();
    let mut link = AgentLinkClient::new(stage.channel(Some(identity)).await);
    let mut answer = desk.snapshots(v1::SnapshotsRequest::default()).await.unwrap().into_inner();
    let question = player.told(|told| if let Told::Question(question) = told { Some(question) } else { None }).await;
    assert!(question.repository.is_some());
    let piece = |text: &str| v1::AnswerChunk {
        question_id: question.id.clone(),
        json: text.as_bytes().to_vec(),
        failure: None,
    };
    link.answer(tokio_stream::iter([piece("{\"snapshots\":"), piece("[]}")])).await.unwrap();
    let mut text = Vec::new();
    while let Some(json) = answer.message().await.unwrap() {
        text.extend(json.piece);
    }
    assert_eq!(String::from_utf8(text).unwrap().trim(), "{\"snapshots\":[]}");
    let stranger = v1::AnswerChunk { question_id: "nobody-asked".to_owned(), ..Default::default() };
    assert_eq!(class_of(link.answer(tokio_stream::iter([stranger])).await), ErrorClass::NotFound);
}

#[tokio::test]
async fn lag_ages_across_a_restart_of_the_controller() {
    let store: Arc<dyn StateStore> = Arc::new(EmbeddedStore::in_memory().await.unwrap());
    let stage = Stage::on(Arc::clone(&store)).await;
    let mut desk = stage.desk().await;
    apply(&mut desk, DOCUMENTS).await.unwrap();
    let rows = desk.lag(v1::LagRequest::default()).await.unwrap().into_inner().rows;
    assert!(rows.iter().all(|row| row.state == "never" && row.exposure_micros == -1), "{rows:?}");

    let identity = stage.enrolled("host-a").await;
    let mut player = Player::enter(&stage, identity, Vec::new()).await.unwrap();
    let assignment =
        player.told(|told| if let Told::Assignment(assignment) = told { Some(assignment) } else { None }).await;
    // Observed a minute ago: the state is not current, the figures go on ageing.
    let now = desk.version(v1::VersionRequest::default()).await.unwrap().into_inner().now;
    let then = now - 60_000_000;
    let point = |region: &str| v1::RegionPoint {
        region: region.to_owned(),
        state: "ok".to_owned(),
        recoverable: then,
        ..Default::default()
    };
    let status = v1::StreamStatus {
        source_uid: assignment.sources[0].uid.clone(),
        state: "streaming".to_owned(),
        observed: then,
        regions: vec![point("east"), point("west")],
        ..Default::default()
    };
    player.say(Said::StreamStatus(status)).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let rows = desk.lag(v1::LagRequest::default()).await.unwrap().into_inner().rows;
        if rows.iter().all(|row| row.state == "unknown" && row.exposure_micros >= 60_000_000) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{rows:?}");
    }
    let config = stage.config.clone();
    let keep = stage._directory;
    stage.running.stop().await.unwrap();
    let running = breakwater_controller::start(config.clone(), store).await.unwrap();
    let stage = Stage { running, config, _directory: keep };
    let rows = stage.desk().await.lag(v1::LagRequest::default()).await.unwrap().into_inner().rows;
    assert!(rows.iter().all(|row| row.state == "unknown" && row.exposure_micros >= 60_000_000), "{rows:?}");
}

/// What the controller answers to `GET /metrics`.
async fn metrics(stage: &Stage, token: &str) -> (u16, String) {
    let authority = reqwest::Certificate::from_pem(stage.running.ca_pem.as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
    let url = format!("https://127.0.0.1:{}/metrics", stage.running.address.port());
    let answer = client.get(url).bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn regions_are_shown_as_agents_see_them_and_so_are_the_metrics() {
    let stage = Stage::embedded().await;
    let mut desk = stage.desk().await;
    let limited = DOCUMENTS.replace(
        "{name: east, url: /srv/east}",
        "{name: east, url: 's3://b/p?region=eu-west-1', tier: warm, lock: {mode: compliance, days: 30}, \
         limits: {uploads: 4, bandwidth: [{rate: 20MiB, days: [mon], from: '08:00', to: '18:00'}]}}",
    );
    apply(&mut desk, &limited).await.unwrap();
    let identity = stage.enrolled("host-a").await;
    let mut player = Player::enter(&stage, identity, Vec::new()).await.unwrap();
    let assignment =
        player.told(|told| if let Told::Assignment(assignment) = told { Some(assignment) } else { None }).await;
    let east = assignment.sources[0].repository.as_ref().unwrap().regions[0].clone();
    assert_eq!((east.tier.as_str(), east.lock.as_ref().map(|lock| lock.days)), ("warm", Some(30)));
    let rule = &east.limits.as_ref().unwrap().bandwidth[0];
    assert_eq!((rule.bytes_per_second, rule.from_minute, rule.to_minute), (20 << 20, 480, 1080));

    let traffic = v1::RegionTraffic { requests: 20, errors: 2, latency_p95_micros: 250_000, ..Default::default() };
    let health = v1::RegionHealth {
        region: "east".to_owned(),
        reachable: true,
        observed: 5_000_000,
        owed_objects: 3,
        traffic: Some(traffic),
        ..Default::default()
    };
    let report = v1::RegionReport { repository: "main".to_owned(), regions: vec![health] };
    player.say(Said::RegionReport(report)).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let rows = loop {
        let rows = desk.regions(v1::RegionsRequest::default()).await.unwrap().into_inner().rows;
        if !rows[0].sights.is_empty() {
            break rows;
        }
        assert!(tokio::time::Instant::now() < deadline, "{rows:?}");
    };
    assert_eq!(rows[0].sights[0].agent, "host-a");
    assert_eq!(rows[0].region.as_ref(), Some(&east), "as declared");
    assert!(rows[1].sights.is_empty(), "nobody said anything of the other one");
    let absent = v1::RegionsRequest { repository: "absent".to_owned(), ..Default::default() };
    assert_eq!(class_of(desk.regions(absent).await), ErrorClass::NotFound);

    let (status, text) = metrics(&stage, &stage.running.operator_token).await;
    assert_eq!(status, 200, "{text}");
    let labels = r#"namespace="default",repository="main",region="east",agent="host-a""#;
    for (figure, value) in [("reachable", "1.0"), ("owed_objects", "3.0"), ("requests", "20.0"), ("errors", "2.0")] {
        let line = format!("breakwater_region_{figure}{{{labels}}} {value}");
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
    assert!(!text.contains(r#"region="west",agent"#), "no figure of what nobody reported");
    let (status, text) = metrics(&stage, "wrong").await;
    assert_eq!((status, text.contains("breakwater_")), (401, false), "{text}");
}
