//! Key files: what a person keeps. JSON, mode 0600, never overwritten; a bad one is refused by file and field.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use breakwater_core::{DomainName, ErrorClass, RepositoryId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

use crate::{Recipient, RecipientId, RecipientSecret, Secret, Suite};

const WRITER: &str = "breakwater-writer-key";
const RECIPIENT: &str = "breakwater-key";
const REAPER: &str = "breakwater-reaper-key";
const SHARE: &str = "breakwater-key-share";
const IDENTITY: &str = "breakwater-identity";
const GRANT: &str = "breakwater-grant";
/// Larger files are not key files; reading stops there.
const LARGEST: u64 = 1 << 20;

/// SHA-256 of a repository's descriptor: every key file pins it, so that a key is never used on a foreign repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The kinds of key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Adds, and reads structure.
    Writer,
    /// Opens everything.
    Recipient,
    /// Lists and deletes, opens no content.
    Reaper,
    /// One of several shares of a recipient's key.
    Share,
    /// The private key of somebody who is granted single snapshots.
    Identity,
    /// Opens one snapshot, with an identity.
    Grant,
}

impl KeyKind {
    const fn word(self) -> &'static str {
        match self {
            KeyKind::Writer => WRITER,
            KeyKind::Recipient => RECIPIENT,
            KeyKind::Reaper => REAPER,
            KeyKind::Share => SHARE,
            KeyKind::Identity => IDENTITY,
            KeyKind::Grant => GRANT,
        }
    }

    /// For people, after "is that of".
    const fn whose(self) -> &'static str {
        match self {
            KeyKind::Writer => "a writer key, which cannot open content",
            KeyKind::Recipient => "a recipient's key",
            KeyKind::Reaper => "a reaper key, which deletes and opens no content",
            KeyKind::Share => "one share of a key; hint: give --key with every share",
            KeyKind::Identity => "an identity; hint: it goes with a grant, as --identity",
            KeyKind::Grant => "a grant; hint: it goes with the identity that it was made for, --identity",
        }
    }
}

/// What an agent needs to add backups and to read their structure. It opens no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterKey {
    /// The repository.
    pub repository: RepositoryId,
    /// Pins its descriptor.
    pub fingerprint: Fingerprint,
    /// The repository's suite.
    pub suite: Suite,
    /// The domain it writes into.
    pub domain: DomainName,
    /// The epoch that the restore key was made in.
    pub epoch: u32,
    /// Names chunks.
    pub id_key: Secret,
    /// The structure keys of all sources of the domain follow from it.
    pub structure_root: Secret,
    /// The public half of the domain's restore key: session secrets are sealed to it.
    pub restore: [u8; 32],
}

/// The private key of one recipient of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientKey {
    /// The repository.
    pub repository: RepositoryId,
    /// Pins its descriptor.
    pub fingerprint: Fingerprint,
    /// For people: `primary`, `recovery`.
    pub name: String,
    /// The key.
    pub secret: RecipientSecret,
}

/// Which kind of key file lies at `path`.
pub fn key_kind(path: &Path) -> Result<KeyKind, KeyFileError> {
    let fields = Fields::load(path)?;
    fields.kind()
}

impl WriterKey {
    /// Reads a writer's key file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fields = Fields::load(path)?;
        fields.expect_kind(KeyKind::Writer)?;
        let suite = fields.text("suite")?;
        Ok(WriterKey {
            repository: fields.parse("repository", "is not an id")?,
            fingerprint: fields.fingerprint()?,
            suite: suite.parse().map_err(|error| fields.bad("suite", &format!("{error}")))?,
            domain: fields.parse("domain", "is not the name of a domain")?,
            epoch: fields.parse("epoch", "is not a number")?,
            id_key: fields.secret("id_key")?,
            structure_root: fields.secret("structure_root")?,
            restore: *fields.secret("restore")?.expose(),
        })
    }

    /// Writes the key to a new file that only its owner can read. An existing file is left alone.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let value = json!({
            "kind": WRITER,
            "version": 1,
            "repository": self.repository,
            "fingerprint": self.fingerprint.to_string(),
            "suite": self.suite,
            "domain": self.domain,
            "epoch": self.epoch,
            "id_key": hex::encode(self.id_key.expose()),
            "structure_root": hex::encode(self.structure_root.expose()),
            "restore": hex::encode(self.restore),
        });
        write_new(path, value)
    }
}

impl RecipientKey {
    /// Reads a recipient's key file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fields = Fields::load(path)?;
        fields.expect_kind(KeyKind::Recipient)?;
        let key = RecipientKey {
            repository: fields.parse("repository", "is not an id")?,
            fingerprint: fields.fingerprint()?,
            name: fields.text("name")?.to_owned(),
            secret: RecipientSecret::from_secret(fields.secret("secret")?),
        };
        let recipient: RecipientId = fields.parse("recipient", "is not an id")?;
        if recipient != key.id() {
            return Err(fields.bad("secret", "does not belong to the recipient that the file names"));
        }
        Ok(key)
    }

    /// Writes the key to a new file that only its owner can read. An existing file is left alone.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let value = json!({
            "kind": RECIPIENT,
            "version": 1,
            "repository": self.repository,
            "fingerprint": self.fingerprint.to_string(),
            "recipient": self.id(),
            "name": self.name,
            "secret": hex::encode(self.secret.secret().expose()),
        });
        write_new(path, value)
    }

    /// The id of this recipient.
    pub fn id(&self) -> RecipientId {
        self.secret.id()
    }

    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient::new(&self.name, self.secret.public())
    }
}

/// The fields of a key file, with the file's name for errors. Wiped when dropped.
pub(crate) struct Fields {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn load(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::Io { path: path.to_owned(), action: "cannot read", source };
        let file = File::open(path).map_err(failed)?;
        let mut text = Zeroizing::new(Vec::new());
        file.take(LARGEST).read_to_end(&mut text).map_err(failed)?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(map)) => Ok(Fields { path: path.to_owned(), map }),
            // The parser's own message is left out: it may quote the text.
            Ok(_) | Err(_) => Err(KeyFileError::NotJson { path: path.to_owned() }),
        }
    }

    pub(crate) fn bad(&self, field: &'static str, problem: &str) -> KeyFileError {
        KeyFileError::Field { path: self.path.clone(), field, problem: problem.to_owned() }
    }

    pub(crate) fn get(&self, field: &'static str) -> Result<&Value, KeyFileError> {
        self.map.get(field).ok_or_else(|| self.bad(field, "is missing"))
    }

    pub(crate) fn text(&self, field: &'static str) -> Result<&str, KeyFileError> {
        self.get(field)?.as_str().ok_or_else(|| self.bad(field, "is not a text"))
    }

    pub(crate) fn parse<T: for<'a> Deserialize<'a>>(
        &self,
        field: &'static str,
        problem: &str,
    ) -> Result<T, KeyFileError> {
        T::deserialize(self.get(field)?).map_err(|_| self.bad(field, problem))
    }

    pub(crate) fn secret(&self, field: &'static str) -> Result<Secret, KeyFileError> {
        Secret::from_hex(self.text(field)?).ok_or_else(|| self.bad(field, "is not 64 hexadecimal digits"))
    }

    pub(crate) fn fingerprint(&self) -> Result<Fingerprint, KeyFileError> {
        Ok(Fingerprint(*self.secret("fingerprint")?.expose()))
    }

    fn kind(&self) -> Result<KeyKind, KeyFileError> {
        const ALL: [KeyKind; 6] =
            [KeyKind::Writer, KeyKind::Recipient, KeyKind::Reaper, KeyKind::Share, KeyKind::Identity, KeyKind::Grant];
        let word = self.text("kind")?;
        let kind = ALL.into_iter().find(|kind| kind.word() == word);
        let kind = kind.ok_or_else(|| self.bad("kind", "is not that of a breakwater key"))?;
        if self.get("version")?.as_u64() != Some(1) {
            return Err(self.bad("version", "is not 1; hint: use the breakwater that wrote the file, or a newer one"));
        }
        Ok(kind)
    }

    pub(crate) fn expect_kind(&self, wanted: KeyKind) -> Result<(), KeyFileError> {
        let found = self.kind()?;
        if found == wanted {
            return Ok(());
        }
        let hint = match wanted {
            KeyKind::Writer => "; hint: give the writer key that `repository create` made",
            KeyKind::Recipient if found == KeyKind::Writer => "; hint: give a recipient's key, as the recovery key",
            _ => "",
        };
        Err(self.bad("kind", &format!("is that of {}{hint}", found.whose())))
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        for value in self.map.values_mut() {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

pub(crate) fn write_new(path: &Path, value: Value) -> Result<(), KeyFileError> {
    let mut text = Zeroizing::new(serde_json::to_vec_pretty(&value).expect("a JSON value can be written"));
    text.push(b'\n');
    let failed = |source| KeyFileError::Io { path: path.to_owned(), action: "cannot write", source };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| {
            match source.kind() {
                std::io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
                _ => failed(source),
            }
        })?;
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    let written = written.and_then(|()| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    });
    written.map_err(|source| {
        // Half a key must not look like a key; the write error is what the person has to know.
        drop(std::fs::remove_file(path));
        failed(source)
    })
}

/// A key file could not be read or written. Never quotes what the file holds.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system said no.
    #[error("{action} key file: {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A key is never overwritten.
    #[error("key file exists: {}; hint: name another file, a key is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Not a JSON object.
    #[error("not a key file (no JSON object): {}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
    },
    /// One field is wrong.
    #[error("key file {}: field `{field}` {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl KeyFileError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            KeyFileError::Io { source, .. } => ErrorClass::of_io(source),
            KeyFileError::Exists { .. } => ErrorClass::Refused,
            KeyFileError::NotJson { .. } | KeyFileError::Field { .. } => ErrorClass::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn recipient_key() -> RecipientKey {
        RecipientKey {
            repository: RepositoryId::from_bytes([1; 16]),
            fingerprint: Fingerprint([2; 32]),
            name: "recovery".to_owned(),
            secret: RecipientSecret::from_secret(Secret::from_bytes([3; 32])),
        }
    }

    fn writer_key() -> WriterKey {
        WriterKey {
            repository: RepositoryId::from_bytes([1; 16]),
            fingerprint: Fingerprint([2; 32]),
            suite: Suite::Standard,
            domain: DomainName::new("default").unwrap(),
            epoch: 1,
            id_key: Secret::from_bytes([0xd1; 32]),
            structure_root: Secret::from_bytes([0xd2; 32]),
            restore: recipient_key().secret.public(),
        }
    }

    #[test]
    fn files_read_back_and_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, recipient) = (dir.path().join("writer.key"), dir.path().join("recovery.key"));
        writer_key().write_new(&writer).unwrap();
        recipient_key().write_new(&recipient).unwrap();
        assert_eq!(WriterKey::read(&writer).unwrap(), writer_key());
        assert_eq!(RecipientKey::read(&recipient).unwrap(), recipient_key());
        assert_eq!(key_kind(&writer).unwrap(), KeyKind::Writer);
        assert_eq!(key_kind(&recipient).unwrap(), KeyKind::Recipient);
        assert_eq!(std::fs::metadata(&writer).unwrap().permissions().mode() & 0o777, 0o600);
        let error = recipient_key().write_new(&writer).unwrap_err();
        assert!(error.to_string().contains("writer.key"), "{error}");
        assert_eq!(WriterKey::read(&writer).unwrap(), writer_key());
        let error = RecipientKey::read(&writer).unwrap_err();
        assert!(error.to_string().contains("cannot open content"), "{error}");
        assert!(WriterKey::read(&recipient).is_err());
    }

    #[test]
    fn every_bad_field_is_named_and_no_secret_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good");
        writer_key().write_new(&good).unwrap();
        let fields: Map<String, Value> = serde_json::from_slice(&std::fs::read(&good).unwrap()).unwrap();
        for field in fields.keys() {
            for value in [None, Some(json!(["nonsense"])), Some(json!("nonsense!"))] {
                let mut broken = fields.clone();
                match value {
                    None => broken.remove(field),
                    Some(value) => broken.insert(field.clone(), value),
                };
                let path = dir.path().join("broken");
                std::fs::write(&path, serde_json::to_vec(&broken).unwrap()).unwrap();
                let error = WriterKey::read(&path).unwrap_err().to_string();
                assert!(error.contains(&format!("`{field}`")) && error.contains("broken"), "{field}: {error}");
                assert!(!error.contains("d1d1") && !error.contains("d2d2"), "{error}");
            }
        }
        assert!(!format!("{:?}", writer_key()).contains("d1d1"));
        let private = format!("{:?}", recipient_key());
        assert!(!private.contains("0303") && !private.contains("3, 3"), "{private}");
    }

    #[test]
    fn a_swapped_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        recipient_key().write_new(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&"03".repeat(32), &"04".repeat(32))).unwrap();
        let error = RecipientKey::read(&path).unwrap_err();
        assert!(error.to_string().contains("does not belong"), "{error}");
        std::fs::write(&path, b"-----BEGIN").unwrap();
        assert!(RecipientKey::read(&path).unwrap_err().to_string().contains("not a key file"));
    }
}
