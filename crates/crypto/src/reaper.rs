//! The reaper's key: what listing and deleting takes, and nothing that opens or names content.

use std::path::Path;

use breakwater_core::{DomainName, RepositoryId};
use serde_json::{Map, Value, json};

use crate::keyfile::{Fields, write_new};
use crate::{Fingerprint, KeyFileError, KeyKind, Secret};

/// What a worker needs that lists snapshots, deletes them and collects garbage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaperKey {
    /// The repository.
    pub repository: RepositoryId,
    /// Pins its descriptor.
    pub fingerprint: Fingerprint,
    /// The structure root of each domain.
    pub domains: Vec<(DomainName, Secret)>,
}

impl ReaperKey {
    /// Reads a reaper's key file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fields = Fields::load(path)?;
        fields.expect_kind(KeyKind::Reaper)?;
        let roots: Map<String, Value> = fields.parse("domains", "is not an object of domains")?;
        let domain = |(name, root): (&String, &Value)| {
            let name = DomainName::new(name).map_err(|_| fields.bad("domains", "has a name that no domain has"))?;
            let root = root.as_str().and_then(Secret::from_hex);
            Ok((name, root.ok_or_else(|| fields.bad("domains", "has a root that is not 64 hexadecimal digits"))?))
        };
        let domains = roots.iter().map(domain).collect::<Result<Vec<_>, KeyFileError>>()?;
        if domains.is_empty() {
            return Err(fields.bad("domains", "is empty"));
        }
        Ok(ReaperKey {
            repository: fields.parse("repository", "is not an id")?,
            fingerprint: fields.fingerprint()?,
            domains,
        })
    }

    /// Writes the key to a new file that only its owner can read. An existing file is left alone.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let domains: Map<String, Value> =
            self.domains.iter().map(|(name, root)| (name.to_string(), hex::encode(root.expose()).into())).collect();
        let value = json!({
            "kind": "breakwater-reaper-key",
            "version": 1,
            "repository": self.repository,
            "fingerprint": self.fingerprint.to_string(),
            "domains": domains,
        });
        write_new(path, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_a_bad_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reaper");
        let key = ReaperKey {
            repository: RepositoryId::from_bytes([1; 16]),
            fingerprint: Fingerprint([2; 32]),
            domains: vec![(DomainName::new("default").unwrap(), Secret::from_bytes([0xd3; 32]))],
        };
        key.write_new(&path).unwrap();
        assert_eq!(ReaperKey::read(&path).unwrap(), key);
        assert!(!format!("{key:?}").contains("d3d3") && !format!("{key:?}").contains("211"), "{key:?}");
        let text = std::fs::read_to_string(&path).unwrap().replace("d3d3", "zz");
        std::fs::write(&path, text).unwrap();
        let error = ReaperKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("`domains`") && !error.contains("d3d3"), "{error}");
    }
}
