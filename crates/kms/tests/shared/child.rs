//! Services read their settings from the environment, which a running program cannot change safely: a test that needs some
//! runs itself again as a child that has it.

use std::process::Command;

use breakwater_core::RepositoryId;
use breakwater_crypto::{RecipientId, RecipientSecret, Secret};
use breakwater_kms::KeyContext;

const MARK: &str = "BREAKWATER_KMS_CHILD";

/// Whether this is the child.
pub(crate) fn inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// A variable that the parent has set.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the parent sets {name}"))
}

/// Runs the test `name` of this program again with `environment`, and fails when it fails or does not run.
pub(crate) fn run(name: &str, environment: &[(String, String)], more: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for variable in
        ["AWS_PROFILE", "AWS_SESSION_TOKEN", "BREAKWATER_PKCS11_PIN_FILE", "VAULT_TOKEN", "VAULT_TOKEN_FILE"]
    {
        command.env_remove(variable);
    }
    command.args(["--exact", name, "--nocapture"]).env(MARK, "1").envs(environment.iter().cloned());
    let output = command.envs(more.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{name}:\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A context for tests: the `n`th repository and recipient.
pub(crate) fn context(n: u8) -> KeyContext {
    KeyContext { repository: RepositoryId::from_bytes([n; 16]), recipient: recipient(n) }
}

fn recipient(n: u8) -> RecipientId {
    RecipientSecret::from_secret(Secret::from_bytes([n; 32])).id()
}
