//! A key service's key opens a repository by itself: AWS KMS as moto plays it, and a token of SoftHSM. No key file, and no secret
//! on the command line.

use anyhow::{Context, Result, ensure};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::moto::Moto;
use breakwater_testkit::softhsm::{OBJECT, SoftHsm, TOKEN};
use breakwater_tests::brctl::rows;
use breakwater_tests::source::{plan_yaml, sqlite_yaml};
use breakwater_tests::{Brctl, Fleet};

const NAME: &str = "hsm";

/// `brctl` with the settings that a service needs.
fn with(brctl: Brctl, environment: &[(String, String)]) -> Brctl {
    environment.iter().fold(brctl, |brctl, (name, value)| brctl.env(name, value))
}

#[tokio::test]
async fn a_repository_made_with_services_opens_with_each_alone() -> Result<()> {
    let (moto, hsm, home) = (Moto::start().await?, SoftHsm::make()?, temp_dir("kms")?);
    let aws = format!("aws-kms:{}", moto.create_key().await?);
    let token = hsm.address(TOKEN, OBJECT);
    let path = |name: &str| home.path().join(name).display().to_string();
    let passphrase = path("passphrase");
    hsm.write_pin(passphrase.as_ref(), "several random words")?;
    let brctl = with(with(Brctl::alone()?, &moto.environment()), &hsm.environment());

    let place = path("region");
    let (region, writer, key, recovery) = (format!("one={place}"), path("writer"), path("key"), path("recovery"));
    let create = |services: &[&str]| {
        let words = ["repository", "create", "--region", &region, "--writer-key-out", &writer, "--key-out", &key];
        let more = ["--recovery-key-out", &recovery, "--passphrase-file", &passphrase];
        let services = services.iter().flat_map(|service| ["--kms", service]);
        words.into_iter().chain(more).chain(services).map(str::to_owned).collect::<Vec<_>>()
    };
    // What does not work is found out before anything is made.
    for (service, code) in
        [("aws-kms:alias/absent", 6), ("nobody:key", 2), ("vault:http://192.0.2.1/transit/keys/k", 2)]
    {
        let words = create(&[&aws, service]);
        let said = brctl.fails(code, &words.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        ensure!(said.contains(service), "{said}");
        ensure!(!home.path().join("region").exists() && !home.path().join("key").exists(), "something was made");
    }
    let words = create(&[&aws, &token]);
    let made = brctl.json(&words.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    ensure!(made["further_recipients"] == serde_json::json!(["kms", "kms-2", "passphrase"]), "{made:#}");
    for file in [&key, &recovery, &writer] {
        std::fs::remove_file(file).context("remove a key file")?;
    }

    let brctl = brctl.env("BRCTL_PASSPHRASE_FILE", &passphrase);
    for opener in [aws.as_str(), token.as_str(), "passphrase"] {
        let words = ["--offline", "--repository", &place, "--key", opener];
        let listed =
            brctl.json(&[&words[..], &["repository", "key", "list"]].concat()).await.context(opener.to_owned())?;
        let held: Vec<&str> = rows(&listed, "keys")?.iter().filter_map(|row| row["held"].as_str()).collect();
        ensure!(held.iter().filter(|word| **word == "file").count() == 2, "{held:?}");
        ensure!(["aws-kms", "pkcs11", "passphrase"].iter().all(|word| held.contains(word)), "{held:?}");
        brctl.ok(&[&words[..], &["repository", "check", "--read-data"]].concat()).await?;
    }

    // Another key of the same service, one that is no recipient, and a service that is gone.
    let other = format!("aws-kms:{}", moto.create_key().await?);
    let opened = async |brctl: &Brctl, code: i32, opener: &str| {
        brctl.fails(code, &["--offline", "--repository", &place, "--key", opener, "repository", "show"]).await
    };
    let said = opened(&brctl, 3, &other).await?;
    ensure!(said.contains(&other) && said.contains("hint:"), "{said}");
    let wrong = hsm.dir().join("wrong");
    hsm.write_pin(&wrong, "31415926")?;
    let said =
        opened(&brctl.clone().env("BREAKWATER_PKCS11_PIN_FILE", &wrong.display().to_string()), 3, &token).await?;
    ensure!(said.contains("pkcs11") && !said.contains("31415926"), "{said}");
    drop(moto);
    opened(&brctl, 8, &aws).await?;
    Ok(())
}

#[tokio::test]
async fn a_backup_is_checked_and_restored_with_a_service_alone() -> Result<()> {
    let (moto, hsm) = (Moto::start().await?, SoftHsm::make()?);
    let aws = format!("aws-kms:{}", moto.create_key().await?);
    let token = hsm.address(TOKEN, OBJECT);
    let fleet = Fleet::builder().start().await?;
    let database = fleet.home().join("app.db");
    let rows_in = |path: &std::path::Path| -> Result<i64> {
        let open = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(open.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
    };
    let made = rusqlite::Connection::open(&database)?;
    made.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3);")?;
    drop(made);
    fleet.apply(&format!("{}---\n{}", sqlite_yaml("app", &database), plan_yaml("nightly", &["app"]))).await?;
    fleet.backup("app").await?;

    let places: Vec<String> = fleet.regions().iter().map(|r| format!("{}={}", r.name(), r.url())).collect();
    let brctl = with(with(Brctl::alone()?, &moto.environment()), &hsm.environment());
    let brctl = brctl.env("BRCTL_REPOSITORY", &places.join(","));
    let recovery = fleet.key("recovery").display().to_string();
    for (name, service) in [("cloud", aws.as_str()), (NAME, token.as_str())] {
        let add = ["--offline", "--key", &recovery, "repository", "key", "add", "--name", name, "--kms", service];
        brctl.ok(&add).await?;
    }
    for (name, service) in [("cloud", aws.as_str()), (NAME, token.as_str())] {
        brctl.ok(&["--offline", "--key", service, "repository", "check", "--read-data"]).await?;
        let target = fleet.target(name);
        let shown = target.display().to_string();
        brctl.ok(&["--offline", "--key", service, "restore", "run", "--latest", "--target", &shown]).await?;
        let restored = if target.is_dir() { target.join("app.db") } else { target };
        ensure!(rows_in(&restored)? == 3, "{name}: {}", restored.display());
    }

    // Who was removed opens nothing any more, though the service still unwraps for it.
    let remove = ["--offline", "--key", &aws, "repository", "key", "remove", NAME, "--yes", NAME];
    brctl.ok(&remove).await?;
    let said = brctl.fails(3, &["--offline", "--key", &token, "repository", "show"]).await?;
    ensure!(said.contains("no recipient"), "{said}");
    Ok(())
}
