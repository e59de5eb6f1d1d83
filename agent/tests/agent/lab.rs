//! A controller, an agent and a repository of two regions, all in one temporary directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use breakwater_agent::identity::enrol::{EnrolRequest, enrol};
use breakwater_agent::session::LinkState;
use breakwater_agent::{Agent, AgentConfig};
use breakwater_controller::ControllerConfig;
use breakwater_proto::v1;
use breakwater_proto::v1::operator_client::OperatorClient;
use breakwater_repository::regions::Role;
use breakwater_repository::{CreateOptions, Place, Repository};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_state::{EmbeddedStore, StateStore};
use breakwater_storage::Storage;
use breakwater_testkit::wait::{until, until_true};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

type Bearer = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;
pub(crate) type Desk = OperatorClient<InterceptedService<Channel, Bearer>>;

pub(crate) struct Lab {
    pub(crate) directory: tempfile::TempDir,
    store: Arc<dyn StateStore>,
    controller_config: ControllerConfig,
    controller: Option<breakwater_controller::Running>,
    agent: Option<breakwater_agent::Running>,
    pub(crate) agent_config: AgentConfig,
}

impl Lab {
    /// A controller and nothing else.
    pub(crate) async fn controller_only() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        // Restored servers run as another user and have to get through here.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let store: Arc<dyn StateStore> = Arc::new(EmbeddedStore::in_memory().await.unwrap());
        let mut controller_config = ControllerConfig {
            data_dir: directory.path().join("controller"),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Vec::new(),
            etcd: Vec::new(),
            etcd_ca: None,
            etcd_cert: None,
            etcd_key: None,
        };
        let controller = breakwater_controller::start(controller_config.clone(), Arc::clone(&store)).await.unwrap();
        // The next one serves on the same port.
        controller_config.listen = controller.address;
        let mut agent_config = AgentConfig::new(directory.path().join("agent"));
        agent_config.fetch_program = Some(PathBuf::from(env!("CARGO_BIN_EXE_breakwater-agent")));
        Lab { directory, store, controller_config, controller: Some(controller), agent: None, agent_config }
    }

    /// A controller, a repository in two regions, and a connected agent `host-a` with its keys.
    pub(crate) async fn new() -> Lab {
        let mut lab = Lab::controller_only().await;
        lab.create_repository().await;
        let token = lab.token("host-a").await;
        enrol(&lab.agent_config.data_dir, &lab.enrolment(&token.token, &token.ca_pin)).await.unwrap();
        lab.start_agent().await;
        lab.wait_connected().await;
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn create_repository(&self) {
        let places = ["east", "west"].map(|name| {
            let storage = Storage::file_system(&self.path(name)).unwrap();
            Place::new(name, Role::Sync, storage)
        });
        let options = CreateOptions { pack_size: 4 << 20, ..CreateOptions::default() };
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let created = Repository::create(places.to_vec(), options, clock, entropy).await.unwrap();
        let keys = self.agent_config.keys_dir();
        std::fs::create_dir_all(&keys).unwrap();
        created.writer_key.write_new(&keys.join("writer.json")).unwrap();
        created.key.write_new(&keys.join("primary.json")).unwrap();
    }

    pub(crate) fn controller_url(&self) -> String {
        format!("https://{}", self.controller_config.listen)
    }

    pub(crate) fn controller(&self) -> &breakwater_controller::Running {
        self.controller.as_ref().unwrap()
    }

    pub(crate) async fn token(&self, name: &str) -> v1::CreateTokenResponse {
        let request = v1::CreateTokenRequest { agent_name: name.to_owned(), ttl_seconds: 60 };
        self.controller().registrar.create_token(request).await.unwrap()
    }

    pub(crate) fn enrolment(&self, token: &str, pin: &str) -> EnrolRequest {
        EnrolRequest { controller: self.controller_url(), token: token.to_owned(), ca_pin: pin.to_owned(), name: None }
    }

    pub(crate) async fn start_agent(&mut self) {
        self.agent = Some(Agent::start(self.agent_config.clone()).await.unwrap());
    }

    pub(crate) async fn stop_agent(&mut self) {
        self.agent.take().unwrap().stop().await.unwrap();
    }

    pub(crate) async fn start_controller(&mut self) {
        // The port of a controller that just ended may be busy for a moment.
        let started = until("the controller's port is free", PATIENCE, async || {
            breakwater_controller::start(self.controller_config.clone(), Arc::clone(&self.store)).await.ok()
        });
        self.controller = Some(started.await);
    }

    pub(crate) async fn stop_controller(&mut self) {
        self.controller.take().unwrap().stop().await.unwrap();
    }

    pub(crate) async fn wait_connected(&self) {
        self.wait_link("the agent is connected", |state| matches!(state, LinkState::Connected { .. })).await;
    }

    pub(crate) async fn wait_link(&self, what: &str, wanted: impl Fn(&LinkState) -> bool) {
        let mut link = self.agent.as_ref().unwrap().link();
        let waited = tokio::time::timeout(PATIENCE, link.wait_for(wanted)).await;
        assert!(waited.is_ok(), "waited in vain for: {what}");
    }

    pub(crate) async fn desk(&self) -> Desk {
        let controller = self.controller();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&controller.ca_pem));
        let endpoint = Endpoint::from_shared(self.controller_url()).unwrap().tls_config(tls).unwrap();
        let header: MetadataValue<_> = format!("Bearer {}", controller.operator_token).parse().unwrap();
        let bearer: Bearer = Box::new(move |mut request| {
            request.metadata_mut().insert("authorization", header.clone());
            Ok(request)
        });
        OperatorClient::with_interceptor(endpoint.connect().await.unwrap(), bearer)
    }

    /// Declares the repository, the source `app` with this engine section, and a plan for both.
    pub(crate) async fn declare(&self, engine: &str) {
        let documents = format!(
            "
apiVersion: breakwater/v1
kind: Repository
metadata: {{name: main}}
spec: {{regions: [{{name: east, url: {east}}}, {{name: west, url: {west}}}], commit: 1}}
---
apiVersion: breakwater/v1
kind: Source
metadata: {{name: app}}
spec: {{agent: host-a, {engine}}}
---
apiVersion: breakwater/v1
kind: Plan
metadata: {{name: nightly}}
spec: {{repository: main, sources: [app]}}
",
            east = self.path("east").display(),
            west = self.path("west").display(),
        );
        let request = v1::ApplyRequest { documents, ..Default::default() };
        self.desk().await.apply(request).await.unwrap();
    }

    pub(crate) async fn start_backup(&self) -> v1::Job {
        let request = v1::RunBackupRequest { name: "app".to_owned(), ..Default::default() };
        self.desk().await.run_backup(request).await.unwrap().into_inner().jobs.remove(0)
    }

    pub(crate) async fn backup(&self) -> v1::Job {
        let job = self.start_backup().await;
        self.succeeded(&job.id).await
    }

    pub(crate) async fn start_restore(&self, point: v1::restore_point::Point, target: &Path) -> v1::Job {
        let restore = v1::RestoreSpec {
            point: Some(v1::RestorePoint { point: Some(point) }),
            target: target.display().to_string(),
            recover: true,
            ..Default::default()
        };
        let request = v1::RunRestoreRequest { source: "app".to_owned(), restore: Some(restore), ..Default::default() };
        let mut jobs = self.desk().await.run_restore(request).await.unwrap().into_inner().jobs;
        jobs.remove(0)
    }

    pub(crate) async fn job(&self, id: &str) -> v1::Job {
        let request = v1::ListJobsRequest { id: id.to_owned(), ..Default::default() };
        self.desk().await.list_jobs(request).await.unwrap().into_inner().jobs.remove(0)
    }

    /// The job once nothing more happens to it.
    pub(crate) async fn ended(&self, id: &str) -> v1::Job {
        until("the job ends", PATIENCE, async || Some(self.job(id).await).filter(|job| job.state().is_terminal())).await
    }

    pub(crate) async fn succeeded(&self, id: &str) -> v1::Job {
        let job = self.ended(id).await;
        assert_eq!(job.state(), v1::JobState::Succeeded, "{:?} {:?}", job.failure, job.log);
        job
    }

    /// The whole answer to a question.
    pub(crate) async fn answer(stream: tonic::Streaming<v1::Json>) -> serde_json::Value {
        let mut stream = stream;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await.unwrap() {
            bytes.extend(piece.piece);
        }
        serde_json::from_slice(&bytes).unwrap()
    }

    pub(crate) fn journalled_results(&self) -> usize {
        let directory = self.agent_config.data_dir.join("journal");
        let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("result-")).count()
    }

    pub(crate) async fn wait_running(&self, id: &str) {
        until_true("the job runs", PATIENCE, async || self.job(id).await.state() == v1::JobState::Running).await;
    }
}

pub(crate) fn summary(job: &v1::Job) -> serde_json::Value {
    serde_json::from_str(&job.summary_json).unwrap()
}
