//! What is left out, how it is reported, and how it is explained.

use breakwater_engine_files::{Explanation, explain};

use crate::kit::Lab;

fn tree(lab: &Lab) {
    let root = lab.root("docs");
    for directory in ["a/cache", "a/keep", "build/out", "photos", "region/repo", "region/meta", "agent-like"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in
        ["a/app.log", "a/text", "a/cache/x", "a/keep/important.log", "build/out/o", "photos/CACHEDIR.TAG", "photos/p"]
    {
        std::fs::write(root.join(file), "0123456789").unwrap();
    }
    std::fs::write(root.join("photos/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n")
        .unwrap();
    std::fs::write(root.join("region/repo/descriptor"), "x").unwrap();
    std::fs::write(root.join("region/meta/y"), "x").unwrap();
    std::fs::write(root.join("huge"), vec![1; 20_000]).unwrap();
}

#[tokio::test]
async fn whatever_is_left_out_is_counted_under_its_rule() {
    let lab = Lab::new();
    tree(&lab);
    let mut settings = lab.settings(&["docs"]);
    settings.exclude = vec!["/build/".to_owned()];
    settings.include = vec!["important.log".to_owned()];
    settings.max_file_size = Some(10_000);
    let taken = lab.take(&settings, None).await;
    assert_eq!(
        taken.paths(),
        [
            "docs",
            "docs/a",
            "docs/a/keep",
            "docs/a/keep/important.log",
            "docs/a/text",
            "docs/agent-like",
            "docs/photos",
            "docs/photos/CACHEDIR.TAG",
            "docs/region"
        ]
    );
    assert_eq!(taken.excluded("`*.log` (defaults, line 1)"), 1);
    assert_eq!(taken.excluded("`cache/` (defaults"), 1);
    assert_eq!(taken.excluded("`/build/` (exclude, line 1)"), 1);
    assert_eq!(taken.excluded("CACHEDIR.TAG"), 1);
    assert_eq!(taken.excluded("a region of a repository"), 1);
    assert_eq!(taken.excluded("larger than maxFileSize"), 1);
    let warnings = taken.end.warnings.join("\n");
    assert!(warnings.contains("default set: 2 entries"), "{warnings}");
    assert!(warnings.contains("a region of a repository: 1 entries, such as docs/region"), "{warnings}");
    assert!(!warnings.contains("build"), "what was asked for is no warning: {warnings}");

    settings.defaults = false;
    settings.cache_tags = false;
    let taken = lab.take(&settings, None).await;
    for path in ["docs/a/app.log", "docs/a/cache/x", "docs/photos/p"] {
        assert!(taken.entries.contains_key(path), "{path}");
    }
}

#[tokio::test]
async fn explain_names_the_rule_and_agrees_with_the_backup() {
    let lab = Lab::new();
    tree(&lab);
    let mut settings = lab.settings(&["docs"]);
    settings.exclude = vec!["/build/".to_owned()];
    settings.include = vec!["important.log".to_owned()];
    settings.max_file_size = Some(10_000);
    let ask = |path: &str| -> Explanation { explain(&settings, path).unwrap() };

    let log = ask("docs/a/app.log");
    assert!(!log.included && log.exists);
    assert_eq!((log.file.as_deref(), log.line, log.pattern.as_deref()), (Some("defaults"), Some(1), Some("*.log")));
    let deep = ask(&lab.path().join("docs/build/out/o").display().to_string());
    assert_eq!((deep.included, deep.decided_at.as_str()), (false, "docs/build"));
    assert_eq!(deep.because, "`/build/` (exclude, line 1)");
    let kept = ask("docs/a/keep/important.log");
    assert!(kept.included && kept.because.contains("taken back by `important.log` (include, line 1)"), "{kept:?}");
    assert_eq!(ask("docs/huge").because, "larger than maxFileSize");
    assert_eq!(ask("docs/photos/p").because, "CACHEDIR.TAG");
    assert!(ask("docs/photos/CACHEDIR.TAG").included && ask("docs/photos").included);
    assert_eq!(ask("docs/region/meta/y").because, "a region of a repository");
    let missing = ask("docs/not/there.log");
    assert!(!missing.exists && !missing.included);
    let missing = ask("docs/not/there.txt");
    assert!(!missing.exists && missing.included);
    assert!(!ask("docs/none/cache/").included && ask("docs/none/cache").included);

    assert!(explain(&settings, "/etc/passwd").unwrap_err().what.contains("no directory of source `lab`"));
    assert!(explain(&settings, "docs/../x").is_err());

    // For every path that is there: explained as included exactly when the backup has it.
    let taken = lab.take(&settings, None).await;
    let mut waiting = vec![lab.path().join("docs")];
    while let Some(path) = waiting.pop() {
        let shown = path.strip_prefix(lab.path()).unwrap().to_str().unwrap().to_owned();
        let answer = ask(&shown);
        assert_eq!(answer.included, taken.entries.contains_key(&shown), "{answer:?}");
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}
