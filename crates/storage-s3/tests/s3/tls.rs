//! Through TLS with a private authority, and through a proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use breakwater_storage::conformance::pattern;
use breakwater_storage::{StorageErrorKind, probe};
use breakwater_testkit::moto::Moto;
use breakwater_testkit::tls_front::TlsFront;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::lab::{Kind, Lab, said};

/// A proxy for `CONNECT`. Gives its port and how often it was used.
async fn proxy() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let used = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&used);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let (mut first, mut line) = (String::new(), String::new());
                client.read_line(&mut first).await?;
                while client.read_line(&mut line).await? > 2 {
                    line.clear();
                }
                let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
                let mut server = TcpStream::connect(target).await?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                counter.fetch_add(1, Ordering::Relaxed);
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (port, used)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_and_a_proxy() {
    let server = Moto::start().await.unwrap();
    let bucket = Lab::new(&server.endpoint()).bucket(Kind::Plain).await;
    let front = TlsFront::start(server.endpoint().trim_start_matches("http://")).await.unwrap();
    let lab = Lab::new(&front.endpoint());
    let ca = format!("&ca={}", front.ca().display());

    let store = lab.open(&bucket, &ca).await;
    probe(&store, "s/").await.unwrap();
    store.create("data/large", pattern(1, 8 << 20).into()).await.unwrap();
    assert!(store.get("data/large").await.unwrap() == pattern(1, 8 << 20));

    let error = lab.open(&bucket, "").await.get("data/large").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Unreachable);
    assert!(said(&error).contains("ca=/PATH"), "{}", said(&error));

    let (port, used) = proxy().await;
    let store = lab.open(&bucket, &format!("{ca}&proxy=http://127.0.0.1:{port}")).await;
    assert_eq!(store.head("data/large").await.unwrap().size, 8 << 20);
    assert_eq!(used.load(Ordering::Relaxed), 1, "it went through the proxy");
}
