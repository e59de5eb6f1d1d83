//! What a server is, and what stands in the way of protecting it, with the exact lines that mend it.

use std::path::Path;
use std::time::Duration;

use breakwater_engine::{Capabilities, EngineError, EngineErrorKind, Finding, Probe, Severity};

use crate::admission;
use crate::connection::SqlClient;
use crate::control::ControlFile;
use crate::failure::{blocking, in_time, of_file, of_sql};
use crate::server::{NEWEST, OLDEST, Server, connect, own_control_file};
use crate::settings::{PostgresSettings, Protect};
use crate::walk::{FoundKind, Walk};
use crate::walsender::{WalSender, WalSenderError};

/// How long measuring the files may take: as long as a slow disk needs to list some million of them.
const FILES: Duration = Duration::from_secs(10 * 60);

/// Looks at the server and its files without changing either.
pub(crate) async fn probe(settings: &PostgresSettings) -> Result<Probe, EngineError> {
    let mut findings = Vec::new();
    let asking = ask(settings, &mut findings);
    let asked = in_time(settings.answer_timeout, "the server does not answer what a probe asks", asking).await;
    let (server, rights, tablespaces) = match asked {
        Ok(known) => known,
        Err(error) => return admission::probe(settings, &error).ok_or(error),
    };

    let mut size_bytes = 0;
    let mut page_size = server.setting("block_size").and_then(|text| text.parse().ok()).unwrap_or(8192);
    let directory = match server.data_directory(settings.data_directory.as_deref()) {
        Ok(directory) => Some(directory),
        // The right that is lacking was named above, with the line that grants it.
        Err(_) if !rights.settings => None,
        Err(error) => {
            findings.push(of_error(error));
            None
        }
    };
    if let Some(directory) = &directory {
        let looking = look_at_files(directory, &server, tablespaces);
        match in_time(FILES, "the disk of the data directory does not answer", looking).await {
            Ok((control, bytes)) => {
                page_size = control.page_size;
                size_bytes = bytes;
                if control.checksum_version != 1 {
                    findings.push(checksums_off(directory));
                }
            }
            Err(error) => findings.push(of_error(error)),
        }
    }
    findings.push(Finding {
        severity: Severity::Info,
        what: format!("log segments have {}", server.segment_size),
        next_step: String::new(),
        lines: Vec::new(),
    });
    findings.sort_by_key(|finding| finding.severity);
    Ok(Probe {
        identity: server.system_id.to_string(),
        version: server.version(),
        data_directory: directory.map(|path| path.display().to_string()).unwrap_or_default(),
        size_bytes,
        capabilities: Capabilities { stream: true, parallel: true, page_size, needs_recovery: true },
        findings,
    })
}

/// What the server itself can say; also whether there are tablespaces.
async fn ask(settings: &PostgresSettings, findings: &mut Vec<Finding>) -> Result<(Server, Rights, bool), EngineError> {
    let (client, server) = connect(&settings.connection).await?;
    cluster_findings(&server, settings, findings);
    let tablespaces = tablespace_findings(&client, findings).await?;
    let rights = role_findings(&client, &server, settings, findings).await?;
    slot_findings(&client, &server, settings, findings).await?;
    replication_findings(settings, &server, rights, findings).await?;
    Ok((server, rights, tablespaces))
}

fn finding(severity: Severity, what: impl Into<String>, next_step: impl Into<String>, lines: &[&str]) -> Finding {
    Finding {
        severity,
        what: what.into(),
        next_step: next_step.into(),
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
    }
}

fn of_error(error: EngineError) -> Finding {
    let cause = error.source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
    finding(Severity::Blocking, format!("{}{cause}", error.what), error.hint.unwrap_or_default(), &[])
}

fn checksums_off(directory: &Path) -> Finding {
    let line = format!("pg_checksums --enable -D {}", directory.display());
    finding(
        Severity::Warning,
        "data checksums are off: damaged pages cannot be found while they are backed up",
        "enable them while the server is stopped",
        &[&line],
    )
}

/// What the server says about itself as a whole.
fn cluster_findings(server: &Server, settings: &PostgresSettings, findings: &mut Vec<Finding>) {
    if let Some(expected) = settings.expected_system_id.filter(|expected| *expected != server.system_id) {
        findings.push(of_error(crate::backup::foreign_system_id(expected, server.system_id)));
    }
    if server.major() < OLDEST {
        let what = format!("PostgreSQL {} is too old", server.version());
        findings.push(finding(Severity::Blocking, what, format!("upgrade to PostgreSQL {OLDEST} or later"), &[]));
    }
    if server.major() > NEWEST {
        let what = format!("PostgreSQL {} is newer than what this version knows", server.version());
        findings.push(finding(Severity::Blocking, what, "upgrade Breakwater", &[]));
    }
    if server.in_recovery {
        let what = "the server is a standby, which this version does not protect";
        findings.push(finding(Severity::Blocking, what, "name the primary as the source", &[]));
    }
    let restart = "needs a restart of the server";
    if server.setting("wal_level") == Some("minimal") {
        let lines = ["ALTER SYSTEM SET wal_level = 'replica';"];
        findings.push(finding(Severity::Blocking, "wal_level is minimal: the log cannot be replayed", restart, &lines));
    }
    if server.setting("full_page_writes") == Some("off") {
        let what = "full_page_writes is off: pages that are copied while they are written could not be mended";
        let lines = ["ALTER SYSTEM SET full_page_writes = on;", "SELECT pg_reload_conf();"];
        findings.push(finding(Severity::Blocking, what, "switch it on", &lines));
    }
    for (name, value) in [("max_wal_senders", "10"), ("max_replication_slots", "10")] {
        if server.setting(name) == Some("0") {
            let line = format!("ALTER SYSTEM SET {name} = {value};");
            findings.push(finding(
                Severity::Blocking,
                format!("{name} is 0: the log cannot be streamed"),
                restart,
                &[&line],
            ));
        }
    }
}

/// Whether there are tablespaces.
async fn tablespace_findings(client: &SqlClient, findings: &mut Vec<Finding>) -> Result<bool, EngineError> {
    let rows = client
        .query(
            "SELECT spcname::text FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1",
            &[],
        )
        .await
        .map_err(|error| of_sql("cannot list the tablespaces", error))?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if !names.is_empty() {
        let what = format!("there are tablespaces, which this version cannot back up: {}", names.join(", "));
        let line = "ALTER TABLE … SET TABLESPACE pg_default;";
        findings.push(finding(Severity::Blocking, what, "move what is in them, then drop them", &[line]));
    }
    Ok(!names.is_empty())
}

/// Rights without which other questions have no answer.
#[derive(Clone, Copy, Debug)]
struct Rights {
    /// To replicate.
    replication: bool,
    /// To read all settings.
    settings: bool,
}

/// Rights of our role. The functions' rights are per database, so the lines name ours.
async fn role_findings(
    client: &SqlClient,
    server: &Server,
    settings: &PostgresSettings,
    findings: &mut Vec<Finding>,
) -> Result<Rights, EngineError> {
    let functions = if server.major() >= 15 {
        ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
    } else {
        ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
    };
    let row = client
        .query_one(
            "SELECT rolsuper, rolreplication, pg_has_role('pg_read_all_settings', 'usage'), \
             has_function_privilege($1::text, 'execute'), has_function_privilege($2::text, 'execute'), \
             quote_ident(rolname), quote_ident(current_database()) FROM pg_roles WHERE rolname = current_user",
            &[&functions[0], &functions[1]],
        )
        .await
        .map_err(|error| of_sql("cannot look at the rights of our role", error))?;
    let right = |index: usize| row.get::<_, bool>(index);
    let (role, database): (String, String) = (row.get(5), row.get(6));
    let superuser = right(0);
    let mut missing = |what: String, lines: &[String]| {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        findings.push(finding(Severity::Blocking, what, format!("as a superuser, in the database {database}"), &lines));
    };
    if !superuser && !right(1) {
        missing(format!("the role {role} may not replicate"), &[format!("ALTER ROLE {role} REPLICATION;")]);
    }
    if !superuser && !right(2) {
        missing(
            format!("the role {role} may not read all settings"),
            &[format!("GRANT pg_read_all_settings TO {role};")],
        );
    }
    let lacking: Vec<&str> =
        functions.into_iter().zip([3, 4]).filter(|(_, at)| !right(*at)).map(|(name, _)| name).collect();
    if !superuser && !lacking.is_empty() {
        let lines: Vec<String> =
            lacking.iter().map(|name| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{name} TO {role};")).collect();
        missing(
            format!(
                "the role {role} may not start and stop backups in the database {}",
                settings.connection.database()
            ),
            &lines,
        );
    }
    Ok(Rights { replication: superuser || right(1), settings: superuser || right(2) })
}

/// The slot and the limits around it.
async fn slot_findings(
    client: &SqlClient,
    server: &Server,
    settings: &PostgresSettings,
    findings: &mut Vec<Finding>,
) -> Result<(), EngineError> {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM pg_replication_slots), \
             (SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1::text), \
             (SELECT slot_type::text FROM pg_replication_slots WHERE slot_name = $1::text)",
            &[&settings.slot],
        )
        .await
        .map_err(|error| of_sql("cannot look at the replication slots", error))?;
    let (slots, status, kind): (i64, Option<String>, Option<String>) = (row.get(0), row.get(1), row.get(2));
    let drop_line = format!("SELECT pg_drop_replication_slot('{}');", settings.slot);
    match (kind.as_deref(), status.as_deref()) {
        (None, _) => {
            let most: i64 =
                server.setting("max_replication_slots").and_then(|text| text.parse().ok()).unwrap_or(i64::MAX);
            if most > 0 && slots >= most {
                let line = format!("ALTER SYSTEM SET max_replication_slots = {};", most + 10);
                let what = format!("no replication slot is free: {slots} of {most} are taken");
                findings.push(finding(
                    Severity::Blocking,
                    what,
                    "drop one that nobody uses, or raise the limit and restart",
                    &[&line],
                ));
            }
        }
        (Some("physical"), Some("lost")) => {
            let what =
                format!("the slot {} is lost: the server has removed log that was not stored yet", settings.slot);
            findings.push(finding(
                Severity::Blocking,
                what,
                "drop it; the next backup starts a new stretch of the log",
                &[&drop_line],
            ));
        }
        (Some("physical"), Some("unreserved")) => {
            let what = format!(
                "the slot {} is about to be lost: the server will soon remove log that is not stored",
                settings.slot
            );
            let line = "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';";
            findings.push(finding(
                Severity::Warning,
                what,
                "let the stream catch up, or raise the bound now",
                &[line, "SELECT pg_reload_conf();"],
            ));
        }
        (Some("physical"), _) => {}
        (Some(other), _) => {
            let what = format!("the slot {} is a {other} one, of somebody else", settings.slot);
            findings.push(finding(Severity::Blocking, what, "give this source another slot name", &[]));
        }
    }
    let unbounded = server.setting("max_slot_wal_keep_size") == Some("-1");
    if unbounded && settings.protect == Protect::Database && !settings.allow_unbounded_slot {
        let what = "max_slot_wal_keep_size is -1: while the log cannot be stored, the server would keep it until its disk is full";
        let lines = ["ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';", "SELECT pg_reload_conf();"];
        let next_step = "set a bound that fits the disk of pg_wal, or allow an unbounded slot for this source";
        findings.push(finding(Severity::Blocking, what, next_step, &lines));
    } else if unbounded {
        let what = "max_slot_wal_keep_size is -1: the server keeps log without bound while it cannot be stored";
        findings.push(finding(Severity::Warning, what, "allowed for this source; watch the disk of pg_wal", &[]));
    }
    Ok(())
}

/// Really opens a replication connection: only that tells whether `pg_hba.conf` lets us.
async fn replication_findings(
    settings: &PostgresSettings,
    server: &Server,
    rights: Rights,
    findings: &mut Vec<Finding>,
) -> Result<(), EngineError> {
    let tried = async { WalSender::connect(&settings.connection).await?.identify_system().await }.await;
    match tried {
        Ok(identity) if identity.system_id == server.system_id => Ok(()),
        Ok(identity) => {
            let what = format!(
                "SQL and replication reach different clusters: {} and {}",
                server.system_id, identity.system_id
            );
            Err(EngineError::new(EngineErrorKind::Conflict, what)
                .hint("connect to the server itself, not through a proxy"))
        }
        // The server let us in and then found the right lacking that was named above: `pg_hba.conf` is not to blame.
        Err(WalSenderError::Server { source, .. }) if !rights.replication && source.sqlstate == "42501" => Ok(()),
        Err(error) => {
            findings.push(replication_refused(settings, &error));
            Ok(())
        }
    }
}

fn replication_refused(settings: &PostgresSettings, error: &WalSenderError) -> Finding {
    let mut what = format!("no replication connection: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        what.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    let user = settings.connection.user();
    let line = match settings.connection.socket_dir() {
        Some(_) => format!("local replication {user} scram-sha-256"),
        None => format!("host replication {user} 127.0.0.1/32 scram-sha-256"),
    };
    let next_step = "add the line to pg_hba.conf before the rules for others (`peer` instead of `scram-sha-256` where the \
        agent runs as the system user of the same name), then reload; a full house needs a larger max_wal_senders";
    finding(Severity::Blocking, what, next_step, &[&line, "SELECT pg_reload_conf();"])
}

/// Whether the files are those of this server and can all be read; answers their size.
async fn look_at_files(
    directory: &Path,
    server: &Server,
    tablespaces: bool,
) -> Result<(ControlFile, u64), EngineError> {
    let (_, control) = own_control_file(directory, server).await?;
    let (directory, major) = (directory.to_owned(), server.major());
    let bytes = blocking(move || measure(&directory, major, tablespaces)).await?;
    Ok((control, bytes))
}

fn measure(directory: &Path, major: u32, tablespaces: bool) -> Result<u64, EngineError> {
    let mut walk = Walk::new(directory, major)?;
    let (mut bytes, mut tried) = (0_u64, false);
    loop {
        match walk.next() {
            Ok(Some(found)) if found.kind == FoundKind::File => {
                bytes += found.metadata.len();
                // All files have the same mode, so one stands for all; their directories are listed anyway.
                if !tried && found.path.starts_with(b"global/") {
                    let path =
                        directory.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&found.path));
                    std::fs::File::open(&path)
                        .map_err(|error| of_file(format!("cannot read {}", path.display()), error))?;
                    tried = true;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(bytes),
            // Said already, with what to do about it.
            Err(error) if tablespaces && error.kind == EngineErrorKind::Refused => return Ok(bytes),
            Err(error) => return Err(error),
        }
    }
}
