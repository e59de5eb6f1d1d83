//! What the engine wants to find again at restore: its facts in a snapshot's manifest.

use std::collections::BTreeMap;

use breakwater_core::Lsn;
use breakwater_engine::{EngineError, EngineErrorKind};
use serde::{Deserialize, Serialize};

/// The facts of one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The system identifier, decimal: too large for the numbers of some JSON readers.
    pub system_id: String,
    /// `15.18 (Debian …)`.
    pub version: String,
    /// The major version; only its programs can start the restored cluster.
    pub major: u32,
    /// Bytes of a log segment.
    pub segment_size: u64,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// The timeline of the backup.
    pub timeline: u32,
    /// Where replay begins.
    pub start: Lsn,
    /// Where the copy becomes consistent.
    pub end: Lsn,
    /// Settings, by name, that a restored server needs in order to start or to replay.
    pub settings: BTreeMap<String, String>,
    /// The user that the data directory belongs to.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// A role that may do everything, through which a restored server is asked.
    pub superuser: String,
    /// Configuration files that lie outside of the data directory.
    #[serde(default)]
    pub config_files: Vec<ConfigFile>,
}

/// A configuration file outside of the data directory, kept so that a restore can lay it beside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Where it lay.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Facts {
    /// Reads facts from a manifest.
    ///
    /// # Errors
    /// When they are not those of a PostgreSQL backup.
    pub fn from_json(json: &serde_json::Value) -> Result<Facts, EngineError> {
        Facts::deserialize(json).map_err(|error| {
            let what = "the snapshot's facts are not those of a PostgreSQL cluster";
            EngineError::new(EngineErrorKind::Corrupt, what).because(error)
        })
    }
}
