//! Who is let in, whom we trust, and what is said when it fails: each with what to change.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use breakwater_core::PlaceUrl;
use breakwater_storage::places::UseAs;
use breakwater_storage::{Payload, Places, Storage, StorageError, StorageErrorKind};
use breakwater_storage_sftp::{Environment, Settings, SftpProvider};
use breakwater_testkit::port::free_port;
use breakwater_testkit::sshd::{SshAgent, SshdSetup, make_key, own_name, write_secret};
use breakwater_testkit::user::is_root;
use futures::TryStreamExt;

use crate::place::{LONG, Place, storage, text};

/// The region `r` of `place`, with these options.
fn with(place: &Place, options: &str) -> Storage {
    with_environment(place, options, &Environment::default())
}

fn with_environment(place: &Place, options: &str, environment: &Environment) -> Storage {
    let url = place.sshd.url_with(&own_name().unwrap(), &place.sshd.dir().join("r"), options);
    storage(&url, environment, UseAs::Fresh, LONG)
}

/// The options that let us in.
fn options(place: &Place) -> String {
    format!("?identity={}&known-hosts={}", place.sshd.identity().display(), place.sshd.known_hosts().display())
}

async fn works(storage: &Storage) {
    assert!(!storage.exists("nothing").await.unwrap_or_else(|error| panic!("{}", text(&error))));
}

async fn refused(storage: &Storage, kind: StorageErrorKind, expected: &[&str]) -> String {
    let error = storage.exists("nothing").await.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", text(&error));
    for part in expected {
        assert!(text(&error).contains(part), "`{part}` in: {}", text(&error));
    }
    text(&error)
}

#[tokio::test]
async fn host_keys() {
    let place = Place::start().await;
    let identity = place.sshd.identity();
    let (identity, known) = (identity.display(), place.sshd.dir().join("known"));
    let denied = StorageErrorKind::Denied;

    // Unknown; then known by the line that the refusal names.
    let storage = with(&place, &format!("?identity={identity}&known-hosts={}", known.display()));
    let error = refused(&storage, denied, &["is not known", "SHA256:", "hint: compare"]).await;
    let line = error.rsplit_once(": ").unwrap().1.trim_end_matches(')');
    fs::write(&known, line).unwrap();
    works(&storage).await;

    // Changed: another key under the same name.
    make_key(&place.sshd.dir().join("other"), "").unwrap();
    let other = fs::read_to_string(place.sshd.dir().join("other.pub")).unwrap();
    fs::write(&known, format!("[127.0.0.1]:{} {other}", place.sshd.port())).unwrap();
    let storage = with(&place, &format!("?identity={identity}&known-hosts={}", known.display()));
    refused(&storage, denied, &["is not the one that is known", "line 1", "in between"]).await;

    // Pinned.
    let fingerprint =
        Command::new("ssh-keygen").arg("-lf").arg(place.sshd.dir().join("host_key.pub")).output().unwrap();
    let fingerprint = String::from_utf8(fingerprint.stdout).unwrap().split(' ').nth(1).unwrap().to_owned();
    works(&with(&place, &format!("?identity={identity}&host-key={fingerprint}"))).await;
    let wrong = "SHA256:Nh0Me49Zh9fDw/VYUfq43IJmI1T+XrjiYONPND8GzaM";
    let storage = with(&place, &format!("?identity={identity}&host-key={wrong}"));
    refused(&storage, denied, &["`host-key` says", &fingerprint, wrong]).await;
}

#[tokio::test]
async fn private_keys_and_agents() {
    let place = Place::start().await;
    let known = format!("known-hosts={}", place.sshd.known_hosts().display());
    let denied = StorageErrorKind::Denied;
    works(&with(&place, &options(&place))).await;

    refused(&with(&place, &format!("?{known}")), denied, &["nothing to prove who we are", "identity=/path"]).await;
    let stranger = place.sshd.dir().join("stranger");
    make_key(&stranger, "").unwrap();
    let storage = with(&place, &format!("?{known}&identity={}", stranger.display()));
    refused(&storage, denied, &["does not take", "stranger", "authorized_keys"]).await;

    let agent = SshAgent::start(&place.sshd.identity()).await.unwrap();
    let environment = Environment { agent: Some(agent.socket()), ..Environment::default() };
    works(&with_environment(&place, &format!("?{known}"), &environment)).await;
    let storage = with_environment(&place, &format!("?{known}&identity={}", stranger.display()), &environment);
    works(&storage).await;
    let agent = SshAgent::start(&stranger).await.unwrap();
    let environment = Environment { agent: Some(agent.socket()), ..Environment::default() };
    let storage = with_environment(&place, &format!("?{known}"), &environment);
    refused(&storage, denied, &["1 keys of the SSH agent"]).await;
}

#[tokio::test]
async fn files_with_secrets() {
    let place = Place::start().await;
    let dir = place.sshd.dir();
    let (locked, passphrase) = (dir.join("locked"), dir.join("passphrase"));
    make_key(&locked, "between us").unwrap();
    write_secret(&passphrase, "between us").unwrap();
    let public = fs::read_to_string(dir.join("locked.pub")).unwrap();
    fs::write(dir.join("authorized_keys"), public).unwrap();
    let known = format!("known-hosts={}", place.sshd.known_hosts().display());
    let [locked, passphrase] = [&locked, &passphrase].map(|path: &PathBuf| path.display().to_string());
    works(&with(&place, &format!("?{known}&identity={locked}&passphrase-file={passphrase}"))).await;

    let bad = |options: &str, expected: &str| {
        let url: PlaceUrl = place.sshd.url_with("me", Path::new("/r"), options).parse().unwrap();
        let error = Settings::of(&url, &Environment::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    bad(&format!("?identity={locked}"), "passphrase-file=/path");
    bad(&format!("?passphrase-file={passphrase}"), "`identity`");
    bad(&format!("?identity={passphrase}"), "no private key");
    let wrong = dir.join("wrong").display().to_string();
    write_secret(Path::new(&wrong), "a guess").unwrap();
    bad(&format!("?identity={locked}&passphrase-file={wrong}"), "does not hold the passphrase");
    for (option, path) in [("identity", &locked), ("password-file", &passphrase)] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        bad(&format!("?{option}={path}"), &format!("chmod 600 {path}"));
    }
}

/// An account of the test's own, that nobody else sees: `keeper` with the password `between us`.
fn keeper(dir: &Path, lines: &[String]) -> SshdSetup {
    let hash = Command::new("openssl").args(["passwd", "-6", "between us"]).output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    let [passwd, shadow] = ["passwd", "shadow"].map(|name| {
        let line = match name {
            "passwd" => "keeper:x:65534:65534::/:/usr/sbin/nologin\n".to_owned(),
            _ => format!("keeper:{}:19000:0:99999:7:::\n", hash.trim()),
        };
        let path = dir.join(name);
        fs::write(&path, fs::read_to_string(Path::new("/etc").join(name)).unwrap() + &line).unwrap();
        path.display().to_string()
    });
    // A directory that a session is shut in must be root's, up to the top: one of memory is.
    let before = format!(
        "mount --bind {passwd} /etc/passwd && mount --bind {shadow} /etc/shadow && mount -t tmpfs -o mode=755 jail /srv \
         && mkdir /srv/backup && chown 65534:65534 /srv/backup"
    );
    SshdSetup { lines: lines.to_vec(), before: Some(before), ..SshdSetup::default() }
}

#[tokio::test]
async fn an_account_without_a_shell_shut_in_a_directory_with_a_password() {
    if !is_root() {
        eprintln!("not tested: only root can make accounts, also where nobody else sees them");
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let lines = [
        "PasswordAuthentication yes",
        "Match User keeper",
        "    ForceCommand internal-sftp",
        "    ChrootDirectory /srv",
        "    DisableForwarding yes",
        "    PermitTTY no",
    ];
    let place = Place::start_with(keeper(files.path(), &lines.map(str::to_owned))).await;
    let password = files.path().join("password");
    write_secret(&password, "between us").unwrap();
    let options = format!("?password-file={}&known-hosts={}", password.display(), place.sshd.known_hosts().display());
    let open = |root: &str| {
        let url = place.sshd.url_with("keeper", Path::new(root), &options);
        storage(&url, &Environment::default(), UseAs::Fresh, LONG)
    };
    let region = open("/backup/r1");
    region.create("data/a", Payload::from(vec![1])).await.unwrap_or_else(|error| panic!("{}", text(&error)));
    assert_eq!(region.get("data/a").await.unwrap(), [1][..]);
    assert!(!Path::new("/srv/backup").exists(), "only the server sees it");

    refused(&open("/elsewhere"), StorageErrorKind::Denied, &["does not permit", "owner and mode"]).await;
    refused(&open("/srv/backup/r1"), StorageErrorKind::Unreachable, &["directory above it does not exist"]).await;
    write_secret(&password, "a guess").unwrap();
    refused(&open("/backup/r1"), StorageErrorKind::Denied, &["does not take `keeper`", "the password"]).await;
}

#[tokio::test]
async fn what_does_not_answer_is_unreachable() {
    let place = Place::start().await;
    let unreachable = StorageErrorKind::Unreachable;
    let at = |host: &str, port: u16| {
        let url = format!("sftp://{}@{host}:{port}/r{}", own_name().unwrap(), options(&place));
        storage(&url, &Environment::default(), UseAs::Existing, LONG)
    };
    refused(&at("127.0.0.1", free_port()), unreachable, &["does sshd run there, and on this port?"]).await;
    refused(&at("no..host", 22), unreachable, &["is the host's name right?"]).await;

    let none = Place::start_with(SshdSetup { subsystem: "/bin/false".to_owned(), ..SshdSetup::default() }).await;
    refused(&with(&none, &options(&none)), unreachable, &["ended the session", "the server's log says more"]).await;
    let old = Place::start_with(SshdSetup {
        lines: vec!["KexAlgorithms diffie-hellman-group14-sha1".to_owned()],
        ..SshdSetup::default()
    })
    .await;
    let text =
        refused(&with(&old, &options(&old)), StorageErrorKind::Unsupported, &["still safe", "bring its SSH"]).await;
    assert!(text.contains("diffie-hellman-group14-sha1"), "{text}");
}

#[tokio::test]
async fn a_server_that_only_lets_read() {
    let place = Place::start().await;
    let root = place.fresh_root();
    let region = place.open(&root, UseAs::Fresh, LONG);
    region.create("data/a", Payload::from(vec![1])).await.unwrap();
    let reader = Place::serving("internal-sftp -R").await;
    let region = reader.open(&root, UseAs::Existing, LONG);
    assert_eq!(region.get("data/a").await.unwrap(), [1][..]);
    let listed: Vec<_> = region.list("").map_ok(|meta| meta.key).try_collect().await.unwrap();
    assert_eq!(listed, ["data/a"]);
    let check = |result: Result<(), StorageError>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Denied, "{}", text(&error));
    };
    check(region.create("data/b", Payload::from(vec![1])).await);
    check(region.delete("data/a").await);
}

#[tokio::test]
async fn links_lead_nowhere() {
    let place = Place::start().await;
    let root = place.fresh_root();
    let region = place.open(&root, UseAs::Fresh, LONG);
    region.create("data/a", Payload::from(vec![1])).await.unwrap();
    let outside = place.sshd.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    symlink(outside.join("secret"), root.join("data/link")).unwrap();
    symlink(&outside, root.join("linked")).unwrap();
    fs::write(root.join("data/\u{e4}"), "no key has such a name").unwrap();
    assert!(Command::new("mkfifo").arg(root.join("data/pipe")).status().unwrap().success());
    let keys: Vec<_> = region.list("").map_ok(|meta| meta.key).try_collect().await.unwrap();
    assert_eq!(keys, ["data/a"]);
    assert_eq!(
        region.list("linked/").map_ok(|meta| meta.key).try_collect::<Vec<_>>().await.unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(region.list_directories("").await.unwrap(), ["data"]);
    for key in ["data/link", "data/pipe"] {
        assert!(region.get(key).await.unwrap_err().is_not_found());
        assert!(region.head(key).await.unwrap_err().is_not_found());
    }
}

#[tokio::test]
async fn programs_open_such_places_by_their_urls() {
    let place = Place::start().await;
    let places = Places::local().with(std::sync::Arc::new(SftpProvider));
    let root = place.fresh_root();
    let url = place.sshd.url(&root).unwrap();
    let region = places.open_fresh(&url).await.unwrap();
    assert_eq!(region.location(), url.split_once('?').unwrap().0);
    assert!(!root.exists(), "nothing is asked of the network yet");
    region.create("data/a", Payload::from(vec![1])).await.unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    let object = fs::metadata(root.join("data/a")).unwrap();
    assert_eq!(object.permissions().mode() & 0o777, 0o600);
    assert_eq!(places.open_existing(&url).await.unwrap().get("data/a").await.unwrap(), [1][..]);
    let error = places.open_fresh("sftp://h/r?colour=red").await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Invalid);
    assert!(text(&error).contains("colour"), "{}", text(&error));
}
