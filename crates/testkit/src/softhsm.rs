//! SoftHSM, a hardware security module in software: one token with an RSA key pair, in a directory of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::dirs::temp_dir;

const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];

/// The PIN of the token's user.
pub const PIN: &str = "27182818";

/// The label of the token.
pub const TOKEN: &str = "breakwater";

/// The label of the key pair.
pub const OBJECT: &str = "backup";

/// A token. Gone when dropped.
#[derive(Debug)]
pub struct SoftHsm {
    dir: TempDir,
    module: PathBuf,
}

impl SoftHsm {
    /// Makes a token with an RSA key pair of 2048 bits.
    pub fn make() -> Result<SoftHsm> {
        let module = MODULES.iter().map(PathBuf::from).find(|path| path.is_file());
        let module = module.context("SoftHSM is not installed\nhint: run tests/setup")?;
        let hsm = SoftHsm { dir: temp_dir("hsm")?, module };
        let tokens = hsm.dir.path().join("tokens");
        std::fs::create_dir(&tokens).context("make the token's directory")?;
        let conf =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(hsm.conf(), conf).context("write SoftHSM's configuration")?;
        hsm.write_pin(&hsm.pin_file(), PIN)?;
        let key = hsm.dir.path().join("key.pem");
        run(Command::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
            .arg(&key))?;
        run(hsm.util().args(["--init-token", "--free", "--label", TOKEN, "--so-pin", PIN, "--pin", PIN]))?;
        run(hsm
            .util()
            .arg("--import")
            .arg(&key)
            .args(["--token", TOKEN, "--label", OBJECT, "--id", "01", "--pin", PIN]))?;
        std::fs::remove_file(key).context("remove the key's file")?;
        Ok(hsm)
    }

    /// Where a key of the token is, as Breakwater writes it.
    pub fn address(&self, token: &str, object: &str) -> String {
        format!("pkcs11:module={};token={token};object={object}", self.module.display())
    }

    /// The environment in which the module finds the token, and a program its PIN.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.display().to_string();
        vec![
            ("SOFTHSM2_CONF".to_owned(), text(self.conf())),
            ("BREAKWATER_PKCS11_PIN_FILE".to_owned(), text(self.pin_file())),
        ]
    }

    /// Writes a PIN to a file that only its owner can read.
    pub fn write_pin(&self, path: &Path, pin: &str) -> Result<()> {
        std::fs::write(path, format!("{pin}\n")).context("write a PIN")?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).context("keep a PIN")
    }

    /// A directory for more files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("softhsm2.conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.dir.path().join("pin")
    }

    fn util(&self) -> Command {
        let mut command = Command::new("softhsm2-util");
        command.env("SOFTHSM2_CONF", self.conf());
        command
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}\nhint: run tests/setup"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
