//! The frame of the story: where it takes place, what it is told with, and how it is cleaned up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work;
use breakwater_proto::v1::restore_point::Point;
use serde_json::Value;
use tempfile::TempDir;

use super::cluster::Programs;
use super::narrator::Narrator;
use super::{postgres, sqlite};
use crate::args::Format;
use crate::args::local::{DemoArgs, DemoEngine};
use crate::client::Client;
use crate::failure::Failure;
use crate::local::{AGENT, Local, REPOSITORY};
use crate::output::{Output, say};
use crate::wait;

/// The names of the regions.
pub(super) const REGIONS: [&str; 2] = ["east", "west"];

/// The name of the source.
pub(super) const SOURCE: &str = "shop";

/// The name of the plan.
const PLAN: &str = "nightly";

/// How long anything that is waited for may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How often is looked while waiting.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// The story while it is told.
#[derive(Debug)]
pub(super) struct Story {
    /// Tells it.
    pub(super) narrator: Narrator,
    /// Everything lies in here.
    pub(super) directory: PathBuf,
    local: Option<Local>,
    output: Output,
}

/// Tells the story from beginning to end. An interrupt ends it early, and cleanly.
pub(crate) async fn tell(args: &DemoArgs, quiet: bool) -> Result<(), Failure> {
    let place = Place::make(args.keep.as_deref())?;
    let directory = place.path().to_owned();
    let outcome = {
        let mut story = Story {
            narrator: Narrator::new(quiet),
            directory: directory.clone(),
            local: None,
            output: Output::new(Some(Format::Table), true),
        };
        let outcome = tokio::select! {
            outcome = story.tell(args) => outcome,
            signal = breakwater_runtime::shutdown_signal() => {
                Err(Failure::new(ErrorClass::Cancelled, format!("stopped by {signal}")))
            }
        };
        story.stop().await;
        if outcome.is_ok() {
            story.narrator.end();
        }
        outcome
    };
    place.clean_up()?;
    if args.keep.is_some() {
        say(format!("everything is kept in {}", directory.display()));
    }
    outcome
}

impl Story {
    async fn tell(&mut self, args: &DemoArgs) -> Result<(), Failure> {
        match self.engine(args.engine)? {
            Some(programs) => postgres::tell(self, programs).await,
            None => sqlite::tell(self).await,
        }
    }

    /// Which database: the programs of PostgreSQL, or none for SQLite. Says why when it could not be PostgreSQL.
    fn engine(&self, wanted: Option<DemoEngine>) -> Result<Option<Programs>, Failure> {
        if wanted == Some(DemoEngine::Sqlite) {
            return Ok(None);
        }
        match Programs::find().and_then(|programs| programs.can_reach(&self.directory).map(|()| programs)) {
            Ok(programs) => Ok(Some(programs)),
            Err(failure) if wanted == Some(DemoEngine::Postgres) => Err(failure),
            Err(failure) => {
                self.narrator.say(&format!("SQLite, because {}", failure.message()));
                Ok(None)
            }
        }
    }

    /// Starts controller and agent.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        self.narrator.step("A controller and an agent, in this process, with two regions");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let local = Local::start(&self.directory, listen, &REGIONS).await?;
        self.narrator.say(&format!(
            "A controller serves on https://{}, agent `{AGENT}` has enrolled with a token that works once.\n\
             Repository `{REPOSITORY}` lies in the regions `{}` and `{}`, encrypted; its recovery key has opened it once.",
            local.address(),
            REGIONS[0],
            REGIONS[1],
        ));
        self.local = Some(local);
        Ok(())
    }

    /// Stops what [`start`](Self::start) started.
    pub(super) async fn stop(&mut self) {
        if let Some(local) = self.local.take() {
            local.stop().await;
        }
    }

    /// A client for the controller.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let local = self.local.as_ref().ok_or_else(|| Failure::internal("the controller is stopped already"))?;
        Ok(local.client().clone())
    }

    /// Declares the source.
    pub(super) async fn declare(&self, engine: &str) -> Result<(), Failure> {
        self.apply(&format!(
            "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: {SOURCE}}}\nspec:\n  agent: {AGENT}\n{engine}"
        ))
        .await
    }

    /// Declares the plan that takes the source to the repository.
    pub(super) async fn plan(&self) -> Result<(), Failure> {
        self.apply(&format!(
            "apiVersion: breakwater/v1\nkind: Plan\nmetadata: {{name: {PLAN}}}\nspec:\n  repository: {REPOSITORY}\n  sources: [{SOURCE}]\n"
        ))
        .await
    }

    async fn apply(&self, documents: &str) -> Result<(), Failure> {
        self.narrator.command("apply -f -");
        self.narrator.say(documents);
        let client = self.client()?;
        let request = v1::ApplyRequest { documents: documents.to_owned(), dry_run: false, namespace: String::new() };
        client.call(client.operator().apply(request)).await?;
        Ok(())
    }

    /// Backs up, and waits for the end.
    pub(super) async fn backup(&self) -> Result<v1::Job, Failure> {
        self.narrator.command(&format!("backup run {SOURCE} --wait"));
        let client = self.client()?;
        let request = v1::RunBackupRequest {
            name: SOURCE.to_owned(),
            namespace: String::new(),
            read: "full".to_owned(),
            mode: "manual".to_owned(),
            request_id: String::new(),
            compression: String::new(),
            uploads: 0,
        };
        let jobs = client.call(client.operator().run_backup(request)).await?.jobs;
        let job = self.follow(jobs).await?;
        let summary: Value = serde_json::from_str(&job.summary_json).unwrap_or_default();
        let bytes =
            |field: &str| breakwater_core::ByteCount(summary["totals"][field].as_u64().unwrap_or_default()).to_string();
        self.narrator.say(&format!(
            "snapshot {}: {} read, {} new, {} stored in each region",
            job.snapshot_id,
            bytes("read_bytes"),
            bytes("new_bytes"),
            bytes("stored_bytes")
        ));
        Ok(job)
    }

    /// Restores to `point`, and waits for the end. `words` are what a person would type for it.
    pub(super) async fn restore(&self, point: Point, words: &str, target: &Path) -> Result<(), Failure> {
        self.narrator.command(&format!("restore run --source {SOURCE} {words} --target {} --wait", target.display()));
        let client = self.client()?;
        let restore = v1::RestoreSpec {
            point: Some(v1::RestorePoint { point: Some(point) }),
            target: target.display().to_string(),
            recover: true,
            verify: "quick".to_owned(),
            ..v1::RestoreSpec::default()
        };
        let request = v1::RunRestoreRequest {
            namespace: String::new(),
            source: SOURCE.to_owned(),
            agent: String::new(),
            restore: Some(restore),
            request_id: String::new(),
        };
        let jobs = client.call(client.operator().run_restore(request)).await?.jobs;
        let job = self.follow(jobs).await?;
        let summary: Value = serde_json::from_str(&job.summary_json).unwrap_or_default();
        for check in summary["checks"].as_array().map_or(&[][..], Vec::as_slice) {
            self.narrator.say(&format!("checked: {}", check.as_str().unwrap_or_default()));
        }
        Ok(())
    }

    /// Checks the repository with all its data.
    pub(super) async fn check(&mut self) -> Result<(), Failure> {
        self.narrator.step("Is everything in both regions what was written?");
        self.narrator.command(&format!("repository check {REPOSITORY} --read-data --wait"));
        let client = self.client()?;
        let check = Work::Check(v1::CheckSpec { read_data: true, ..v1::CheckSpec::default() });
        let request = v1::RunRepositoryWorkRequest {
            repository: REPOSITORY.to_owned(),
            work: Some(check.into()),
            ..v1::RunRepositoryWorkRequest::default()
        };
        let jobs = client.call(client.operator().run_repository_work(request)).await?.jobs;
        self.follow(jobs).await?;
        self.narrator
            .proven("every object in both regions was read, opened and found to be what was written".to_owned());
        Ok(())
    }

    async fn follow(&self, jobs: Vec<v1::Job>) -> Result<v1::Job, Failure> {
        let ended = wait::to_the_end(&self.client()?, &self.output, jobs).await;
        let job = ended.into_iter().next().ok_or_else(|| Failure::internal("no job was started"))??;
        match wait::failure_of(&job) {
            None => Ok(job),
            Some(failure) => Err(failure),
        }
    }
}

/// Where it takes place.
enum Place {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Place {
    fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let place = match keep {
            None => {
                let made = tempfile::Builder::new().prefix("breakwater-demo-").tempdir();
                Place::Temporary(made.map_err(|error| Failure::io("cannot make a temporary directory", &error))?)
            }
            Some(path) => {
                let path = std::path::absolute(path).map_err(|error| Failure::io(path.display(), &error))?;
                let failed = |error: std::io::Error| Failure::io(path.display(), &error);
                std::fs::create_dir_all(&path).map_err(failed)?;
                if std::fs::read_dir(&path).map_err(failed)?.next().is_some() {
                    return Err(Failure::refused(format!("{} is not empty", path.display()))
                        .hint("--keep with a new or empty directory"));
                }
                Place::Kept(path)
            }
        };
        // A database's own user has to pass through; keys lie in a directory of their own that is closed.
        set_mode(place.path(), 0o711)?;
        Ok(place)
    }

    fn path(&self) -> &Path {
        match self {
            Place::Temporary(made) => made.path(),
            Place::Kept(path) => path,
        }
    }

    fn clean_up(self) -> Result<(), Failure> {
        match self {
            Place::Temporary(made) => {
                made.close().map_err(|error| Failure::io("cannot remove the temporary directory", &error))
            }
            Place::Kept(_) => Ok(()),
        }
    }
}

/// Sets the mode of a file or directory.
pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| Failure::io(path.display(), &error))
}

/// The error of a check that the story itself makes.
pub(super) fn broken(message: String) -> Failure {
    Failure::new(ErrorClass::Corrupt, message)
}
