//! The story with PostgreSQL: a cluster under load, restored to a moment between two transactions.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use breakwater_core::{ErrorClass, Timestamp};
use breakwater_proto::v1;
use breakwater_proto::v1::restore_point::Point;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::cluster::{Cluster, Programs, sql};
use super::story::{PATIENCE, POLL, REGIONS, SOURCE, Story, broken};
use crate::failure::Failure;

/// Rows at the beginning.
const ROWS: u32 = 50_000;

/// How often the application commits.
const PACE: Duration = Duration::from_millis(3);

/// The role that the agent connects as.
const ROLE: &str = "breakwater";

/// How often the lines of a check are followed: each round may uncover more.
const ROUNDS: usize = 4;

/// What a database holds: how many rows, and a sum over their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    rows: i64,
    sum: i64,
}

/// Tells it.
pub(super) async fn tell(story: &mut Story, programs: Programs) -> Result<(), Failure> {
    let (data, socket) = (story.directory.join("data"), story.directory.join("socket"));
    story
        .narrator
        .step(&format!("A PostgreSQL {} cluster, and an application that commits all the time", programs.major()));
    Cluster::create(&programs, &data).await?;
    let cluster = Cluster::start(&programs, &data, &socket).await?;
    let client = cluster.connect().await?;
    create(&client).await?;
    story.narrator.say(&format!("{} with {ROWS} orders, with page checksums", data.display()));
    let application = Application::start(cluster.connect().await?);

    story.start().await?;
    story.narrator.step("Declared; the role gets exactly the rights that the check asks for");
    execute(&client, &format!("create role {ROLE} login")).await?;
    let connection = serde_json::json!(cluster.connection(ROLE));
    story.declare(&format!("  postgres: {{connection: {connection}}}\n")).await?;
    grant(story, &client).await?;
    story.plan().await?;

    story.narrator.step("Backed up while it is written to; its log streams into both regions");
    wait_streaming(story).await?;
    story.backup().await?;
    story.show_snapshots().await?;

    story.narrator.step("The application goes on; then we note a moment, and count");
    tokio::time::sleep(Duration::from_millis(500)).await;
    application.stop().await?;
    let wanted = content(&client).await?;
    let moment = now(&client).await?;
    story.narrator.say(&format!("{moment}: {} orders", wanted.rows));

    story.narrator.step("Oops: somebody deletes orders, and the application goes on");
    let application = Application::start(cluster.connect().await?);
    let deleted = execute(&client, "delete from orders where id % 3 <> 0").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    application.stop().await?;
    let after = content(&client).await?;
    story
        .narrator
        .say(&format!("delete from orders where id % 3 <> 0: {deleted} orders are gone, {} are left", after.rows));

    story.narrator.step("Restored to the moment, between two transactions");
    let restores = story.directory.join("restored");
    std::fs::create_dir(&restores).map_err(|error| Failure::io(restores.display(), &error))?;
    super::story::set_mode(&restores, 0o711)?;
    let target = restores.join("moment");
    let words = format!("--to-time {moment}");
    story.restore(Point::Time(moment.as_micros()), &words, &target).await?;
    let (found, checked) = look(story, &programs, &target).await?;
    same(found, wanted)?;
    story.narrator.proven(format!(
        "the cluster restored to {moment} starts and has all {} orders, with the same content",
        wanted.rows
    ));
    if checked {
        story.narrator.proven("pg_amcheck finds every page and index of it sound".to_owned());
    }

    regions(story, &client).await?;
    story.check().await?;

    let (last, end) = (content(&client).await?, now(&client).await?);
    story.wait_recoverable(REGIONS[1], end).await?;
    drop(client);
    let target = restores.join("offline");
    story.break_glass(&target).await?;
    cluster.stop().await?;
    let (found, _) = look(story, &programs, &target).await?;
    same(found, last)?;
    story.narrator.proven(format!(
        "one region, the recovery key and this program brought all {} orders back, with the same content",
        last.rows
    ));
    Ok(())
}

/// One region goes away and comes back.
async fn regions(story: &mut Story, client: &Client) -> Result<(), Failure> {
    let [east, west] = REGIONS;
    story.narrator.step("How far are the regions?");
    story.wait_whole().await?;
    story.show_lag().await?;
    story.narrator.step(&format!("Region `{east}` goes away; the log goes on"));
    story.take_away(east)?;
    execute(client, "update orders set total = total + 1").await?;
    let moment = now(client).await?;
    story.wait_recoverable(west, moment).await?;
    story
        .wait_lag(&format!("region `{east}` being missed"), |rows| {
            state(rows, east) != "ok" && state(rows, west) == "ok"
        })
        .await?;
    story.show_lag().await?;
    story.narrator.proven(format!(
        "with `{east}` away the log is in `{west}`, and the lag shows that `{east}` is not up to date"
    ));
    story.narrator.step(&format!("Region `{east}` is back; what it missed is copied from `{west}`"));
    story.give_back(east)?;
    story.wait_recoverable(east, moment).await?;
    story.wait_whole().await?;
    story.show_lag().await?;
    story.narrator.proven(format!("`{east}` has caught up by itself"));
    Ok(())
}

fn state<'a>(rows: &'a [Value], region: &str) -> &'a str {
    let row = rows.iter().find(|row| row["region"] == region);
    row.and_then(|row| row["state"].as_str()).unwrap_or_default()
}

fn same(found: Content, wanted: Content) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    Err(broken(format!("the restored cluster is not what it was: {found:?} instead of {wanted:?}")))
}

/// Starts a restored cluster on a socket of its own and looks into it; also whether every page was checked.
async fn look(story: &Story, programs: &Programs, target: &Path) -> Result<(Content, bool), Failure> {
    let cluster = Cluster::start(programs, target, &story.directory.join("socket-restored")).await?;
    let client = cluster.connect().await?;
    let found = content(&client).await?;
    let checked = cluster.amcheck(programs).await?.is_some();
    drop(client);
    cluster.stop().await?;
    Ok((found, checked))
}

/// Follows the lines of the check until nothing blocks any more.
async fn grant(story: &Story, client: &Client) -> Result<(), Failure> {
    story.narrator.command(&format!("source check {SOURCE}"));
    let controller = story.client()?;
    for _ in 0..ROUNDS {
        let request = v1::CheckSourceRequest { namespace: String::new(), name: SOURCE.to_owned() };
        let documents = controller.documents(controller.operator().check_source(request)).await?;
        let answer = documents.into_iter().next().unwrap_or_default();
        if let Some(error) = answer["error"].as_str() {
            return Err(broken(format!("the source cannot be looked at: {error}")));
        }
        if answer["ready"] == true {
            return Ok(());
        }
        let findings = answer["probe"]["findings"].as_array().cloned().unwrap_or_default();
        for finding in findings.iter().filter(|finding| finding["severity"] == "blocking") {
            for line in finding["lines"].as_array().map_or(&[][..], Vec::as_slice) {
                let line = line.as_str().unwrap_or_default();
                story.narrator.say(line);
                execute(client, line).await?;
            }
        }
    }
    Err(broken(format!("the source is not ready after {ROUNDS} rounds of doing what its check says")))
}

async fn wait_streaming(story: &Story) -> Result<(), Failure> {
    let (client, begun) = (story.client()?, Instant::now());
    loop {
        let status = client.call(client.operator().status(v1::StatusRequest::default())).await?;
        let state = status.sources.first().map(|source| source.stream_state.clone()).unwrap_or_default();
        if state == "streaming" {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let message = format!("the log does not stream after {PATIENCE:?}: {state}");
            return Err(Failure::new(ErrorClass::Unavailable, message));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// An application that commits until it is stopped.
struct Application {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<(), Failure>>,
}

impl Application {
    fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                execute(&client, "insert into orders (customer, total) values ('walk-in', 7)").await?;
                tokio::time::sleep(PACE).await;
            }
            Ok(())
        });
        Application { stop, task }
    }

    async fn stop(mut self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.task).await.map_err(|error| Failure::internal(format!("the application: {error}")))?
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn create(client: &Client) -> Result<(), Failure> {
    let text = format!(
        "create table orders (id bigint generated always as identity primary key, customer text not null, total int not null);
         insert into orders (customer, total) select 'customer ' || (i * 7919 % 1000), i * 31 % 5000 from generate_series(1, {ROWS}) i;
         create index on orders (customer);"
    );
    client.batch_execute(&text).await.map_err(|error| sql(&error))
}

async fn execute(client: &Client, text: &str) -> Result<u64, Failure> {
    client.execute(text, &[]).await.map_err(|error| sql(&error))
}

async fn content(client: &Client) -> Result<Content, Failure> {
    let question = "select count(*), coalesce(sum(id * 31 + total + hashtext(customer)), 0)::bigint from orders";
    let row = client.query_one(question, &[]).await.map_err(|error| sql(&error))?;
    Ok(Content { rows: row.get(0), sum: row.get(1) })
}

/// The cluster's own clock.
async fn now(client: &Client) -> Result<Timestamp, Failure> {
    let question = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    let row = client.query_one(question, &[]).await.map_err(|error| sql(&error))?;
    Ok(Timestamp::from_micros(row.get(0)))
}
