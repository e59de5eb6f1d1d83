//! A SQLite file into two regions and back.

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work;
use breakwater_proto::v1::restore_point::Point;

use crate::lab::{Lab, summary};

pub(crate) fn make_database(path: &std::path::Path, rows: u32) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, text TEXT)").unwrap();
    insert(&connection, rows);
    connection
}

pub(crate) fn insert(connection: &rusqlite::Connection, rows: u32) {
    connection.execute_batch("BEGIN").unwrap();
    for row in 0..rows {
        connection.execute("INSERT INTO t (text) VALUES (?1)", [format!("row {row} {}", "x".repeat(200))]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
}

pub(crate) fn count(path: &std::path::Path) -> u32 {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_backed_up_listed_previewed_and_restored() {
    let lab = Lab::new().await;
    let file = lab.path("app.db");
    let database = make_database(&file, 4000);
    lab.declare(&format!("sqlite: {{path: {}}}", file.display())).await;

    let first = lab.backup().await;
    let said = summary(&first);
    assert_eq!(
        (said["outcome"].as_str(), said["snapshot"].as_str()),
        (Some("committed"), Some(first.snapshot_id.as_str()))
    );
    let states: Vec<&str> = said["regions"].as_object().unwrap().values().map(|word| word.as_str().unwrap()).collect();
    assert!(states.len() == 2 && states.contains(&"held"), "{said}");
    assert!(said["totals"]["new_bytes"].as_u64().unwrap() > 500_000, "{said}");

    insert(&database, 10);
    let second = summary(&lab.backup().await);
    let (new, all) = (second["totals"]["new_bytes"].as_u64().unwrap(), second["totals"]["bytes"].as_u64().unwrap());
    assert!(new > 0 && new < all, "only what changed is new: {second}");

    let request = v1::SnapshotsRequest { source: "app".to_owned(), ..Default::default() };
    let list = Lab::answer(lab.desk().await.snapshots(request).await.unwrap().into_inner()).await;
    let snapshots = list["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 2, "{list}");
    assert_eq!((&snapshots[0]["source"], &snapshots[0]["status"]), (&"app".into(), &"committed".into()));
    assert!(snapshots[0]["consistent_at"].as_i64() > snapshots[1]["consistent_at"].as_i64(), "newest first");

    let request = v1::SnapshotRequest { id: first.snapshot_id.clone(), ..Default::default() };
    let shown = Lab::answer(lab.desk().await.snapshot(request).await.unwrap().into_inner()).await;
    assert_eq!(shown["id"], first.snapshot_id.as_str());

    let target = lab.path("restored");
    let job = lab.start_restore(Point::Latest(true), &target).await;
    let restored = summary(&lab.succeeded(&job.id).await);
    assert_eq!(count(&target.join("app.db")), 4010);
    assert!(restored["checks"].as_array().is_some_and(|checks| !checks.is_empty()), "{restored}");

    let target = lab.path("older");
    let job = lab.start_restore(Point::Snapshot(first.snapshot_id.clone()), &target).await;
    lab.succeeded(&job.id).await;
    assert_eq!(count(&target.join("app.db")), 4000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let lab = Lab::new().await;
    let file = lab.path("app.db");
    drop(make_database(&file, 10));
    lab.declare(&format!("sqlite: {{path: {}}}", file.display())).await;
    let class = |job: &v1::Job| ErrorClass::from_word(&job.failure.as_ref().unwrap().class);

    let job = lab.start_restore(Point::Latest(true), &lab.path("nothing")).await;
    assert_eq!(class(&lab.ended(&job.id).await), ErrorClass::NotFound);

    lab.backup().await;
    let occupied = lab.path("occupied");
    std::fs::create_dir(&occupied).unwrap();
    std::fs::write(occupied.join("app.db"), "mine").unwrap();
    let job = lab.start_restore(Point::Latest(true), &occupied).await;
    assert_eq!(class(&lab.ended(&job.id).await), ErrorClass::Refused);
    assert_eq!(std::fs::read(occupied.join("app.db")).unwrap(), b"mine");

    let job = lab.start_restore(Point::Time(i64::MAX / 2), &lab.path("moment")).await;
    let ended = lab.ended(&job.id).await;
    assert_eq!(class(&ended), ErrorClass::Refused);
    assert!(ended.failure.unwrap().message.contains("keeps no log"));
    assert!(!lab.path("moment").exists());

    // The same in a preview, which says so instead of failing.
    let restore = v1::RestoreSpec {
        point: Some(v1::RestorePoint { point: Some(Point::Latest(true)) }),
        target: occupied.display().to_string(),
        recover: true,
        ..Default::default()
    };
    let request = v1::RunRestoreRequest { source: "app".to_owned(), restore: Some(restore), ..Default::default() };
    let preview = Lab::answer(lab.desk().await.preview(request).await.unwrap().into_inner()).await;
    assert!(preview["refused"].as_str().is_some_and(|text| text.contains("app.db")), "{preview}");
    assert!(preview["bytes"].as_u64().unwrap() > 0, "{preview}");

    // A key that others can read is not used.
    let key = lab.agent_config.keys_dir().join("primary.json");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let job = lab.start_restore(Point::Latest(true), &lab.path("readable")).await;
    assert_eq!(class(&lab.ended(&job.id).await), ErrorClass::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_was_damaged() {
    let lab = Lab::new().await;
    let file = lab.path("app.db");
    drop(make_database(&file, 3000));
    lab.declare(&format!("sqlite: {{path: {}}}", file.display())).await;
    lab.backup().await;
    let check = async || {
        let check = Work::Check(v1::CheckSpec { read_data: true, ..Default::default() });
        let request = v1::RunRepositoryWorkRequest { work: Some(check.into()), ..Default::default() };
        let job = lab.desk().await.run_repository_work(request).await.unwrap().into_inner().jobs.remove(0);
        lab.ended(&job.id).await
    };
    let sound = check().await;
    assert_eq!(sound.state(), v1::JobState::Succeeded, "{:?}", sound.failure);
    assert_eq!(summary(&sound)["verdict"], "sound");

    let pack = find(&lab.path("east").join("data"), "pack").expect("a pack in the region");
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let damaged = check().await;
    assert_eq!(damaged.state(), v1::JobState::Failed);
    let failure = damaged.failure.unwrap();
    assert_eq!(failure.class, "corrupt", "{}", failure.message);
    assert!(failure.message.contains("east"), "{}", failure.message);
}

/// A file below a directory whose parent is called `parent`.
fn find(root: &std::path::Path, parent: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = find(&path, parent) {
                return Some(found);
            }
        } else if path.parent().and_then(|above| above.file_name()).is_some_and(|name| name == parent) {
            return Some(path);
        }
    }
    None
}
