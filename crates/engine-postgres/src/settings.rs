//! What a person says about a PostgreSQL source.

use std::path::PathBuf;
use std::time::Duration;

use breakwater_core::Name;
use breakwater_engine::{EngineError, EngineErrorKind};

use crate::connection::ConnectionSettings;

/// What gives way when the log cannot be stored for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protect {
    /// The archive: the slot is given up, the gap is recorded, the database goes on.
    #[default]
    Database,
    /// The database: the server keeps its log until it is stored, also when its disk fills.
    Archive,
}

/// One cluster, and how it is to be protected.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// Where its files lie for us; what the server says when `None`.
    pub data_directory: Option<PathBuf>,
    /// The name of the physical slot that holds the log for us.
    pub slot: String,
    /// Where the programs of this version lie, when the usual places are not right.
    pub program_directory: Option<PathBuf>,
    /// What gives way when the log cannot be stored for too long.
    pub protect: Protect,
    /// Accept a server that may keep log for the slot without bound.
    pub allow_unbounded_slot: bool,
    /// The system identifier that this source had before; another one is refused.
    pub expected_system_id: Option<u64>,
    /// How long the server may take to answer a few questions; what is known to take long has limits of its own.
    pub answer_timeout: Duration,
}

impl PostgresSettings {
    /// The settings of the source `name`: its slot is `breakwater_<name>`, everything else as most people want it.
    ///
    /// # Errors
    /// When the name is too long for a slot's name.
    pub fn new(name: &Name, connection: ConnectionSettings) -> Result<Self, EngineError> {
        let slot = default_slot(name)?;
        Ok(PostgresSettings {
            connection,
            data_directory: None,
            slot,
            program_directory: None,
            protect: Protect::default(),
            allow_unbounded_slot: false,
            expected_system_id: None,
            answer_timeout: Duration::from_secs(30),
        })
    }
}

/// `breakwater_<name>` in the alphabet of slot names: lower-case letters, digits and `_`.
fn default_slot(name: &Name) -> Result<String, EngineError> {
    let slot = format!("breakwater_{}", name.as_str().replace(['-', '.'], "_"));
    if slot.len() > 63 {
        let what = format!("the slot's name would be too long for PostgreSQL: {slot}");
        return Err(EngineError::new(EngineErrorKind::Invalid, what)
            .hint("name the slot of this source: at most 63 characters"));
    }
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_named_after_their_source() {
        assert_eq!(default_slot(&Name::new("pg-main.eu").unwrap()).unwrap(), "breakwater_pg_main_eu");
        assert!(default_slot(&Name::new(&"a".repeat(60)).unwrap()).is_err());
    }
}
