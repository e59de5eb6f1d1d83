//! What people write into the rules of a files source, and what programs put into a tree to be left out.

use std::path::{Path, PathBuf};

use breakwater_engine_files::{FilesSettings, Root, explain};
use breakwater_fuzz::{Bound, targets};

/// Compiling a pattern takes an automaton, whose size the library bounds.
const PATTERNS: Bound = Bound { base: 64 << 20, per_byte: 1 << 16 };

/// Rules and paths of people are short, and what is slow about longer ones is known: a rule is compiled, and every
/// directory of a path is looked at.
const LONGEST: usize = 200;

/// A tree that is there for the whole run of the tests.
fn tree() -> PathBuf {
    static TREE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let directory = TREE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory for a tree");
        std::fs::create_dir_all(directory.path().join("docs/cache")).expect("make a tree");
        std::fs::create_dir_all(directory.path().join("scratch")).expect("make a tree");
        for name in ["docs/a.log", "docs/keep.log", "docs/cache/x", "docs/rules"] {
            std::fs::write(directory.path().join(name), "x").expect("make a tree");
        }
        directory
    });
    directory.path().to_owned()
}

fn settings() -> FilesSettings {
    let root = Root::named_by_path(tree().join("docs")).expect("it has a name");
    let mut settings = FilesSettings::new("docs", vec![root], tree().join("scratch"));
    settings.defaults = false;
    settings
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn short(bytes: &[u8]) -> &[u8] {
    bytes.get(..LONGEST).unwrap_or(bytes)
}

/// Rules are read or refused with the line that is none; what they decide names a line that is there.
fn judge(rules: &str) {
    let mut settings = settings();
    settings.exclude = rules.lines().map(str::to_owned).collect();
    match explain(&settings, "docs/cache/x") {
        Ok(answer) => {
            let line = answer.line.unwrap_or(1) as usize;
            assert!((1..=settings.exclude.len().max(1)).contains(&line), "{answer:?}");
            assert!(answer.included || !answer.because.is_empty(), "{answer:?}");
        }
        Err(error) => assert!(error.what.contains("not a pattern") || error.what.contains("rules"), "{error}"),
    }
}

/// The same from a file, which need not be text.
fn judge_file(bytes: &[u8]) {
    let path: &Path = &tree().join("docs/rules");
    std::fs::write(path, bytes).expect("write the rules");
    let mut settings = settings();
    settings.exclude_from = vec![path.to_owned()];
    let answer = explain(&settings, "docs/keep.log");
    if std::str::from_utf8(bytes).is_err() {
        let error = answer.expect_err("what is no text is refused, not passed over");
        assert!(error.what.contains("rules"), "{error}");
    }
}

/// Whatever a tag says, it excludes the directory only with the signature at its head.
fn tag(bytes: &[u8]) {
    std::fs::write(tree().join("docs/cache/CACHEDIR.TAG"), bytes).expect("write the tag");
    let answer = explain(&settings(), "docs/cache/x").expect("nothing is wrong with a tag");
    let signed = bytes.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55");
    assert_eq!(answer.included, !signed, "{answer:?}");
    std::fs::remove_file(tree().join("docs/cache/CACHEDIR.TAG")).expect("remove the tag");
}

/// A path that people ask about is answered for, or refused: never by looking outside of the root.
fn ask(path: &str) {
    if let Ok(answer) = explain(&settings(), path) {
        assert!(answer.path.split('/').all(|part| part != "..") && answer.path.starts_with("docs"), "{answer:?}");
    }
}

targets! {
    rules_of_a_source(
        vec![b"*.log\n!keep.log\n/cache/\n".to_vec(), b"**/[a-z]?x\\ \n#no\n\\#yes\n{a,b}/**\n".to_vec()],
        PATTERNS,
        |bytes| judge(&text(short(bytes)))
    );
    files_of_rules(vec![b"# comment\n\n*.log\n!keep.log\n".to_vec(), b"\xFF\xFE".to_vec()], PATTERNS, |bytes| judge_file(short(bytes)));
    tags_of_caches(
        vec![b"Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n".to_vec()],
        Bound::SMALL,
        |bytes| tag(bytes)
    );
    paths_to_explain(
        vec![b"docs/cache/x".to_vec(), b"docs/../../etc/passwd".to_vec(), b"/etc/passwd".to_vec(), b"docs/a\0b".to_vec()],
        Bound::SMALL,
        |bytes| ask(&text(short(bytes)))
    );
}
