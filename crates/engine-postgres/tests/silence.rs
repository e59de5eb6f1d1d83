//! A server that falls silent in the middle of a question: every call ends, and says so.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "kit/lay.rs"]
mod lay;

use std::io;
use std::time::Duration;

use breakwater_engine::{Engine as _, EngineError, EngineErrorKind};
use breakwater_engine_postgres::{PostgresEngine, PostgresSettings};
use breakwater_testkit::postgres::{Cluster, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A way to the server at `port` on which everything gets through until a client asks a question with `word` in it, and
/// nothing after that.
async fn muted(port: u16, word: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(relay(client, port, word));
        }
    });
    own
}

async fn relay(client: TcpStream, port: u16, word: &'static str) {
    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async { tokio::io::copy(&mut from_server, &mut to_client).await.map(drop) };
    let questions = async {
        let mut buffer = vec![0; 65536];
        loop {
            let count = from_client.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            if buffer[..count].windows(word.len()).any(|window| window == word.as_bytes()) {
                std::future::pending::<()>().await;
            }
            to_server.write_all(&buffer[..count]).await?;
        }
    };
    // Either end may hang up.
    let ended: io::Result<()> = tokio::select! { ended = answers => ended, ended = questions => ended };
    drop(ended);
}

fn is_silence<T>(result: Result<T, EngineError>) {
    let error = result.err().expect("the server does not answer");
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("within 2 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_holds_nobody_for_ever() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    let engine = async |word: &'static str| {
        let port = muted(cluster.port(), word).await;
        let connection = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres").parse().unwrap();
        PostgresEngine::new(PostgresSettings {
            connection,
            answer_timeout: Duration::from_secs(2),
            ..lay::settings(&cluster)
        })
    };
    let limit = Duration::from_secs(60);
    let asking = async {
        is_silence(engine("pg_tablespace").await.probe().await);
        is_silence(engine("pg_replication_slots").await.probe().await);
        is_silence(engine("pg_control_system").await.begin_backup(lay::request("x")).await);
        is_silence(engine("pg_tablespace").await.begin_backup(lay::request("x")).await);
        is_silence(engine("pg_replication_slots").await.log_source().unwrap().facts().await);
        is_silence(engine("pg_logical_emit_message").await.log_source().unwrap().nudge().await);
        is_silence(engine("pg_current_wal_flush_lsn").await.log_source().unwrap().nudge().await);
        is_silence(engine("pg_replication_slots").await.log_source().unwrap().forget().await);
        let start = breakwater_engine::LogStart::Oldest;
        is_silence(engine("pg_replication_slots").await.log_source().unwrap().open(start).await);
        for word in ["sourcefile", "rolcanlogin", "clock_timestamp"] {
            let session = engine(word).await.begin_backup(lay::request("x")).await.unwrap();
            is_silence(session.finish().await);
        }
    };
    tokio::time::timeout(limit, asking).await.expect("every call ends");
}
