//! What `--key` names: a key file, shares of one, a passphrase, a key service's key, or a grant with the identity that it is for.
//!
//! Invariant: no secret is ever an argument. A passphrase comes from a file that only its owner can read, or is asked for
//! on the terminal. The address of a key service is the operator's, never what a repository says.

use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use breakwater_agent::keyring;
use breakwater_core::ErrorClass;
use breakwater_crypto::{Grant, Identity, KeyKind, KeyShare, RecipientKey, key_kind};
use breakwater_kms::{KeyContext, ServiceError};
use breakwater_repository::{Access, Holders, OpenedGrant, Place};

use crate::failure::Failure;
use crate::settings::OfflineSettings;
use crate::wiring::key_services;

/// The word for a key that a passphrase opens.
const PASSPHRASE: &str = "passphrase";

/// What the keys of the settings open.
pub(super) async fn access(settings: &OfflineSettings, places: &[Place]) -> Result<Access, Failure> {
    let [first, more @ ..] = settings.keys.as_slice() else {
        return Err(
            Failure::usage("--offline needs the key that opens the repository").hint("--key FILE, or BRCTL_KEY")
        );
    };
    if first == PASSPHRASE && more.is_empty() {
        let holders = Holders::read(places).await?;
        let passphrase = passphrase(settings.passphrase_file.as_deref(), "passphrase of the repository: ")?;
        let unlocked = tokio::task::spawn_blocking(move || holders.unlock(&passphrase)).await;
        let unlocked = unlocked.map_err(|_| Failure::internal("unlocking ended early"))?;
        return Ok(Access::Recipient(unlocked?));
    }
    if key_services().knows(first) {
        if !more.is_empty() {
            return Err(
                Failure::usage("several --key are for the shares of a key").hint("give the key service's key alone")
            );
        }
        return Ok(Access::Recipient(unwrapped(first, &Holders::read(places).await?).await?));
    }
    let path = Path::new(first);
    let kind = key_kind(path);
    // A grant is sealed, so it may lie open; of everything else, what others can read is refused before what it holds is judged.
    if !matches!(kind, Ok(KeyKind::Grant)) {
        check_private(path)?;
    }
    match kind? {
        KeyKind::Share => {
            let mut shares = Vec::new();
            for name in &settings.keys {
                let path = PathBuf::from(name);
                check_private(&path)?;
                shares.push((path.clone(), KeyShare::read(&path)?));
            }
            Ok(Access::Recipient(KeyShare::join(&shares)?))
        }
        _ if !more.is_empty() => {
            Err(Failure::usage("several --key are for the shares of a key")
                .hint("give one key file, or each share's file"))
        }
        KeyKind::Grant => {
            let Some(identity) = &settings.identity else {
                return Err(Failure::usage(format!("{first} is a grant, which opens nothing by itself"))
                    .hint("--identity with the identity's file that it was made for"));
            };
            check_private(identity)?;
            let (grant, identity) = (Grant::read(path)?, Identity::read(identity)?);
            let secrets = grant
                .open(&identity)
                .map_err(|error| Failure::of(error.class(), &error).doing(format!("grant {first}")))?;
            Ok(Access::Grant(OpenedGrant { grant, secrets }))
        }
        _ => Ok(keyring::read(path)?),
    }
}

/// The key of the recipient that the key service at `url` has wrapped.
async fn unwrapped(url: &str, holders: &Holders) -> Result<RecipientKey, Failure> {
    let failed = |error: ServiceError| Failure::of(error.class(), &error).doing(format!("--key {url}"));
    let service = key_services().open(url).map_err(failed)?;
    let mut trouble = None;
    for (member, wrapped) in holders.wrapped_by(url) {
        let context = KeyContext { repository: holders.repository, recipient: member.recipient.id };
        match service.unwrap(wrapped, &context).await {
            Ok(payload) => return Ok(holders.key_of(member, &payload)?),
            // Another recipient may be wrapped by the same key, and be whole.
            Err(error) => trouble = Some(failed(error).doing(format!("recipient `{}`", member.recipient.name))),
        }
    }
    Err(trouble.unwrap_or_else(|| {
        Failure::new(ErrorClass::Denied, format!("no recipient of this repository is wrapped by {url}")).hint(
            "write the address as it was written with --kms; `repository key list` with another key shows who there is",
        )
    }))
}

/// A passphrase: out of a file, or typed on the terminal.
pub(crate) fn passphrase(file: Option<&Path>, prompt: &str) -> Result<zeroize::Zeroizing<String>, Failure> {
    if let Some(path) = file {
        check_private(path)?;
        let text = std::fs::read_to_string(path).map_err(|error| Failure::io(path.display(), &error))?;
        let text = zeroize::Zeroizing::new(text);
        return Ok(zeroize::Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("a passphrase is needed, and there is no terminal to ask on")
            .hint("BRCTL_PASSPHRASE_FILE with a file that only its owner can read"));
    }
    let echo = |on: bool| {
        let word = if on { "echo" } else { "-echo" };
        std::process::Command::new("stty").arg(word).status().is_ok_and(|status| status.success())
    };
    if !echo(false) {
        return Err(Failure::new(ErrorClass::Refused, "the terminal cannot be told not to show what is typed")
            .hint("BRCTL_PASSPHRASE_FILE with a file that only its owner can read"));
    }
    let mut shown = std::io::stderr();
    let asked = write!(shown, "{prompt}").and_then(|()| shown.flush());
    let mut text = zeroize::Zeroizing::new(String::new());
    let read = std::io::stdin().lock().read_line(&mut text);
    let restored = echo(true);
    // The line end was typed unseen; what comes next begins on a line of its own.
    let ended = writeln!(shown);
    asked.and(ended).and(read.map(drop)).map_err(|error| Failure::io("the terminal", &error))?;
    if !restored {
        crate::output::say("note: the terminal still hides what is typed; `stty echo` shows it again");
    }
    Ok(zeroize::Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Refuses a file with a secret that others can read.
fn check_private(path: &Path) -> Result<(), Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| Failure::io(path.display(), &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Failure::new(
            ErrorClass::Denied,
            format!("{} can be read by others: mode {mode:04o}", path.display()),
        )
        .hint(format!("chmod 600 {}", path.display())));
    }
    Ok(())
}
