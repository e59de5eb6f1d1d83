//! What the program answers to wrong words, unknown contexts and absent controllers: the exit codes of the contract, an
//! error that names the thing, and nothing on standard output.

use std::path::Path;

use anyhow::{Result, ensure};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::port::free_port;
use breakwater_testkit::process::Program;

/// The real program in an empty home.
fn brctl(home: &Path, words: &[&str]) -> Program {
    let program = Program::new(env!("CARGO_BIN_EXE_brctl")).args(words).env("HOME", home);
    ["XDG_CONFIG_HOME", "BRCTL_CONTEXT_FILE", "BRCTL_TOKEN"].iter().fold(program, |program, name| program.env(name, ""))
}

/// Standard error of words that must end with `code`.
async fn fails(code: i32, program: Program) -> Result<String> {
    let ended = program.run().await?;
    ensure!(ended.stdout.is_empty(), "data where there is none: {ended}");
    ended.failure(code)
}

#[tokio::test]
async fn wrong_words_are_usage_errors() -> Result<()> {
    let home = temp_dir("home")?;
    for words in [
        &["frobnicate"][..],
        &["drill", "run"],
        &["status", "--output", "xml"],
        &["backup", "run"],
        &["restore", "run", "--source", "a", "--target", "/x"],
        &["restore", "run", "--source", "a", "--target", "/x", "--latest", "--to-xid", "7"],
        &["restore", "run", "--source", "a", "--target", "/x", "--to-time", "2026-11-20T12:00:00"],
        &["restore", "run", "--source", "a", "--target", "relative", "--latest"],
        &["restore", "run", "--target", "/x", "--latest"],
        &["get", "sauce"],
        &["--offline", "snapshot", "list"],
        &["--offline", "--repository", "/x", "--key", "/x", "status"],
        &["--key", "/x", "status"],
        &["apply", "-f", "/dev/null"],
        &["status"],
    ] {
        let said = fails(2, brctl(home.path(), words)).await?;
        ensure!(said.contains("error: ") && !said.contains("panicked"), "{words:?}: {said}");
    }
    let later = ["restore", "run", "--source", "a", "--target", "/x", "--to-gtid", "u:1-5"];
    ensure!(fails(4, brctl(home.path(), &later)).await?.contains("--to-gtid"));
    let later = ["backup", "run", "a", "--verify", "thorough"];
    ensure!(fails(4, brctl(home.path(), &later)).await?.contains("--verify"));
    Ok(())
}

#[tokio::test]
async fn contexts_and_controllers_that_are_not_there_are_named() -> Result<()> {
    let home = temp_dir("home")?;
    let path = home.path().join("contexts.json");
    let url = format!("https://127.0.0.1:{}", free_port());
    let (certificate, _) = certificate()?;
    let context = |token: &str| serde_json::json!({"controller": url, "ca": certificate, "token": token});
    std::fs::write(&path, serde_json::json!({"current": "a", "contexts": {"a": context("t-secret")}}).to_string())?;
    let file = path.display().to_string();

    let said = fails(6, brctl(home.path(), &["--context-file", &file, "--context", "b", "status"])).await?;
    ensure!(said.contains("`b`") && said.contains("hint:"), "{said}");
    let said = fails(6, brctl(home.path(), &["--context-file", "/nowhere.json", "status"])).await?;
    ensure!(said.contains("/nowhere.json"), "{said}");
    let said = fails(3, brctl(home.path(), &["--controller", &url, "status"])).await?;
    ensure!(said.contains("token"), "{said}");
    let said = fails(8, brctl(home.path(), &["--context-file", &file, "--timeout", "5s", "status"])).await?;
    ensure!(said.contains(&url) && said.contains("hint:") && !said.contains("t-secret"), "{said}");
    // The doctor tells how far it came, and fails with the first failure.
    let doctor = brctl(home.path(), &["--context-file", &file, "doctor", "-o", "table"]).run().await?;
    ensure!(
        doctor.code()? == 8 && doctor.stdout.contains("controller") && doctor.stdout.contains("failed"),
        "{doctor}"
    );
    Ok(())
}

#[tokio::test]
async fn somebody_else_at_the_address_is_not_believed() -> Result<()> {
    let home = temp_dir("home")?;
    let data = home.path().join("data");
    let mut dev = brctl(home.path(), &["dev", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).start("dev")?;
    dev.wait_for_line("ready", std::time::Duration::from_secs(60)).await;
    let path = data.join("brctl.json");
    let mut context: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let file = path.display().to_string();
    brctl(home.path(), &["--context-file", &file, "status"]).run().await?.success()?;

    let wrong = brctl(home.path(), &["--context-file", &file, "status"]).env("BRCTL_TOKEN", "bwo-wrong");
    ensure!(fails(3, wrong).await?.contains("token"));
    context["ca"] = certificate()?.0.into();
    let other = home.path().join("other.json");
    std::fs::write(&other, context.to_string())?;
    let said = fails(3, brctl(home.path(), &["--context-file", &other.display().to_string(), "status"])).await?;
    ensure!(said.contains("certificate") && said.contains("hint:"), "{said}");
    ensure!(dev.terminate(std::time::Duration::from_secs(30)).await?.success());
    Ok(())
}

/// A certificate that nobody knows, and its key, PEM.
fn certificate() -> Result<(String, String)> {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}
