//! What a running server says about itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use breakwater_core::{Lsn, Timestamp};
use breakwater_engine::{EngineError, EngineErrorKind};

use crate::connection::{ConnectionSettings, SqlClient};
use crate::control::{ControlFile, read_control_file};
use crate::failure::{blocking, internal, of_connection, of_sql};
use crate::wal::SegmentSize;

/// The oldest and the newest major version that this engine knows.
pub(crate) const OLDEST: u32 = 13;
pub(crate) const NEWEST: u32 = 18;

/// Settings that decide how a cluster is backed up, or that a restored server needs.
const SETTINGS: [&str; 27] = [
    "block_size",
    "checkpoint_timeout",
    "config_file",
    "data_checksums",
    "data_directory",
    "full_page_writes",
    "hba_file",
    "ident_file",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "server_version",
    "shared_preload_libraries",
    "summarize_wal",
    "wal_block_size",
    "wal_level",
    "wal_segment_size",
    "wal_sender_timeout",
];
/// Those that go into the facts.
const KEPT: [&str; 10] = [
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "shared_preload_libraries",
];

/// The answers of a server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// `150018`.
    pub version_number: u32,
    pub system_id: u64,
    pub in_recovery: bool,
    pub segment_size: SegmentSize,
    /// In base units. Without the right to read all settings, some are missing.
    pub settings: BTreeMap<String, String>,
}

impl Server {
    /// Asks the server.
    pub(crate) async fn ask(client: &SqlClient) -> Result<Server, EngineError> {
        let what = "cannot ask the server about itself";
        let fail = |error| of_sql(what, error);
        let rows = client
            .query("SELECT name, setting FROM pg_settings WHERE name = ANY ($1)", &[&SETTINGS.as_slice()])
            .await
            .map_err(fail)?;
        let settings: BTreeMap<String, String> =
            rows.iter().map(|row| (row.get(0), row.get::<_, Option<String>>(1).unwrap_or_default())).collect();
        let row = client
            .query_one(
                "SELECT current_setting('server_version_num')::int4, pg_is_in_recovery(), system_identifier \
                 FROM pg_control_system()",
                &[],
            )
            .await
            .map_err(fail)?;
        let version_number = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
        let bytes = settings.get("wal_segment_size").and_then(|text| text.parse().ok()).unwrap_or_default();
        let segment_size = SegmentSize::new(bytes).map_err(|error| internal(what).because(error))?;
        Ok(Server {
            version_number,
            system_id: row.get::<_, i64>(2).cast_unsigned(),
            in_recovery: row.get(1),
            segment_size,
            settings,
        })
    }

    /// The major version.
    pub(crate) fn major(&self) -> u32 {
        self.version_number / 10_000
    }

    /// The version as the server prints it.
    pub(crate) fn version(&self) -> String {
        self.settings.get("server_version").cloned().unwrap_or_else(|| self.version_number.to_string())
    }

    /// A setting, when we may see it.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Bytes of a page of the log.
    pub(crate) fn log_page_size(&self) -> u64 {
        self.setting("wal_block_size").and_then(|text| text.parse().ok()).filter(|size| *size > 0).unwrap_or(8192)
    }

    /// The settings that a restore wants to know.
    pub(crate) fn kept_settings(&self) -> BTreeMap<String, String> {
        self.settings
            .iter()
            .filter(|(name, _)| KEPT.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect()
    }

    /// Where the server's files lie for us: as configured, else as the server says.
    pub(crate) fn data_directory(&self, configured: Option<&Path>) -> Result<PathBuf, EngineError> {
        match (configured, self.setting("data_directory")) {
            (Some(path), _) => Ok(path.to_owned()),
            (None, Some(path)) => Ok(PathBuf::from(path)),
            (None, None) => Err(EngineError::new(
                EngineErrorKind::Denied,
                "the server does not tell this role where its data directory is",
            )
            .hint("GRANT pg_read_all_settings to the role, or set the source's data directory")),
        }
    }
}

/// A session and what the server said in it.
pub(crate) async fn connect(settings: &ConnectionSettings) -> Result<(SqlClient, Server), EngineError> {
    let client = settings.connect_sql().await.map_err(of_connection)?;
    let server = Server::ask(&client).await?;
    Ok((client, server))
}

/// Reads a position that the server printed.
pub(crate) fn parse_lsn(what: &str, text: Option<String>) -> Result<Lsn, EngineError> {
    let text = text.ok_or_else(|| internal(format!("{what}: the server has none")))?;
    text.parse().map_err(|error: breakwater_core::point::BadLsn| internal(what).because(error))
}

/// The server's clock.
pub(crate) async fn ask_clock(client: &SqlClient) -> Result<Timestamp, EngineError> {
    let row = client
        .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8", &[])
        .await
        .map_err(|error| of_sql("cannot read the server's clock", error))?;
    Ok(Timestamp::from_micros(row.get(0)))
}

/// Reads the control file of `directory` and proves, as far as files can, that it is the running server's own: the same
/// system identifier, and a postmaster of the same port.
pub(crate) async fn own_control_file(directory: &Path, server: &Server) -> Result<(Vec<u8>, ControlFile), EngineError> {
    let directory = directory.to_owned();
    let (system_id, port) = (server.system_id, server.setting("port").map(str::to_owned));
    blocking(move || {
        let read = read_control_file(&directory)?;
        if read.1.system_id != system_id {
            let what = format!(
                "the data directory belongs to another cluster: {} has system id {}, the server {system_id}",
                directory.display(),
                read.1.system_id
            );
            return Err(wrong_directory(what));
        }
        let pid_file = directory.join("postmaster.pid");
        let text = match std::fs::read_to_string(&pid_file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(wrong_directory(format!("no server runs in the data directory: {}", directory.display())));
            }
            other => {
                other.map_err(|error| crate::failure::of_file(format!("cannot read {}", pid_file.display()), error))?
            }
        };
        let found = text.lines().nth(3).unwrap_or_default().trim();
        if port.as_deref().is_some_and(|port| port != found) {
            let what = format!(
                "the data directory is that of a server on port {found}, not {}: {}",
                port.unwrap_or_default(),
                directory.display()
            );
            return Err(wrong_directory(what));
        }
        Ok(read)
    })
    .await
}

fn wrong_directory(what: String) -> EngineError {
    EngineError::new(EngineErrorKind::Conflict, what)
        .hint("set the source's data directory to what SHOW data_directory answers, or the connection to the server of this directory")
}
