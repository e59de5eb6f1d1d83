//! The kit's hold on programs.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::path::Path;
use std::time::Duration;

use breakwater_testkit::process::Program;
use breakwater_testkit::wait;

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script])
}

#[tokio::test]
async fn output_and_status_are_seen() {
    let finished = shell("echo out; echo err >&2; exit 7").env("X", "1").run().await.unwrap();
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str(), finished.code().unwrap()), ("out\n", "err\n", 7));
    let message = finished.clone().success().unwrap_err().to_string();
    assert!(message.contains("err") && message.contains("7"), "{message}");
    assert_eq!(finished.failure(7).unwrap(), "err\n");
    assert!(shell("exit 3").run().await.unwrap().failure(4).is_err());
    assert_eq!(shell("echo '{\"a\": 1}'").run().await.unwrap().json().unwrap()["a"], 1);
    let slow = shell("sleep 60").time_limit(Duration::from_millis(100)).run().await;
    assert!(slow.unwrap_err().to_string().contains("did not end within"));
}

#[tokio::test]
async fn lines_signals_and_death_of_the_whole_group() {
    let mut program = shell("sleep 300 & echo child $!; trap 'echo bye; exit 5' TERM; wait").start("group").unwrap();
    let line = program.wait_for_line("child", SOON).await;
    let child = line.strip_prefix("child ").unwrap().to_owned();
    let alive = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    assert!(alive(&child));
    program.freeze().unwrap();
    let state = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    wait::until_true("the frozen state", SOON, async || state(program.pid()).contains(") T ")).await;
    program.thaw().unwrap();
    assert_eq!(program.terminate(SOON).await.unwrap().code(), Some(5));
    assert_eq!(program.stdout().lines().last(), Some("bye"));
    assert!(alive(&child), "SIGTERM went to the program alone");
    drop(program);
    wait::until_true("the child's death", SOON, async || !alive(&child)).await;

    let mut program = shell("echo up; exec sleep 300").start("sleeper").unwrap();
    program.wait_for_line("up", SOON).await;
    program.kill9().await.unwrap();
    assert!(program.kill9().await.is_err(), "it is dead already");
}

#[tokio::test]
#[should_panic(expected = "without a line with `never`")]
async fn an_early_end_is_not_waited_out() {
    shell("echo something").start("short").unwrap().wait_for_line("never", Duration::from_secs(600)).await;
}

#[tokio::test]
async fn files_stop_growing_at_the_limit() {
    let dir = breakwater_testkit::dirs::temp_dir("limit").unwrap();
    let file = dir.path().join("file");
    let program = Program::new("/bin/dd").args(["if=/dev/zero", "bs=1000", "count=100"]);
    let program = program.arg(format!("of={}", file.display()));
    let refused = program.clone().file_size_limit(50_000).run().await.unwrap().failure(1).unwrap();
    assert!(refused.contains("File too large"), "{refused}");
    assert_eq!(size(&file), 50_000);
    program.run().await.unwrap().success().unwrap();
    assert_eq!(size(&file), 100_000);
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}
