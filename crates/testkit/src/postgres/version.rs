//! The PostgreSQL versions that the tests run against, and where their programs are.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::dirs::caches;

/// A major version of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The one of Debian 12.
    V15,
    /// The one of Debian 13, unpacked into the tests' cache.
    V17,
}

impl Version {
    /// Every version that the tests run against.
    pub const ALL: [Version; 2] = [Version::V15, Version::V17];

    /// The number.
    pub const fn major(self) -> u32 {
        match self {
            Version::V15 => 15,
            Version::V17 => 17,
        }
    }

    /// The directory of `postgres`, `initdb`, `psql` and the others.
    pub fn bin_dir(self) -> Result<PathBuf> {
        let major = self.major();
        let system = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
        let mut candidates = vec![system];
        for cache in caches() {
            candidates.push(cache.join(format!("postgresql-{major}/usr/lib/postgresql/{major}/bin")));
        }
        if let Some(found) = candidates.iter().find(|dir| dir.join("postgres").exists()) {
            return Ok(found.clone());
        }
        let places: Vec<String> = candidates.iter().map(|dir| dir.display().to_string()).collect();
        bail!("PostgreSQL {major} is not installed; looked in {}\nhint: run tests/setup", places.join(", "))
    }

    /// The path of one program of this version.
    pub fn program(self, name: &str) -> Result<PathBuf> {
        let path = self.bin_dir()?.join(name);
        if !path.exists() {
            bail!("PostgreSQL {} has no program {name}: {}", self.major(), path.display());
        }
        Ok(path)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}", self.major())
    }
}
