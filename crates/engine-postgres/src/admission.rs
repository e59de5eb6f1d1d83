//! A server that does not let the agent in: what its administrator has to write, since nothing else can be asked.

use breakwater_engine::{Capabilities, EngineError, Finding, Probe, Severity};

use crate::connection::ConnectionError;
use crate::settings::PostgresSettings;

/// invalid_password
const WRONG_PASSWORD: &str = "28P01";
/// invalid_authorization_specification: no rule, a rule that does not fit, or no such role.
const NOT_LET_IN: &str = "28000";

/// The probe of a server that shut us out with `error`; none when it was another failure.
pub(crate) fn probe(settings: &PostgresSettings, error: &EngineError) -> Option<Probe> {
    let findings = findings(settings, error)?;
    let capabilities = Capabilities { stream: true, parallel: true, page_size: 8192, needs_recovery: true };
    Some(Probe {
        identity: String::new(),
        version: String::new(),
        data_directory: String::new(),
        size_bytes: 0,
        capabilities,
        findings,
    })
}

fn findings(settings: &PostgresSettings, error: &EngineError) -> Option<Vec<Finding>> {
    let Some(ConnectionError::Session { source, .. }) = error.source.as_ref()?.downcast_ref() else { return None };
    let role = settings.connection.user();
    let refused = source.as_db_error().map(|said| (said.code().code(), said.message()));
    match refused {
        Some((NOT_LET_IN, said)) => Some(not_let_in(settings, said)),
        Some((WRONG_PASSWORD, said)) => Some(vec![blocking(
            format!("the server refuses the password of {role}: {said}"),
            "set it, and write the same one into the passfile or password-file of the connection",
            &[set_password(role)],
        )]),
        Some(_) => None,
        // The library fails by itself when the server wants a password and there is none.
        None if error.kind == breakwater_engine::EngineErrorKind::Denied => Some(vec![blocking(
            format!("the server wants a password of {role}, and the connection has none"),
            "set one, and name its file in the connection of the source: passfile=FILE or password-file=FILE, mode 0600",
            &[set_password(role)],
        )]),
        None => None,
    }
}

fn set_password(role: &str) -> String {
    format!("ALTER ROLE {role} PASSWORD '…';")
}

fn not_let_in(settings: &PostgresSettings, said: &str) -> Vec<Finding> {
    let role = settings.connection.user();
    let mut findings = vec![blocking(
        format!("the server does not let the role {role} in: {said}"),
        "unless the role is there, make it, as a superuser",
        &[format!("CREATE ROLE {role} LOGIN REPLICATION;")],
    )];
    if said.contains("does not exist") {
        return findings;
    }
    let system_user = system_user();
    match (settings.connection.socket_dir(), system_user) {
        (Some(_), Some(system_user)) => {
            findings.push(blocking(
                format!("no rule of pg_hba.conf lets the agent in as {role}"),
                "add the lines to pg_hba.conf before the rules for others (or scram-sha-256 with a passfile in the connection)",
                &[format!("local all {role} peer map=breakwater"), format!("local replication {role} peer map=breakwater")],
            ));
            findings.push(blocking(
                format!("pg_ident.conf does not say that the system user {system_user} may be {role}"),
                "add the line to pg_ident.conf, then reload",
                &[format!("breakwater {system_user} {role}"), "SELECT pg_reload_conf();".to_owned()],
            ));
        }
        (socket, _) => {
            let place = if socket.is_some() { "local" } else { "host" };
            let address = if socket.is_some() { "" } else { " 127.0.0.1/32" };
            findings.push(blocking(
                format!("no rule of pg_hba.conf lets the agent in as {role}"),
                "add the lines to pg_hba.conf before the rules for others, then reload; name a passfile in the connection",
                &[
                    format!("{place} all {role}{address} scram-sha-256"),
                    format!("{place} replication {role}{address} scram-sha-256"),
                    "SELECT pg_reload_conf();".to_owned(),
                ],
            ));
        }
    }
    findings
}

fn blocking(what: String, next_step: &str, lines: &[String]) -> Finding {
    Finding { severity: Severity::Blocking, what, next_step: next_step.to_owned(), lines: lines.to_vec() }
}

/// The name of the system user that we are, as the server's peer rules see it.
fn system_user() -> Option<String> {
    let number = rustix::process::geteuid().as_raw().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = accounts.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    })
}
