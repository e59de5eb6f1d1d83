//! The story with SQLite: a file that a program writes all the time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use breakwater_core::ErrorClass;
use breakwater_proto::v1::restore_point::Point;
use rusqlite::Connection;
use tokio::task::JoinHandle;

use super::story::{REGIONS, Story, broken};
use crate::failure::Failure;

/// Rows at the beginning.
const ROWS: u32 = 20_000;

/// How often the program writes.
const PACE: Duration = Duration::from_millis(2);

/// What a database holds: how many rows, and a sum over their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    rows: i64,
    sum: i64,
}

/// Tells it.
pub(super) async fn tell(story: &mut Story) -> Result<(), Failure> {
    let database = story.directory.join("shop.db");
    story.narrator.step("A SQLite database, and a program that writes to it all the time");
    blocking({
        let database = database.clone();
        move || create(&database)
    })
    .await?;
    story.narrator.say(&format!("{} with {ROWS} orders, in write-ahead mode", database.display()));
    let writer = Writer::start(&database);

    story.start().await?;
    story.narrator.step("Declared, and backed up while it is written to");
    story.declare(&format!("  sqlite: {{path: {}}}\n", serde_json::json!(database.display().to_string()))).await?;
    story.plan().await?;
    let first = story.backup().await?;

    story.narrator.step("The program goes on; then it stops for a moment, so that we can count");
    tokio::time::sleep(Duration::from_millis(300)).await;
    writer.stop().await?;
    let before = content(&database).await?;
    story.narrator.say(&format!("{} orders", before.rows));
    story.backup().await?;
    story.show_snapshots().await?;

    story.narrator.step("Oops: somebody deletes the orders");
    let writer = Writer::start(&database);
    let deleted = execute(&database, "delete from orders where id % 3 <> 0").await?;
    writer.stop().await?;
    story.narrator.say(&format!("delete from orders where id % 3 <> 0: {deleted} orders are gone"));

    story.narrator.step("Restored to the last snapshot before");
    let target = story.directory.join("restored");
    story.restore(Point::Latest(true), "--latest", &target).await?;
    same(content(&restored(&target)?).await?, before, "the restore")?;
    story.narrator.proven(format!("the restore has all {} orders, with the same content", before.rows));
    let target = story.directory.join("restored-first");
    let words = format!("--snapshot {}", first.snapshot_id);
    story.restore(Point::Snapshot(first.snapshot_id), &words, &target).await?;
    let first = content(&restored(&target)?).await?;
    if first.rows < i64::from(ROWS) || first.rows >= before.rows {
        return Err(broken(format!("the first snapshot has {} orders, the second {}", first.rows, before.rows)));
    }
    story
        .narrator
        .proven(format!("the first snapshot, taken while the program wrote, has {} orders and is whole", first.rows));

    let [east, west] = REGIONS;
    story.narrator.step("How far are the regions?");
    story.wait_whole().await?;
    story.show_lag().await?;
    story.narrator.step(&format!("Region `{east}` goes away; backups go on"));
    story.take_away(east)?;
    execute(&database, "update orders set total = total + 1").await?;
    let last = content(&database).await?;
    story.backup().await?;
    story.wait_lag("region `east` being missed", |rows| state(rows, east) != "ok" && state(rows, west) == "ok").await?;
    story.show_lag().await?;
    story.narrator.proven(format!(
        "with `{east}` away the backup is in `{west}`, and the lag shows that `{east}` is not up to date"
    ));
    story.narrator.step(&format!("Region `{east}` is back; what it missed is copied from `{west}`"));
    story.give_back(east)?;
    story.wait_whole().await?;
    story.show_lag().await?;
    story.narrator.proven(format!("`{east}` has caught up by itself"));

    story.check().await?;
    let target = story.directory.join("restored-offline");
    story.break_glass(&target).await?;
    same(content(&restored(&target)?).await?, last, "the restore")?;
    story.narrator.proven(format!(
        "one region, the recovery key and this program brought all {} orders back, with the same content",
        last.rows
    ));
    Ok(())
}

fn state<'a>(rows: &'a [serde_json::Value], region: &str) -> &'a str {
    let row = rows.iter().find(|row| row["region"] == region);
    row.and_then(|row| row["state"].as_str()).unwrap_or_default()
}

fn same(found: Content, wanted: Content, what: &str) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    Err(broken(format!("{what} is not what the database was: {found:?} instead of {wanted:?}")))
}

/// The one file of a restored database.
fn restored(target: &Path) -> Result<PathBuf, Failure> {
    let path = target.join("shop.db");
    if path.is_file() { Ok(path) } else { Err(broken(format!("{} was not restored", path.display()))) }
}

/// A program that writes until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<(), Failure>>,
}

impl Writer {
    fn start(database: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (database.to_owned(), Arc::clone(&stop));
        let task = tokio::task::spawn_blocking(move || {
            let connection = open(&path)?;
            while !stopped.load(Ordering::Relaxed) {
                let inserted = connection.execute("insert into orders (customer, total) values ('walk-in', 7)", []);
                inserted.map_err(|error| sql(&path, &error))?;
                std::thread::sleep(PACE);
            }
            Ok(())
        });
        Writer { stop, task }
    }

    async fn stop(mut self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.task).await.map_err(|error| Failure::internal(format!("the writing program: {error}")))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn sql(path: &Path, error: &rusqlite::Error) -> Failure {
    Failure::of(ErrorClass::Internal, error).doing(path.display())
}

fn open(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path).map_err(|error| sql(path, &error))?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(|error| sql(path, &error))?;
    Ok(connection)
}

fn create(path: &Path) -> Result<(), Failure> {
    let connection = open(path)?;
    let text = format!(
        "pragma journal_mode = wal;
         create table orders (id integer primary key, customer text not null, total integer not null);
         with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS})
         insert into orders (customer, total) select 'customer ' || (i * 7919 % 1000), i * 31 % 5000 from n;"
    );
    connection.execute_batch(&text).map_err(|error| sql(path, &error))
}

async fn content(path: &Path) -> Result<Content, Failure> {
    let path = path.to_owned();
    blocking(move || {
        let question = "select count(*), coalesce(sum(id * 31 + total + length(customer)), 0) from orders";
        let answer = open(&path)?
            .query_row(question, [], |row| Ok(Content { rows: row.get(0)?, sum: row.get(1)? }))
            .map_err(|error| sql(&path, &error))?;
        Ok(answer)
    })
    .await
}

async fn execute(path: &Path, text: &'static str) -> Result<usize, Failure> {
    let path = path.to_owned();
    blocking(move || open(&path)?.execute(text, []).map_err(|error| sql(&path, &error))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::internal(format!("a thread ended: {error}"))))
}
