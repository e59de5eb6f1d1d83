//! A backup session: PostgreSQL's low-level backup around our own read of its files.
//!
//! Invariants: the connection that started the backup lives until it is stopped, else the copy is void; the control file
//! is read after everything else; what `pg_backup_stop` answers is kept byte for byte and never written to the live
//! server's directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Attributes, LogPosition, Lsn, Timestamp};
use breakwater_engine::{
    BackupEnd, BackupRequest, BackupSession, Chunking, EngineError, EngineErrorKind, Entry, EntryKind, ExtentReader,
    RecoveryRange, Unreadable,
};
use bytes::Bytes;
use tokio_postgres::types::ToSql;

use crate::changes::{self, Changes};
use crate::config_files;
use crate::connection::SqlClient;
use crate::control::{CONTROL_PATH, ControlFile, read_control_file};
use crate::facts::Facts;
use crate::failure::{blocking, in_time, internal, of_sql};
use crate::layout::checksummed_segment;
use crate::reader::{FileReader, MemoryReader, PageRules};
use crate::server::{Server, ask_clock, connect, own_control_file, parse_lsn};
use crate::settings::PostgresSettings;
use crate::walk::{Found, FoundKind, Walk, tablespace_refused};

/// How long the control file may lag behind the checkpoint that the start of the backup waited for.
const CONTROL_PATIENCE: Duration = Duration::from_secs(10);

/// How long the work of a hurried checkpoint may take, and the switch of the log's segment at the end.
const CHECKPOINT: Duration = Duration::from_secs(10 * 60);

/// Starts a backup.
pub(crate) async fn begin(
    settings: &PostgresSettings,
    request: BackupRequest,
) -> Result<Box<dyn BackupSession>, EngineError> {
    let asking = async {
        let (client, server) = connect(&settings.connection).await?;
        check(&server, settings, &request)?;
        refuse_tablespaces(&client).await?;
        Ok((client, server))
    };
    let (client, server) = in_time(settings.answer_timeout, "the server does not answer", asking).await?;
    let directory = server.data_directory(settings.data_directory.as_deref())?;
    own_control_file(&directory, &server).await?;

    let start = start_backup(&client, &server, &request).await?;
    let control = checkpointed_control(&directory, &server, start).await?;
    let client = Arc::new(client);
    let answer_timeout = settings.answer_timeout;
    let page_size = usize::try_from(control.page_size).map_err(|_| internal("a page does not fit into memory"))?;
    let pages = (control.checksum_version == 1)
        .then(|| Arc::new(PageRules::new(page_size, control.segment_pages, start, &client)));
    let changes = changes(&client, &server, &request, &control, start).await?;
    let (root, major) = (directory.clone(), server.major());
    let walk = blocking(move || Walk::new(&root, major)).await?;
    let walk = Some(walk);
    Ok(Box::new(PostgresSession { client, server, directory, control, start, pages, changes, walk, answer_timeout }))
}

/// What has changed since the base, where there is one and the server can say it.
async fn changes(
    client: &SqlClient,
    server: &Server,
    request: &BackupRequest,
    control: &ControlFile,
    start: Lsn,
) -> Result<Option<Changes>, EngineError> {
    let Some(Ok(base)) = request.base.as_ref().map(|base| Facts::from_json(&base.facts)) else { return Ok(None) };
    let sizes = (u64::from(control.page_size), u64::from(control.segment_pages));
    match changes::since(client, server, &base, (control.timeline.0, start), sizes).await? {
        Ok(changes) => Ok(Some(changes)),
        Err(reason) => {
            tracing::info!(reason, "all of the cluster is read, because what has changed cannot be said");
            Ok(None)
        }
    }
}

fn check(server: &Server, settings: &PostgresSettings, request: &BackupRequest) -> Result<(), EngineError> {
    let refuse = |what: String, hint: &str| Err(EngineError::new(EngineErrorKind::Refused, what).hint(hint));
    if let Some(expected) = settings.expected_system_id.filter(|expected| *expected != server.system_id) {
        return Err(foreign_system_id(expected, server.system_id));
    }
    if !(crate::server::OLDEST..=crate::server::NEWEST).contains(&server.major()) {
        return refuse(
            format!("PostgreSQL {} is not supported", server.version()),
            "supported are PostgreSQL 13 to 18",
        );
    }
    if server.in_recovery {
        return refuse(
            "the server is a standby, which this version does not back up".to_owned(),
            "name the primary as the source",
        );
    }
    if server.setting("full_page_writes") == Some("off") {
        let what = "full_page_writes is off: pages that are copied while they are written could not be mended";
        return refuse(what.to_owned(), "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();");
    }
    if server.setting("wal_level") == Some("minimal") {
        return refuse(
            "wal_level is minimal".to_owned(),
            "ALTER SYSTEM SET wal_level = 'replica', then restart the server",
        );
    }
    let page_size: u32 = server.setting("block_size").and_then(|text| text.parse().ok()).unwrap_or(8192);
    if request.extent_size == 0 || !request.extent_size.is_multiple_of(page_size) {
        let what = format!("extents of {} bytes do not consist of pages of {page_size}", request.extent_size);
        return Err(EngineError::new(EngineErrorKind::Invalid, what));
    }
    Ok(())
}

pub(crate) fn foreign_system_id(expected: u64, found: u64) -> EngineError {
    let what = format!("another cluster answers: its system id is {found}, that of this source is {expected}");
    EngineError::new(EngineErrorKind::Conflict, what)
        .hint("if the cluster was made anew on purpose, protect it as a new source; else correct the connection")
}

async fn refuse_tablespaces(client: &SqlClient) -> Result<(), EngineError> {
    let what = "cannot list the tablespaces";
    let rows = client
        .query(
            "SELECT spcname::text FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1",
            &[],
        )
        .await
        .map_err(|error| of_sql(what, error))?;
    match rows.first() {
        Some(row) => Err(tablespace_refused(&PathBuf::from(row.get::<_, String>(0)))),
        None => Ok(()),
    }
}

/// Starts the backup at the server and answers where replay begins. Without `fast` this waits for the next checkpoint.
async fn start_backup(client: &SqlClient, server: &Server, request: &BackupRequest) -> Result<Lsn, EngineError> {
    let what = "cannot start a backup";
    let statement = if server.major() >= 15 {
        "SELECT pg_backup_start($1::text, $2::bool)::text"
    } else {
        "SELECT pg_start_backup($1::text, $2::bool, false)::text"
    };
    // The server refuses labels that are longer, and line ends would break its label file.
    let label: String = format!("breakwater {}", request.label).chars().filter(|c| !c.is_control()).take(200).collect();
    let parameters: [&(dyn ToSql + Sync); 2] = [&label, &request.fast];
    let starting = async { client.query_one(statement, &parameters).await.map_err(|error| of_sql(what, error)) };
    let late = "the server does not come to the checkpoint with which a backup starts";
    let row = in_time(checkpoint_patience(server, request.fast), late, starting).await?;
    parse_lsn(what, row.get(0))
}

/// How long the checkpoint that starts a backup may take: one that is not hurried is spread over `checkpoint_timeout`, after
/// another that may have begun just before.
fn checkpoint_patience(server: &Server, fast: bool) -> Duration {
    let spread = server.setting("checkpoint_timeout").and_then(|text| text.parse().ok()).unwrap_or(24 * 3600);
    if fast { CHECKPOINT } else { CHECKPOINT + Duration::from_secs(spread) * 2 }
}

/// The control file once it shows the checkpoint that the backup started with. When it never does, the directory is not
/// that of the server, whatever its identifier says: a standby or a copy has the same one.
async fn checkpointed_control(
    directory: &std::path::Path,
    server: &Server,
    start: Lsn,
) -> Result<ControlFile, EngineError> {
    let deadline = tokio::time::Instant::now() + CONTROL_PATIENCE;
    loop {
        let (_, control) = own_control_file(directory, server).await?;
        if control.checkpoint >= start {
            return Ok(control);
        }
        if tokio::time::Instant::now() >= deadline {
            let what = format!(
                "the data directory is not that of the server: its last checkpoint is {}, the backup started at {start}: {}",
                control.checkpoint,
                directory.display()
            );
            return Err(EngineError::new(EngineErrorKind::Conflict, what)
                .hint("set the source's data directory to what SHOW data_directory answers"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[derive(Debug)]
struct PostgresSession {
    client: Arc<SqlClient>,
    server: Server,
    directory: PathBuf,
    /// As it was when the backup had started.
    control: ControlFile,
    start: Lsn,
    /// Rules for checking pages, when they carry checksums.
    pages: Option<Arc<PageRules>>,
    /// What has changed since the base, where that is known.
    changes: Option<Changes>,
    /// Missing while a call is in progress, and after one that was given up.
    walk: Option<Walk>,
    answer_timeout: Duration,
}

impl PostgresSession {
    fn entry(&self, found: Found) -> Entry {
        let Found { path, kind, metadata } = found;
        let kind = match kind {
            FoundKind::Directory => EntryKind::Directory,
            FoundKind::Symlink { target } => EntryKind::Symlink { target },
            FoundKind::File => {
                let absolute = self.directory.join(OsStr::from_bytes(&path));
                let segment = checksummed_segment(&path);
                let pages = self.pages.as_ref().zip(segment).map(|(rules, segment)| (Arc::clone(rules), segment));
                let reader: Arc<dyn ExtentReader> = Arc::new(FileReader::new(absolute, metadata.len(), pages));
                let changed = self.changes.as_ref().and_then(|changes| changes.of(&path, metadata.len()));
                EntryKind::File { size: metadata.len(), reader, chunking: Chunking::Extents, changed }
            }
        };
        entry_of(path, kind, &metadata)
    }

    fn is_lost(&self) -> EngineError {
        EngineError::new(
            EngineErrorKind::Unreachable,
            "the connection that holds the backup was lost, so the copy is void",
        )
        .hint("see the server's log; the next attempt reuses what was stored")
    }
}

fn entry_of(path: Vec<u8>, kind: EntryKind, metadata: &std::fs::Metadata) -> Entry {
    let micros = metadata.mtime().saturating_mul(1_000_000).saturating_add(metadata.mtime_nsec() / 1000);
    Entry {
        path,
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Timestamp::from_micros(micros),
        last: false,
        attributes: Attributes::default(),
        stamp: None,
        tolerant: false,
    }
}

#[async_trait::async_trait]
impl BackupSession for PostgresSession {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        if self.client.is_closed() {
            return Err(self.is_lost());
        }
        let Some(mut walk) = self.walk.take() else {
            return Err(internal("the backup was left in the middle of a call, so it cannot go on"));
        };
        let (walk, found) = blocking(move || {
            let mut found = Vec::new();
            while found.len() < limit {
                match walk.next()? {
                    Some(one) => found.push(one),
                    None => break,
                }
            }
            Ok((walk, found))
        })
        .await?;
        self.walk = Some(walk);
        Ok(found.into_iter().map(|found| self.entry(found)).collect())
    }

    async fn finish(self: Box<Self>) -> Result<BackupEnd, EngineError> {
        if self.client.is_closed() {
            return Err(self.is_lost());
        }
        let directory = self.directory.clone();
        let (control_bytes, control, metadata) = blocking(move || {
            let (bytes, control) = read_control_file(&directory)?;
            let path = directory.join(CONTROL_PATH);
            let metadata = std::fs::metadata(&path)
                .map_err(|error| crate::failure::of_file(format!("cannot look at {}", path.display()), error))?;
            Ok((bytes, control, metadata))
        })
        .await?;
        if control.system_id != self.control.system_id || control.timeline != self.control.timeline {
            return Err(EngineError::new(EngineErrorKind::Conflict, "the cluster was replaced during the backup"));
        }
        let asking = async {
            let config_files = config_files::outside(&self.client, &self.directory).await?;
            Ok((config_files, superuser(&self.client).await?))
        };
        let (config_files, superuser) = in_time(self.answer_timeout, "the server does not answer", asking).await?;
        let stopping = stop_backup(&self.client, self.server.major());
        let (end, label) = in_time(CHECKPOINT, "the server does not stop the backup", stopping).await?;
        // The clock last: a commit takes its time before its record is written, so no transaction that replay to the end
        // shows can be later, and a restore to this moment or any after it stops behind the end and not before it.
        let asking = ask_clock(&self.client);
        let consistent_at = in_time(self.answer_timeout, "the server does not answer", asking).await?;
        check_label(&label, self.start, control.timeline.0)?;

        let mut warnings = self.walk.map(|walk| walk.notes).unwrap_or_default();
        warnings.extend(config_files.warnings);
        let memory = |bytes: Bytes| EntryKind::file(bytes.len() as u64, Arc::new(MemoryReader(bytes)));
        let label_entry = entry_of(b"backup_label".to_vec(), memory(Bytes::from(label.into_bytes())), &metadata);
        let mut control_entry =
            entry_of(CONTROL_PATH.as_bytes().to_vec(), memory(Bytes::from(control_bytes)), &metadata);
        control_entry.last = true;
        let facts = Facts {
            system_id: self.server.system_id.to_string(),
            version: self.server.version(),
            major: self.server.major(),
            segment_size: self.server.segment_size.bytes(),
            data_checksums: self.control.checksum_version == 1,
            timeline: control.timeline.0,
            start: self.start,
            end,
            settings: self.server.kept_settings(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            superuser,
            config_files: config_files.files,
        };
        let facts = serde_json::to_value(facts).map_err(|error| internal("facts do not become JSON").because(error))?;
        let at = |lsn: Lsn| LogPosition::new(control.timeline.0, lsn.0);
        let range = Some(RecoveryRange { start: at(self.start), end: at(end) });
        let (entries, unreadable) = (vec![label_entry, control_entry], Unreadable::default());
        Ok(BackupEnd { entries, range, consistent_at, facts, warnings, unreadable })
    }
}

/// A superuser that may log in, the oldest one.
async fn superuser(client: &SqlClient) -> Result<String, EngineError> {
    let row = client
        .query_opt("SELECT rolname::text FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1", &[])
        .await
        .map_err(|error| of_sql("cannot look for a superuser", error))?;
    Ok(row.map_or_else(|| "postgres".to_owned(), |row| row.get(0)))
}

/// Stops the backup at the server; answers its end and the label file.
async fn stop_backup(client: &SqlClient, major: u32) -> Result<(Lsn, String), EngineError> {
    let what = "cannot stop the backup";
    // Waiting for the archiver is not our way: our stream proves that the log has arrived.
    let statement = if major >= 15 {
        "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)"
    } else {
        "SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
    };
    let row = client.query_one(statement, &[]).await.map_err(|error| of_sql(what, error))?;
    let end = parse_lsn(what, row.get(0))?;
    let label: Option<String> = row.get(1);
    let tablespace_map: Option<String> = row.get(2);
    if let Some(line) = tablespace_map.unwrap_or_default().lines().find(|line| !line.trim().is_empty()) {
        return Err(tablespace_refused(&PathBuf::from(line)));
    }
    let label = label.filter(|label| !label.is_empty()).ok_or_else(|| internal(format!("{what}: no label came")))?;
    Ok((end, label))
}

/// Compares the label with what we know, so that a label of another backup can never be stored with these files.
fn check_label(label: &str, start: Lsn, timeline: u32) -> Result<(), EngineError> {
    let value = |name: &str| label.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let position =
        value("START WAL LOCATION:").and_then(|rest| rest.split(' ').next()).and_then(|text| text.parse().ok());
    if position == Some(start) && value("START TIMELINE:").and_then(|text| text.parse().ok()) == Some(timeline) {
        return Ok(());
    }
    Err(internal(format!("the server's label is not that of a backup from {start} on timeline {timeline}: {label}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 12:00:00 UTC\nLABEL: x\nSTART TIMELINE: 1\n";

    #[test]
    fn the_label_must_be_that_of_this_backup() {
        let start = "0/2000028".parse().unwrap();
        check_label(LABEL, start, 1).unwrap();
        assert!(check_label(LABEL, Lsn(start.0 + 1), 1).is_err());
        assert!(check_label(LABEL, start, 2).is_err());
        assert!(check_label("", start, 1).is_err());
    }
}
