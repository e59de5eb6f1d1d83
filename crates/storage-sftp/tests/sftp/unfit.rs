//! Servers that cannot hold a region are refused by name, before anything is published there.

use std::fs;

use breakwater_storage::{Payload, StorageErrorKind};

use crate::place::{Place, temporaries, text};

/// Stands between sshd and OpenSSH's SFTP server and makes of every rename one that replaces, as some servers have it.
const REPLACING: &str = r#"
import struct, subprocess, sys, threading, os
server = subprocess.Popen(["/usr/lib/openssh/sftp-server", "-P", "hardlink"], stdin=subprocess.PIPE)
source = sys.stdin.buffer
while True:
    head = source.read(4)
    if len(head) < 4:
        break
    packet = source.read(struct.unpack(">I", head)[0])
    if packet[0] == 18:
        name = b"posix-rename@openssh.com"
        packet = b"\xc8" + packet[1:5] + struct.pack(">I", len(name)) + name + packet[5:]
    server.stdin.write(struct.pack(">I", len(packet)) + packet)
    server.stdin.flush()
server.stdin.close()
server.wait()
"#;

async fn check(place: Place, kind: StorageErrorKind, expected: &[&str]) {
    let root = place.fresh_root();
    fs::create_dir(&root).unwrap();
    let storage = place.open(&root, breakwater_storage::places::UseAs::Existing, crate::place::LONG);
    let error = storage.create("data/a", Payload::from(vec![1])).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", text(&error));
    for part in expected {
        assert!(text(&error).contains(part), "{}", text(&error));
    }
    assert!(!root.join("data").exists(), "nothing was published");
    assert_eq!(temporaries(&root), Vec::<String>::new());
    // What is there can be read all the same.
    fs::create_dir(root.join("data")).unwrap();
    fs::write(root.join("data/a"), "content").unwrap();
    assert_eq!(storage.get("data/a").await.unwrap(), "content");
}

#[tokio::test]
async fn without_fsync() {
    let place = Place::serving("internal-sftp -P fsync").await;
    check(place, StorageErrorKind::Unsupported, &["fsync@openssh.com", "hint: OpenSSH 6.5"]).await;
}

#[tokio::test]
async fn with_neither_hard_links_nor_renames() {
    let place = Place::serving("internal-sftp -P hardlink,rename").await;
    check(place, StorageErrorKind::Unsupported, &["rename", "hint: the file system behind it"]).await;
}

#[tokio::test]
async fn with_renames_that_replace() {
    let place = Place::start().await;
    let script = place.sshd.dir().join("replacing.py");
    fs::write(&script, REPLACING).unwrap();
    let place = Place::serving(&format!("/usr/bin/python3 {}", script.display())).await;
    check(place, StorageErrorKind::Invalid, &["rename replaced what was there", "hint: a server with hardlink"]).await;
}
