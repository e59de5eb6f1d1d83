//! What a probe says about real servers, and that doing what it says makes them ready.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "kit/lay.rs"]
mod lay;

use std::time::Duration;

use breakwater_core::Name;
use breakwater_engine::{Engine as _, EngineErrorKind, Finding, Probe, Severity};
use breakwater_engine_postgres::{PostgresEngine, PostgresSettings, discover};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::postgres::{Cluster, Stop, Version};
use breakwater_testkit::wait;

async fn probe(settings: PostgresSettings) -> Probe {
    PostgresEngine::new(settings).probe().await.unwrap()
}

fn find<'a>(probe: &'a Probe, words: &str) -> &'a Finding {
    let found = probe.findings.iter().find(|finding| finding.what.contains(words));
    found.unwrap_or_else(|| panic!("nothing says `{words}`: {:#?}", probe.findings))
}

fn blocks(probe: &Probe, words: &str) {
    assert_eq!(find(probe, words).severity, Severity::Blocking, "{words}");
    assert!(!probe.is_ready());
}

async fn doing_what_it_says_makes_a_server_ready(version: Version) {
    let cluster = Cluster::builder(version).hba("local postgres breakwater scram-sha-256\n").start().await.unwrap();
    cluster.psql("create role breakwater login password 'se cret'").await.unwrap();
    let connection = format!(
        "host={} port={} user=breakwater dbname=postgres password='se cret'",
        cluster.socket_dir().display(),
        cluster.port()
    );
    let settings = PostgresSettings::new(&Name::new("limited").unwrap(), connection.parse().unwrap()).unwrap();
    let engine = PostgresEngine::new(settings);

    // Each round does what the last one said, as its administrator would. What was hidden shows up later.
    let mut rounds = 0;
    loop {
        let probe = engine.probe().await.unwrap();
        let blocking: Vec<&Finding> = probe.findings.iter().filter(|f| f.severity == Severity::Blocking).collect();
        if blocking.is_empty() {
            assert_eq!(probe.identity, cluster.control_data("Database system identifier").await.unwrap());
            assert_eq!(probe.data_directory, cluster.data_dir().display().to_string());
            assert!(probe.size_bytes > 10 << 20);
            break;
        }
        rounds += 1;
        assert!(rounds < 5, "{blocking:#?}");
        if rounds == 1 {
            for words in [
                "may not replicate",
                "may not read all settings",
                "may not start and stop backups",
                "no replication connection",
            ] {
                blocks(&probe, words);
            }
        }
        let lines: Vec<String> = blocking.iter().flat_map(|finding| finding.lines.clone()).collect();
        assert!(!lines.is_empty() || rounds > 1, "{blocking:#?}");
        for line in lines {
            if line.ends_with("scram-sha-256") {
                let path = cluster.data_dir().join("pg_hba.conf");
                let old = std::fs::read_to_string(&path).unwrap();
                std::fs::write(&path, format!("{line}\n{old}")).unwrap();
            } else {
                cluster.psql(&line).await.unwrap();
            }
        }
        // A reload is not waited for by the one who asks for it.
        let reloaded = "select pg_reload_conf(), pg_sleep(0.2)";
        cluster.psql(reloaded).await.unwrap();
    }
    assert!(rounds > 0);

    // These rights really suffice for the whole work.
    let log = engine.log_source().unwrap();
    log.facts().await.unwrap();
    log.nudge().await.unwrap();
    let dir = temp_dir("copy").unwrap();
    lay::back_up(&engine, &dir.path().join("data"), |_| std::future::ready(())).await.unwrap();
    log.forget().await.unwrap();
}

/// As Debian sets it up: only the system user of the same name gets in, and the role is not there yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_us_out_comes_with_the_lines_that_let_us_in() {
    let cluster = Cluster::builder(Version::V15).hba("local all all peer\n").start().await.unwrap();
    let (socket, port) = (cluster.socket_dir().display(), cluster.port());
    let connection = format!("host={socket} port={port} user=breakwater dbname=postgres");
    let settings = PostgresSettings::new(&Name::new("limited").unwrap(), connection.parse().unwrap()).unwrap();
    let engine = PostgresEngine::new(PostgresSettings { allow_unbounded_slot: true, ..settings });
    for round in 0.. {
        assert!(round < 5, "{:#?}", engine.probe().await);
        let probe = engine.probe().await.unwrap();
        if round == 0 {
            blocks(&probe, "does not let the role breakwater in");
        }
        let lines: Vec<String> = probe.findings.iter().flat_map(|finding| finding.lines.clone()).collect();
        if probe.is_ready() {
            break;
        }
        assert!(!lines.is_empty(), "{probe:#?}");
        for line in lines {
            let file = match line.split(' ').next() {
                Some("local") => "pg_hba.conf",
                Some("breakwater") => "pg_ident.conf",
                _ => {
                    cluster.psql(&line).await.unwrap();
                    continue;
                }
            };
            let path = cluster.data_dir().join(file);
            let old = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, format!("{line}\n{old}")).unwrap();
        }
        // A reload is not waited for by the one who asks for it.
        cluster.psql("select pg_reload_conf(), pg_sleep(0.2)").await.unwrap();
    }
}

/// Where every connection is let in, a rule that asks for a password would shut the role out.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_rule_that_is_missing_is_asked_for() {
    let cluster = Cluster::builder(Version::V17).start().await.unwrap();
    cluster.psql("create role breakwater login").await.unwrap();
    let (socket, port) = (cluster.socket_dir().display(), cluster.port());
    let connection = format!("host={socket} port={port} user=breakwater dbname=postgres").parse().unwrap();
    let settings = PostgresSettings::new(&Name::new("limited").unwrap(), connection).unwrap();
    let probe = probe(settings).await;
    blocks(&probe, "may not replicate");
    blocks(&probe, "may not read all settings");
    for finding in probe.findings.iter().filter(|finding| finding.severity == Severity::Blocking) {
        assert!(!finding.lines.is_empty(), "a line mends it: {finding:?}");
        assert!(finding.lines.iter().all(|line| !line.contains("scram")), "{finding:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doing_what_it_says_makes_a_server_ready_on_15() {
    doing_what_it_says_makes_a_server_ready(Version::V15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doing_what_it_says_makes_a_server_ready_on_17() {
    doing_what_it_says_makes_a_server_ready(Version::V17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_make_protection_impossible_are_named() {
    let cluster = Cluster::builder(Version::V15)
        .data_checksums(false)
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .setting("full_page_writes", "off")
        .start()
        .await
        .unwrap();
    let probe = probe(lay::settings(&cluster)).await;
    for words in
        ["wal_level is minimal", "full_page_writes is off", "max_wal_senders is 0", "no replication connection"]
    {
        blocks(&probe, words);
    }
    assert_eq!(find(&probe, "data checksums are off").severity, Severity::Warning);
    assert!(probe.findings.is_sorted_by_key(|finding| finding.severity), "the worst comes first");
    let error = PostgresEngine::new(lay::settings(&cluster)).begin_backup(lay::request("x")).await.err().unwrap();
    assert_eq!(error.kind, EngineErrorKind::Refused, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_looked_at() {
    let cluster = Cluster::builder(Version::V15).setting("max_replication_slots", "1").start().await.unwrap();
    let careful = PostgresSettings { allow_unbounded_slot: false, ..lay::settings(&cluster) };
    let finding = find(&probe(careful.clone()).await, "max_slot_wal_keep_size is -1").clone();
    assert_eq!(finding.severity, Severity::Blocking);
    assert_eq!(finding.lines[0], "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';");
    let allowed = probe(lay::settings(&cluster)).await;
    assert_eq!(find(&allowed, "max_slot_wal_keep_size is -1").severity, Severity::Warning);
    assert!(allowed.is_ready(), "{:?}", allowed.findings);

    cluster.psql("select pg_create_physical_replication_slot('somebody')").await.unwrap();
    blocks(&probe(lay::settings(&cluster)).await, "no replication slot is free");
    cluster.psql("select pg_drop_replication_slot('somebody')").await.unwrap();
    cluster.psql("select pg_create_physical_replication_slot('breakwater_test', true)").await.unwrap();
    assert!(probe(lay::settings(&cluster)).await.is_ready(), "our own slot is not in the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_that_are_not_ours_to_protect_are_named() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    let other = Cluster::builder(Version::V15).start().await.unwrap();
    let foreign = PostgresSettings { expected_system_id: Some(1), ..lay::settings(&cluster) };
    blocks(&probe(foreign).await, "another cluster answers");
    let wrong = PostgresSettings { data_directory: Some(other.data_dir().to_owned()), ..lay::settings(&cluster) };
    blocks(&probe(wrong).await, "the data directory belongs to another cluster");
    let standby = cluster.standby().await.unwrap();
    blocks(&probe(lay::settings(&standby)).await, "standby");
    let space = temp_dir("space").unwrap();
    cluster.user().own(space.path()).unwrap();
    cluster.psql(&format!("create tablespace fast location '{}'", space.path().display())).await.unwrap();
    let probed = probe(lay::settings(&cluster)).await;
    blocks(&probed, "tablespaces");
    assert_eq!(
        probed.findings.iter().filter(|finding| finding.what.contains("tablespace")).count(),
        1,
        "it is said once"
    );

    cluster.stop(Stop::Fast).await.unwrap();
    let error = PostgresEngine::new(lay::settings(&cluster)).probe().await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_cluster_is_discovered() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    let found = async || {
        let all = tokio::task::spawn_blocking(discover::discover).await.unwrap();
        let data = cluster.data_dir().canonicalize().unwrap();
        all.into_iter().find(|candidate| candidate.data_directory.as_ref() == Some(&data))
    };
    let candidate = wait::until("the cluster to be found", Duration::from_secs(10), found).await;
    assert!(candidate.running);
    assert_eq!((candidate.port, candidate.version.as_deref()), (cluster.port(), Some("15")));
    cluster.psql("create role breakwater login").await.unwrap();
    let settings: breakwater_engine_postgres::connection::ConnectionSettings = candidate.connection.parse().unwrap();
    settings.connect_sql().await.unwrap();
}
