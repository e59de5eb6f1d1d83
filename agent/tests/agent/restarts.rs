//! Either side may end at any moment: jobs run once, and their results arrive.
//!
//! A lock that the test holds on the database keeps a backup running for as long as a test needs.

use breakwater_agent::session::LinkState;
use breakwater_proto::v1;
use breakwater_proto::v1::restore_point::Point;
use breakwater_testkit::wait::until_true;

use crate::lab::{Lab, PATIENCE, summary};
use crate::sqlite::make_database;

async fn lab_with_slow_database() -> (Lab, rusqlite::Connection) {
    let lab = Lab::new().await;
    let file = lab.path("app.db");
    let database = make_database(&file, 100);
    lab.declare(&format!("sqlite: {{path: {}}}", file.display())).await;
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    (lab, database)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_restarted_while_a_job_runs_costs_nothing() {
    let (mut lab, database) = lab_with_slow_database().await;
    let job = lab.start_backup().await;
    lab.wait_running(&job.id).await;
    lab.stop_controller().await;
    lab.wait_link("the agent notices", |state| *state == LinkState::Away).await;
    lab.start_controller().await;
    lab.wait_connected().await;
    database.execute_batch("COMMIT").unwrap();
    let ended = lab.succeeded(&job.id).await;
    assert_eq!(ended.attempt, 1, "it ran once: {:?}", ended.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_outlives_the_agent_that_could_not_deliver_it() {
    let (mut lab, database) = lab_with_slow_database().await;
    let job = lab.start_backup().await;
    lab.wait_running(&job.id).await;
    lab.stop_controller().await;
    database.execute_batch("COMMIT").unwrap();
    until_true("the result is in the journal", PATIENCE, async || lab.journalled_results() == 1).await;
    lab.stop_agent().await;
    lab.start_controller().await;
    lab.start_agent().await;
    let ended = lab.succeeded(&job.id).await;
    assert_eq!(ended.attempt, 1, "it ran once: {:?}", ended.log);
    assert_eq!(summary(&ended)["outcome"], "committed");
    until_true("the result is acknowledged", PATIENCE, async || lab.journalled_results() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_the_agent_lost_is_given_out_again() {
    let (mut lab, database) = lab_with_slow_database().await;
    let job = lab.start_backup().await;
    lab.wait_running(&job.id).await;
    lab.stop_agent().await;
    database.execute_batch("COMMIT").unwrap();
    lab.start_agent().await;
    let ended = lab.succeeded(&job.id).await;
    assert_eq!(ended.attempt, 2, "{:?}", ended.log);
    let request = v1::SnapshotsRequest { source: "app".to_owned(), ..Default::default() };
    let list = Lab::answer(lab.desk().await.snapshots(request).await.unwrap().into_inner()).await;
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 1, "one job, one snapshot: {list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_stops_and_says_so() {
    let (lab, database) = lab_with_slow_database().await;
    let job = lab.start_backup().await;
    lab.wait_running(&job.id).await;
    let request = v1::CancelJobRequest { id: job.id.clone(), ..Default::default() };
    lab.desk().await.cancel_job(request).await.unwrap();
    let ended = lab.ended(&job.id).await;
    assert_eq!(ended.state(), v1::JobState::Cancelled, "{:?}", ended.failure);
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_looked_after_without_a_controller() {
    let (mut lab, database) = lab_with_slow_database().await;
    database.execute_batch("COMMIT").unwrap();
    lab.backup().await;
    lab.stop_agent().await;
    lab.stop_controller().await;
    let kept = lab.agent_config.data_dir.join("assignment.pb");
    assert!(kept.exists(), "the assignment is kept");
    lab.start_agent().await;
    lab.wait_link("the agent runs alone", |state| *state == LinkState::Away).await;
    lab.start_controller().await;
    lab.wait_connected().await;
    lab.backup().await;
}

/// The names of the objects in a region, its own record aside.
fn objects(region: &std::path::Path) -> std::collections::BTreeSet<std::path::PathBuf> {
    let mut found = std::collections::BTreeSet::new();
    let mut directories = ["meta", "data"].map(|top| region.join(top)).to_vec();
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                directories.push(path);
            } else {
                found.insert(path.strip_prefix(region).unwrap().to_owned());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_away_over_a_restart_gets_what_it_missed() {
    let mut lab = Lab::new().await;
    let file = lab.path("app.db");
    let database = make_database(&file, 1000);
    lab.declare(&format!("sqlite: {{path: {}}}", file.display())).await;
    lab.backup().await;
    std::fs::rename(lab.path("west"), lab.path("west-away")).unwrap();
    crate::sqlite::insert(&database, 1000);
    lab.backup().await;
    // The debt dies with the process that knew it.
    lab.stop_agent().await;
    lab.start_agent().await;
    lab.wait_connected().await;
    crate::sqlite::insert(&database, 1000);
    lab.backup().await;
    std::fs::rename(lab.path("west-away"), lab.path("west")).unwrap();
    until_true("west holds what east holds", PATIENCE, async || {
        objects(&lab.path("west")) == objects(&lab.path("east"))
    })
    .await;
    let target = lab.path("restored");
    let restore = v1::RestoreSpec {
        point: Some(v1::RestorePoint { point: Some(Point::Latest(true)) }),
        target: target.display().to_string(),
        recover: true,
        region: "west".to_owned(),
        ..Default::default()
    };
    let request = v1::RunRestoreRequest { source: "app".to_owned(), restore: Some(restore), ..Default::default() };
    let job = lab.desk().await.run_restore(request).await.unwrap().into_inner().jobs.remove(0);
    lab.succeeded(&job.id).await;
    assert_eq!(crate::sqlite::count(&target.join("app.db")), 3000);
}
