//! Either side may end at any moment: jobs run once, and their results arrive.
//!
//! A lock that the test holds on the database keeps a backup running for as long as a test needs.

use breakwater_agent::session::LinkState;
use breakwater_proto::v1;
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
