//! Whose host keys are trusted: those in files of `known_hosts`, or one by its fingerprint. Never a key because it came first.

use std::path::{Path, PathBuf};

use russh::keys::known_hosts::known_host_keys_path;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey};

/// The algorithms of host keys that are asked for, the preferred first.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
];

/// What a host key is compared with.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// The fingerprint of the one key: `SHA256:…`.
    Pinned(String),
    /// Files of `known_hosts`; the first is where people are told to add a line.
    Files(Vec<PathBuf>),
}

/// A host key that is not trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostKeyError {
    #[error(
        "the host key of {address} is not known: {offered} (hint: compare it with what `ssh-keygen -lf` shows of the key on the \
         server; if it is the same, add to {}: {line})", file.display()
    )]
    Unknown { address: String, offered: String, file: PathBuf, line: String },
    #[error(
        "the host key of {address} is not the one that is known: it offers {offered}, and {known}; somebody may be in between \
         (hint: if the server got a new key for certain, replace that line by: {line})"
    )]
    Changed { address: String, offered: String, known: String, line: String },
    #[error(
        "the host key of {address} is not the one that `host-key` says: it offers {offered}, not {pin}; somebody may be in \
         between (hint: change the option only if the server got a new key for certain)"
    )]
    NotPinned { address: String, offered: String, pin: String },
    #[error("the host key {offered} of {address} is revoked in {} (hint: the server needs a new key)", file.display())]
    Revoked { address: String, offered: String, file: PathBuf },
    #[error("the file of known hosts {} cannot be understood", file.display())]
    Unreadable { file: PathBuf, source: russh::keys::Error },
}

/// The host and port as `known_hosts` writes them.
pub(crate) fn address(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// A key that a file knows for a host.
struct Known {
    file: PathBuf,
    line: usize,
    key: PublicKey,
}

impl Trust {
    /// Trusts the key with the fingerprint `pin` alone, if that is one.
    pub(crate) fn pinned(pin: &str) -> Option<Trust> {
        let fingerprint = pin.parse::<russh::keys::ssh_key::Fingerprint>().ok()?;
        fingerprint.is_sha256().then(|| Trust::Pinned(fingerprint.to_string()))
    }

    /// The algorithms to ask the server's key of. Those of keys that are known come first, since a server has one key for each
    /// and shows that of the first.
    pub(crate) fn algorithms(&self, host: &str, port: u16) -> Vec<Algorithm> {
        let known: Vec<Algorithm> = match self {
            Trust::Pinned(_) => Vec::new(),
            // A file that cannot be read is an error when the key is judged.
            Trust::Files(files) => files
                .iter()
                .flat_map(|file| keys(file, host, port).unwrap_or_default())
                .map(|known| known.key.algorithm())
                .collect(),
        };
        let (mut first, rest): (Vec<Algorithm>, Vec<Algorithm>) =
            ALGORITHMS.into_iter().partition(|algorithm| known.contains(algorithm));
        first.extend(rest);
        first
    }

    /// Whether `key` is that of the host at `host` and `port`.
    pub(crate) fn judge(&self, host: &str, port: u16, key: &PublicKey) -> Result<(), HostKeyError> {
        let address = address(host, port);
        let offered = shown(key);
        let files = match self {
            Trust::Pinned(pin) if *pin == fingerprint(key) => return Ok(()),
            Trust::Pinned(pin) => return Err(HostKeyError::NotPinned { address, offered, pin: pin.clone() }),
            Trust::Files(files) => files,
        };
        let mut known = Vec::new();
        for file in files {
            if is_revoked(file, key) {
                return Err(HostKeyError::Revoked { address, offered, file: file.clone() });
            }
            known.extend(keys(file, host, port)?);
        }
        if known.iter().any(|known| known.key.key_data() == key.key_data()) {
            return Ok(());
        }
        let line = format!("{address} {}", openssh(key));
        match known.into_iter().next() {
            Some(Known { file, line: number, key }) => {
                let known = format!("line {number} of {} says {}", file.display(), shown(&key));
                Err(HostKeyError::Changed { address, offered, known, line })
            }
            None => {
                let file = files.first().cloned().unwrap_or_default();
                Err(HostKeyError::Unknown { address, offered, file, line })
            }
        }
    }
}

/// The keys that `file` has for the host; none where there is no such file.
fn keys(file: &Path, host: &str, port: u16) -> Result<Vec<Known>, HostKeyError> {
    let keys = known_host_keys_path(host, port, file)
        .map_err(|source| HostKeyError::Unreadable { file: file.to_owned(), source })?;
    Ok(keys.into_iter().map(|(line, key)| Known { file: file.to_owned(), line, key }).collect())
}

/// Whether a line of `file` revokes `key`, for whatever host.
fn is_revoked(file: &Path, key: &PublicKey) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let encoded = openssh(key);
    let encoded = encoded.split(' ').nth(1).unwrap_or_default();
    text.lines().any(|line| line.starts_with("@revoked") && line.split_ascii_whitespace().any(|word| word == encoded))
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// For people: the algorithm and the fingerprint.
fn shown(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), fingerprint(key))
}

/// As files of known hosts have it.
fn openssh(key: &PublicKey) -> String {
    let bare = PublicKey::new(key.key_data().clone(), "");
    bare.to_openssh().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use breakwater_core::Chain;

    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).unwrap()
    }

    /// What becomes of `ONE` at `[h]:2222` where the file of known hosts is `text`.
    fn judged(text: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        std::fs::write(&file, text).unwrap();
        Trust::Files(vec![file]).judge("h", 2222, &key(ONE)).map_err(|error| Chain(&error).to_string())
    }

    #[test]
    fn a_key_is_trusted_by_its_line_alone() {
        assert_eq!(judged(&format!("# c\n[h]:2222 {ONE} comment\n")), Ok(()));
        assert_eq!(judged(&format!("[h]:2222 {OTHER}\nx,[h]:2222 {ONE}\n")), Ok(()), "a host may have several keys");
        for unknown in
            ["", &format!("h {ONE}\n"), &format!("[g]:2222 {ONE}\n"), &format!("@cert-authority [h]:2222 {ONE}\n")]
        {
            let error = judged(unknown).unwrap_err();
            assert!(error.contains("not known") && error.contains(&format!("[h]:2222 {ONE}")), "{error}");
            assert!(error.contains(&fingerprint(&key(ONE))), "{error}");
        }
        let changed = judged(&format!("\n[h]:2222 {OTHER}\n")).unwrap_err();
        for part in ["line 2", &*fingerprint(&key(ONE)), &*fingerprint(&key(OTHER)), "in between"] {
            assert!(changed.contains(part), "{changed}");
        }
        let revoked = judged(&format!("[h]:2222 {ONE}\n@revoked * {ONE}\n")).unwrap_err();
        assert!(revoked.contains("revoked"), "{revoked}");
        assert!(judged("[h]:2222 ssh-ed25519 AAAA\n").unwrap_err().contains("cannot be understood"));
    }

    #[test]
    fn a_pin_takes_one_key() {
        let trust = Trust::pinned(&fingerprint(&key(ONE))).unwrap();
        trust.judge("h", 22, &key(ONE)).unwrap();
        let error = trust.judge("h", 22, &key(OTHER)).unwrap_err().to_string();
        assert!(error.contains(&fingerprint(&key(ONE))) && error.contains(&fingerprint(&key(OTHER))), "{error}");
        assert!(Trust::pinned("SHA256:short").is_none() && Trust::pinned("").is_none());
    }

    #[test]
    fn the_server_is_asked_for_the_key_that_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc=";
        std::fs::write(&file, format!("h {ecdsa}\n")).unwrap();
        let trust = Trust::Files(vec![file]);
        assert_eq!(trust.algorithms("h", 22).first(), Some(&key(ecdsa).algorithm()));
        assert_eq!(trust.algorithms("g", 22), ALGORITHMS);
    }
}
