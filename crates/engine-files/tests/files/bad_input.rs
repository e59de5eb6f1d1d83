//! Sources that cannot be read, or only in part.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use breakwater_engine::{Engine as _, EngineErrorKind, Severity};
use breakwater_engine_files::Root;

use crate::kit::Lab;

#[tokio::test]
async fn roots_that_are_not_directories_are_refused_by_name() {
    let lab = Lab::new();
    std::fs::write(lab.root("docs").join("file"), "x").unwrap();
    let refused = async |names: &[&str], kind: EngineErrorKind, expected: &str| {
        let settings = lab.settings(names);
        let error = lab.begin(&settings, None).await.err().unwrap_or_else(|| panic!("{names:?} is refused"));
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint.is_some(), "{error}");
    };
    refused(&["none"], EngineErrorKind::NotFound, "/none").await;
    refused(&["docs/file"], EngineErrorKind::Invalid, "not a directory").await;
    refused(
        &["docs", "other/docs"],
        EngineErrorKind::Invalid,
        "two directories of the source would be shown as `docs`",
    )
    .await;
    refused(&[], EngineErrorKind::Invalid, "names no directory").await;
    lab.root("docs/inner");
    refused(&["docs", "docs/inner"], EngineErrorKind::Invalid, "lies in").await;
    // The agent's own spool, and a region of a repository.
    std::fs::create_dir(lab.scratch.join("spool")).unwrap();
    refused(&["agent"], EngineErrorKind::Refused, "belongs to this agent").await;
    refused(&["agent/spool"], EngineErrorKind::Refused, "belongs to this agent").await;
    lab.root("region/repo");
    lab.root("region/data/x");
    std::fs::write(lab.path().join("region/repo/descriptor"), "x").unwrap();
    refused(&["region"], EngineErrorKind::Refused, "lies in a region of a repository").await;
    refused(&["region/data/x"], EngineErrorKind::Refused, "lies in a region of a repository").await;

    let findings = lab.engine(&lab.settings(&["none"])).probe().await.unwrap().findings;
    assert_eq!(findings[0].severity, Severity::Blocking);
    assert!(findings[0].what.contains("/none"), "{findings:?}");
}

#[tokio::test]
async fn the_agents_own_directory_within_a_root_is_left_out() {
    let lab = Lab::new();
    std::fs::write(lab.scratch.join("key"), "secret").unwrap();
    std::fs::write(lab.path().join("f"), "x").unwrap();
    let mut settings = lab.settings(&[]);
    settings.roots = vec![Root { name: "all".to_owned(), path: lab.path().to_owned() }];
    let taken = lab.take(&settings, None).await;
    assert_eq!(taken.paths(), ["all", "all/f"]);
    assert_eq!(taken.excluded("the agent's own directory"), 1);
}

#[tokio::test]
async fn a_root_that_is_empty_and_was_not_makes_the_backup_partial() {
    let lab = Lab::new();
    let root = lab.root("docs");
    std::fs::write(root.join("f"), "x").unwrap();
    let settings = lab.settings(&["docs"]);
    let full = lab.take(&settings, None).await;
    assert_eq!(full.end.unreadable.count, 0);
    std::fs::remove_file(root.join("f")).unwrap();
    let empty = lab.take(&settings, Some(&full)).await;
    assert_eq!(empty.end.unreadable.count, 1);
    assert!(empty.end.unreadable.paths[0].reason.contains("is its volume mounted"));
    let again = lab.take(&settings, Some(&empty)).await;
    assert_eq!(again.end.unreadable.count, 0, "said once");
}

/// Root may read everything, so the test runs itself as somebody who may not.
#[test]
fn what_may_not_be_read_is_reported_and_the_rest_is_backed_up() {
    const INNER: &str = "BREAKWATER_TEST_UNREADABLE";
    if let Some(path) = std::env::var_os(INNER) {
        return unreadable(PathBuf::from(path));
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // A copy, since the directory of the test's program may be closed to others.
    let program = directory.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let name = "bad_input::what_may_not_be_read_is_reported_and_the_rest_is_backed_up";
    let mut command = std::process::Command::new(&program);
    command.args(["--exact", name, "--nocapture"]).env(INNER, directory.path()).current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn unreadable(directory: PathBuf) {
    assert!(!rustix::process::geteuid().is_root());
    let root = directory.join("docs");
    std::fs::create_dir_all(root.join("closed")).unwrap();
    std::fs::write(root.join("closed/f"), "x").unwrap();
    std::fs::write(root.join("secret"), "x").unwrap();
    std::fs::write(root.join("open"), "x").unwrap();
    let close = |name: &str, mode| {
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    close("secret", 0);
    close("closed", 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let lab = Lab::new();
        let mut settings = lab.settings(&[]);
        settings.roots = vec![Root::named_by_path(&root).unwrap()];
        let taken = lab.take(&settings, None).await;
        assert_eq!(taken.paths(), ["docs", "docs/closed", "docs/open", "docs/secret"]);
        assert_eq!(taken.end.unreadable.count, 1);
        assert_eq!(taken.end.unreadable.paths[0].path, b"docs/closed");
        assert!(taken.end.unreadable.paths[0].reason.contains("denied"), "{:?}", taken.end.unreadable);
        let error = taken.content("docs/secret").unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Denied, "{error}");
        assert_eq!(taken.content("docs/open").unwrap(), b"x");
        let probe = lab.engine(&settings).probe().await.unwrap();
        assert!(probe.is_ready() && probe.findings.iter().any(|finding| finding.what.contains("docs/closed")));
    });
    close("closed", 0o700);
}
