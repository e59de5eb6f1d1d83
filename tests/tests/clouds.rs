//! The main job with a region in each of three clouds, played by servers on this host: S3, Azure Blob, Google Cloud Storage.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use breakwater_core::Clock as _;
use breakwater_runtime::SystemClock;
use breakwater_testkit::azurite::{self, Azurite};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::gcs::{BucketSettings, Gcs, Grant};
use breakwater_testkit::moto::Moto;
use breakwater_testkit::postgres::Version;
use breakwater_testkit::tree::tree;
use breakwater_tests::Fleet;
use breakwater_tests::brctl::{rows, text};
use breakwater_tests::fleet::{AGENT, Builder};
use breakwater_tests::main_job::there_and_back;
use breakwater_tests::source::plan_yaml;
use tempfile::TempDir;

const BUCKET: &str = "acme-backup";

/// The servers, and the files with what opens them. All of it is gone with this value.
struct Clouds {
    s3: Moto,
    azure: Azurite,
    google: Gcs,
    secrets: TempDir,
}

impl Clouds {
    async fn start() -> Result<Clouds> {
        let (s3, azure, google) = (Moto::start().await?, Azurite::start().await?, Gcs::start().await?);
        s3.create_bucket(BUCKET).await?;
        azure.create_container(BUCKET, SystemClock.now()).await?;
        google.set_bucket(BUCKET, BucketSettings::default());
        let clouds = Clouds { s3, azure, google, secrets: temp_dir("secrets")? };
        clouds.secret("azure.key", azurite::KEY)?;
        let account = clouds.google.service_account("backup@acme.iam.gserviceaccount.com", &[Grant::all()])?;
        clouds.secret("google.json", &account)?;
        Ok(clouds)
    }

    fn secret(&self, name: &str, text: &str) -> Result<()> {
        let path = self.secrets.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?)
    }

    fn url(&self, cloud: &str) -> String {
        let secret = |name: &str| self.secrets.path().join(name).display().to_string();
        match cloud {
            "aws" => format!("s3://{BUCKET}/prod?path-style&region=eu-central-1"),
            "azure" => format!(
                "azure://{}/{BUCKET}/prod?endpoint={}&key-file={}",
                azurite::ACCOUNT,
                self.azure.endpoint(),
                secret("azure.key")
            ),
            _ => {
                format!("gs://{BUCKET}/prod?endpoint={}&credentials={}", self.google.endpoint(), secret("google.json"))
            }
        }
    }

    /// A fleet with a region in each.
    fn fleet(&self) -> Builder {
        let clouds = ["aws", "azure", "google"];
        let fleet =
            clouds.iter().fold(Fleet::builder().regions(&clouds), |fleet, cloud| fleet.remote(cloud, &self.url(cloud)));
        self.s3.environment().iter().fold(fleet, |fleet, (name, value)| fleet.env(name, value))
    }
}

#[tokio::test]
async fn postgres_comes_back_from_three_clouds_to_every_kind_of_moment() -> Result<()> {
    let clouds = Clouds::start().await?;
    there_and_back(Version::V17, clouds.fleet()).await
}

#[tokio::test]
async fn a_tree_comes_back_from_each_cloud_alone_and_the_clouds_are_shown_as_they_are() -> Result<()> {
    let clouds = Clouds::start().await?;
    let data = temp_dir("data")?;
    for n in 0..40_u32 {
        std::fs::write(data.path().join(format!("f{n}")), format!("{n}").repeat(2000))?;
    }
    let fleet = clouds.fleet().start().await?;
    let source = format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: tree}}\nspec: {{agent: {AGENT}, files: {{paths: [{{path: \"{}\", name: \
         data}}]}}}}\n---\n{}",
        data.path().display(),
        plan_yaml("tree-plan", &["tree"])
    );
    fleet.apply(&source).await?;
    fleet.backup("tree-plan").await?;

    for cloud in ["aws", "azure", "google"] {
        let target = fleet.target(cloud);
        fleet.restore("tree", &["--latest", "--region", cloud], &target).await?;
        ensure!(tree(&target.join("data"))? == tree(data.path())?, "what came back from {cloud} alone");
        // With no controller, from one bucket and a key.
        let (url, key) = (clouds.url(cloud), fleet.key("recovery").display().to_string());
        let target = fleet.target(&format!("offline-{cloud}")).display().to_string();
        let offline =
            ["--offline", "--repository", &url, "--key", &key, "restore", "run", "--latest", "--target", &target];
        fleet.brctl().ok(&offline).await.with_context(|| format!("break the glass with {cloud} alone"))?;
        ensure!(tree(&Path::new(&target).join("data"))? == tree(data.path())?, "what came back offline from {cloud}");
    }

    fleet.brctl().ok(&["region", "usage", "main", "--wait"]).await?;
    let listed = fleet.brctl().json(&["region", "list"]).await?;
    for region in rows(&listed, "regions")? {
        let name = text(region, "region")?;
        ensure!(text(region, "state")? == "ok", "{name} answers: {region:#}");
        ensure!(region["stored_bytes"].as_u64().is_some_and(|bytes| bytes > 1000), "{name} was counted: {region:#}");
        let sight = &region["sights"][0];
        ensure!(sight["requests"].as_u64().is_some_and(|requests| requests > 0), "{name} was measured: {sight:#}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bucket_is_checked_before_anybody_trusts_it() -> Result<()> {
    let clouds = Clouds::start().await?;
    let fleet = clouds.fleet().start().await?;
    for cloud in ["aws", "azure", "google"] {
        let url = clouds.url(cloud);
        let checked = fleet.brctl().json(&["storage", "check", &url, "--size", "16", "--stored", "2TiB"]).await?;
        let checks = rows(&checked, "checks")?;
        let named = |name: &str| checks.iter().filter(|row| row["check"] == name).collect::<Vec<_>>();
        for name in ["promises", "conformance", "write", "read", "small object", "requests"] {
            ensure!(
                !named(name).is_empty() && named(name).iter().all(|row| row["state"] == "ok"),
                "{cloud}: {name}: {checked:#}"
            );
        }
        ensure!(named("cost").len() == 4, "{cloud}: a price for each tier: {checked:#}");
    }
    let absent = clouds.url("aws").replace(BUCKET, "no-such-bucket");
    let said = fleet.brctl().fails(8, &["storage", "check", &absent]).await?;
    ensure!(said.contains("no-such-bucket") && said.contains("hint"), "the bucket that is missing is named: {said}");
    Ok(())
}
