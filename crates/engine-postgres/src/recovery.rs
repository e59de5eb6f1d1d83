//! Replaying the log into laid files with the database's own program, to a stop, on a private socket.
//!
//! Every setting that matters is on the server's command line, where it outranks the restored configuration: the server
//! listens to nobody but us, archives nothing into its origin's archive, and has exactly one target.
//!
//! Invariant: success means that the server itself reached the target, ended recovery, answered queries in every database
//! and shut down cleanly.

mod log_end;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{LogPosition, Timestamp};
use breakwater_engine::{EngineError, EngineErrorKind, RecoveryOutcome, RecoveryRequest, RecoveryTarget};
use tokio::time::Instant;

use crate::conf;
use crate::connection::{ConnectionSettings, SqlClient};
use crate::control::{ClusterState, read_control_file};
use crate::facts::Facts;
use crate::failure::{blocking, in_time, internal, of_connection, of_sql};
use crate::fetch::FetchServer;
use crate::postmaster::Postmaster;
use crate::server::parse_lsn;
use crate::target::{self, Owner};

const POLL: Duration = Duration::from_millis(100);
/// CPU ticks (of 10 ms) that count as work and not as idling.
const WORK: u64 = 5;

/// Runs the recovery. `quiet` is how long the server may do nothing before it is given up.
pub(crate) async fn recover(
    request: RecoveryRequest,
    facts: Facts,
    programs: PathBuf,
    quiet: Duration,
) -> Result<RecoveryOutcome, EngineError> {
    let (Some(fetcher), Some(program)) = (request.fetcher.as_ref(), request.fetch_program.as_ref()) else {
        return Err(EngineError::new(
            EngineErrorKind::Invalid,
            "a PostgreSQL backup is only consistent with its log, and nothing delivers it",
        ));
    };
    let lay = {
        let (target, facts) = (request.target.clone(), facts.clone());
        move || {
            let owner = target::check_laid(&target, &facts)?;
            let checks = target::complete_configuration(&target, &facts, owner)?;
            // The command line outranks these files, but a second target in one of them would still be refused.
            target::take_out_recovery_settings(&target, &["postgresql.auto.conf"], owner)?;
            target::write(&target.join("recovery.signal"), "", owner)?;
            Ok((owner, target::private_directory(owner)?, checks))
        }
    };
    let (owner, private, mut checks) = blocking(lay).await?;
    let program = reachable_program(program.clone(), private.path().to_owned(), owner).await?;
    let server = FetchServer::start(&private.path().join("fetch.sock"), owner.uid, Arc::clone(fetcher))?;

    let libraries = usable_libraries(&facts, &programs, &mut checks);
    let settings =
        settings(&request, &facts, private.path(), &conf::restore_command(&program, Some(server.socket())), &libraries);
    write_private_files(private.path(), owner)?;
    let mut postmaster = Postmaster::start(
        &programs.join("postgres"),
        &request.target,
        &settings,
        private.path().join("server.log"),
        owner,
    )?;
    let connection = private_connection(private.path(), &facts.superuser, "template1")?;
    let client = wait_for_end(&mut postmaster, &server, &connection, &request, quiet).await?;
    let late = "the restored server does not answer";
    let mut outcome = in_time(quiet, late, look(&client, &postmaster, &request, checks)).await?;
    drop(client);
    if let Some(reached) = outcome.reached {
        log_end::check(&request, &facts, reached.lsn(), private.path()).await?;
    }
    check_databases(private.path(), &facts, &connection, quiet, &mut outcome.checks).await?;
    postmaster.stop(quiet).await?;
    let target = request.target.clone();
    blocking(move || check_stopped(&target)).await?;
    outcome.checks.push("the server was shut down cleanly".to_owned());
    Ok(outcome)
}

/// The target of the recovery as settings: at most one, never relying on defaults.
pub(crate) fn target_settings(request: &RecoveryRequest, facts: &Facts) -> Vec<(&'static str, String)> {
    let (target, inclusive) = match &request.stop {
        RecoveryTarget::End => (None, true),
        // Stops before the first commit that is later.
        RecoveryTarget::Time(time) => (Some(("recovery_target_time", postgres_time(*time))), true),
        // Stops before the first record that begins at or behind the position.
        RecoveryTarget::Position(position) => (Some(("recovery_target_lsn", position.lsn().to_string())), false),
        RecoveryTarget::Transaction(xid) => (Some(("recovery_target_xid", xid.to_string())), true),
        RecoveryTarget::Name(name) => (Some(("recovery_target_name", name.clone())), true),
        RecoveryTarget::Consistent => (Some(("recovery_target", "immediate".to_owned())), true),
    };
    // The backup's own timeline needs no history file to be found, another one does.
    let timeline = if request.branch == facts.timeline { "current".to_owned() } else { request.branch.to_string() };
    let mut settings = vec![
        ("recovery_target_timeline", timeline),
        ("recovery_target_action", "promote".to_owned()),
        ("recovery_target_inclusive", if inclusive { "on" } else { "off" }.to_owned()),
    ];
    settings.extend(target);
    settings
}

/// `2026-11-20 12:50:38.000123+00`: with its zone, whatever the server's is.
fn postgres_time(time: Timestamp) -> String {
    time.to_string().replacen('T', " ", 1).replace('Z', "+00")
}

fn settings(
    request: &RecoveryRequest,
    facts: &Facts,
    private: &Path,
    restore_command: &str,
    libraries: &str,
) -> Vec<(&'static str, String)> {
    let path = |name: &str| private.join(name).display().to_string();
    let mut settings = vec![
        ("config_file", path("postgresql.conf")),
        ("hba_file", path("pg_hba.conf")),
        ("ident_file", path("pg_ident.conf")),
        ("data_directory", request.target.display().to_string()),
        ("listen_addresses", String::new()),
        ("unix_socket_directories", private.display().to_string()),
        ("port", "5432".to_owned()),
        ("ssl", "off".to_owned()),
        ("archive_mode", "off".to_owned()),
        ("restore_command", restore_command.to_owned()),
        ("archive_cleanup_command", String::new()),
        ("recovery_end_command", String::new()),
        ("primary_conninfo", String::new()),
        ("synchronous_standby_names", String::new()),
        // Nobody asks before the end, and so the limits of the origin need not be matched for standby queries.
        ("hot_standby", "off".to_owned()),
        ("fsync", "on".to_owned()),
        ("full_page_writes", "on".to_owned()),
        ("autovacuum", "off".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("log_min_messages", "warning".to_owned()),
        ("log_line_prefix", "%m [%p] ".to_owned()),
        ("log_timezone", "UTC".to_owned()),
        ("lc_messages", "C".to_owned()),
        ("shared_buffers", "128MB".to_owned()),
        ("huge_pages", "try".to_owned()),
        ("jit", "off".to_owned()),
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
        ("shared_preload_libraries", libraries.to_owned()),
    ];
    settings.extend(target_settings(request, facts));
    // Prepared transactions and their locks come back with the limits they were made under.
    for name in [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
    ] {
        if let Some(value) = facts.settings.get(name) {
            settings.push((name, value.clone()));
        }
    }
    settings
}

fn write_private_files(private: &Path, owner: Owner) -> Result<(), EngineError> {
    target::write(&private.join("postgresql.conf"), "# settings of this recovery are on the command line\n", owner)?;
    // The directory of the socket is closed to everybody else.
    target::write(&private.join("pg_hba.conf"), "local all all trust\n", owner)?;
    target::write(&private.join("pg_ident.conf"), "", owner)
}

/// The program that fetches the log, or a copy of it where the database's user can run it: an agent in a home directory
/// is closed to others.
async fn reachable_program(program: PathBuf, private: PathBuf, owner: Owner) -> Result<PathBuf, EngineError> {
    blocking(move || {
        if !program.is_file() {
            let what = format!("the program that fetches the log is not there: {}", program.display());
            return Err(EngineError::new(EngineErrorKind::Refused, what).hint("name the path of breakwater-agent"));
        }
        let program = std::path::absolute(&program)
            .map_err(|error| EngineError::io(format!("cannot find {}", program.display()), error))?;
        if !owner.is_other() || can_run(&program, owner) {
            return Ok(program);
        }
        let copy = private.join("fetch-program");
        let wrap = |error| EngineError::io(format!("cannot copy {} for the database's user", program.display()), error);
        std::fs::copy(&program, &copy).map_err(wrap)?;
        std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(wrap)?;
        if can_run(&copy, owner) {
            return Ok(copy);
        }
        let what = format!("the user number {} cannot run {}", owner.uid, program.display());
        Err(EngineError::new(EngineErrorKind::Refused, what)
            .hint("put breakwater-agent where every user can run it, as in /usr/local/bin"))
    })
    .await
}

/// Whether the database's user may start the program at all; what it answers does not matter.
fn can_run(program: &Path, owner: Owner) -> bool {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.uid(owner.uid).gid(owner.gid).current_dir("/");
    command.status().is_ok()
}

/// The libraries of the origin that are installed here. One that is missing would keep the server from starting.
fn usable_libraries(facts: &Facts, programs: &Path, checks: &mut Vec<String>) -> String {
    let listed = facts.settings.get("shared_preload_libraries").map(String::as_str).unwrap_or_default();
    let directories: Vec<PathBuf> =
        ["../lib", "../lib64", "../lib/postgresql"].iter().map(|dir| programs.join(dir)).collect();
    let usable = |name: &&str| {
        let file = format!("{}.so", name.trim_start_matches("$libdir/").trim_end_matches(".so"));
        let found = Path::new(name).is_file() || directories.iter().any(|dir| dir.join(&file).is_file());
        if !found {
            checks.push(format!(
                "the library {name} of shared_preload_libraries is not installed here: recovered without it"
            ));
        }
        found
    };
    listed
        .split(',')
        .map(|name| name.trim().trim_matches('"'))
        .filter(|name| !name.is_empty())
        .filter(usable)
        .collect::<Vec<_>>()
        .join(",")
}

fn private_connection(directory: &Path, user: &str, database: &str) -> Result<ConnectionSettings, EngineError> {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let host = quote(&directory.display().to_string());
    let text = format!(
        "host={host} port=5432 user={} dbname={} application_name=breakwater_restore",
        quote(user),
        quote(database)
    );
    text.parse().map_err(of_connection)
}

/// Waits until the server takes sessions, which it only does once recovery has ended, and opens one. It is not asked
/// before, because every refusal would be a line in its log.
async fn wait_for_end(
    postmaster: &mut Postmaster,
    server: &FetchServer,
    connection: &ConnectionSettings,
    request: &RecoveryRequest,
    quiet: Duration,
) -> Result<SqlClient, EngineError> {
    let mut last = (Instant::now(), postmaster.effort(), server.requests());
    loop {
        if let Some(status) = postmaster.exited()? {
            return Err(ended(&postmaster.log(), &postmaster.log_tail(), status, request));
        }
        if is_ready(&request.target) {
            return connection.connect_sql().await.map_err(|error| {
                let what = format!("the restored server refuses our session\n{}", postmaster.log_tail());
                EngineError::new(EngineErrorKind::Internal, what).because(error)
            });
        }
        let effort = postmaster.effort();
        let worked = effort.0 != last.1.0 || effort.1 >= last.1.1 + WORK || server.requests() != last.2;
        if worked {
            last = (Instant::now(), effort, server.requests());
        } else if last.0.elapsed() > quiet {
            let what =
                format!("the recovering server has done nothing for {} s\n{}", quiet.as_secs(), postmaster.log_tail());
            return Err(EngineError::new(EngineErrorKind::Unreachable, what));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether the postmaster says in its lock file that it takes sessions.
fn is_ready(target: &Path) -> bool {
    let text = std::fs::read_to_string(target.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(7).is_some_and(|status| status.trim() == "ready")
}

/// The error of a server that ended instead of reaching the target.
fn ended(log: &str, tail: &str, status: std::process::ExitStatus, request: &RecoveryRequest) -> EngineError {
    let target = &request.target.display();
    if log.contains("recovery ended before configured recovery target was reached") {
        let what = format!("the log ended before the target {:?} was reached: {target}\n{tail}", request.stop);
        return EngineError::new(EngineErrorKind::NotFound, what)
            .hint("ask `recovery windows` what can be restored to when");
    }
    let fetch_failed = log.contains("breakwater: cannot fetch");
    let kind = if fetch_failed { EngineErrorKind::Unreachable } else { EngineErrorKind::Internal };
    let what = format!("the recovering server ended before its recovery did ({status}): {target}\n{tail}");
    let error = EngineError::new(kind, what);
    if fetch_failed {
        error.hint("a piece of the log could not be fetched; mend that and restore again")
    } else {
        error
    }
}

/// What the server says it reached.
async fn look(
    client: &SqlClient,
    postmaster: &Postmaster,
    request: &RecoveryRequest,
    mut checks: Vec<String>,
) -> Result<RecoveryOutcome, EngineError> {
    let what = "cannot ask the restored server what it reached";
    let row = client
        .query_one(
            "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, \
             (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::int8",
            &[],
        )
        .await
        .map_err(|error| of_sql(what, error))?;
    if row.get::<_, bool>(0) {
        return Err(internal("the restored server answers queries while it still recovers"));
    }
    let reached = parse_lsn(what, row.get(1))?;
    let last_transaction: Option<Timestamp> = row.get::<_, Option<i64>>(2).map(Timestamp::from_micros);
    if let Some(consistent) = request.consistent_at.filter(|consistent| consistent.offset > reached.0) {
        let what = format!("replay ended at {reached}, before the copy becomes consistent at {}", consistent.lsn());
        return Err(EngineError::new(EngineErrorKind::Corrupt, what));
    }
    let log = postmaster.log();
    let said =
        |words: &str| log.lines().rev().find(|line| line.contains(words)).and_then(|line| line.split_once("LOG:"));
    match (&request.stop, said("recovery stopping")) {
        (RecoveryTarget::End, _) => checks.push(format!("replayed to the end of the plan: {reached}")),
        (_, Some((_, line))) => checks.push(format!("server: {}", line.trim())),
        (stop, None) => {
            let what = format!(
                "the server ended its recovery without saying that it stopped at {stop:?}\n{}",
                postmaster.log_tail()
            );
            return Err(internal(what));
        }
    }
    if let (RecoveryTarget::Time(limit), Some(last)) = (&request.stop, last_transaction)
        && last > *limit
    {
        return Err(internal(format!("a transaction of {last} was replayed although the target is {limit}")));
    }
    Ok(RecoveryOutcome { reached: Some(LogPosition::new(request.branch, reached.0)), last_transaction, checks })
}

/// Opens every database and reads its catalogue.
async fn check_databases(
    private: &Path,
    facts: &Facts,
    connection: &ConnectionSettings,
    quiet: Duration,
    checks: &mut Vec<String>,
) -> Result<(), EngineError> {
    let late = "the restored server does not answer";
    let client = connection.connect_sql().await.map_err(of_connection)?;
    let what = "cannot list the restored databases";
    let listing = client.query("SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1", &[]);
    let rows = in_time(quiet, late, async { listing.await.map_err(|error| of_sql(what, error)) }).await?;
    drop(client);
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for name in &names {
        let client = private_connection(private, &facts.superuser, name)?.connect_sql().await.map_err(of_connection)?;
        let what = format!("the restored database {name} does not answer");
        let counting = client.query_one("SELECT count(*) FROM pg_class", &[]);
        in_time(quiet, &what, async { counting.await.map_err(|error| of_sql(&what, error)) }).await?;
    }
    checks.push(format!("every database answers: {}", names.join(", ")));
    Ok(())
}

fn check_stopped(target: &Path) -> Result<(), EngineError> {
    let (_, control) = read_control_file(target)?;
    if control.state != ClusterState::ShutDown {
        return Err(internal(format!("the restored cluster is not cleanly shut down: {}", target.display())));
    }
    for left in ["recovery.signal", "backup_label", "postmaster.pid"] {
        if target.join(left).exists() {
            return Err(internal(format!("recovery left {left} behind: {}", target.display())));
        }
    }
    target::sync_directory(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_carry_their_zone() {
        assert_eq!(
            postgres_time(Timestamp::parse("2026-11-20T12:50:38.000123Z").unwrap()),
            "2026-11-20 12:50:38.000123+00"
        );
    }

    #[test]
    fn names_of_roles_and_databases_are_quoted() {
        let connection = private_connection(Path::new("/tmp/x y"), "o'brien \\", "my db").unwrap();
        assert_eq!((connection.user(), connection.database()), ("o'brien \\", "my db"));
    }
}
