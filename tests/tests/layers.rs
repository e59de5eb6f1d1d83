//! Dependencies point downwards, pure code stays pure, concrete engines are named in one place, and nothing is unsafe.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate may depend on, besides crates from outside. `*` is everything, `!x` takes one out of that. Every package has a
/// row; a new edge needs its reason in `docs/decisions/`. Dev-dependencies are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("runtime", &["core"]),
    ("crypto", &["core"]),
    ("chunker", &["core", "crypto"]),
    ("kms", &["core", "crypto"]),
    ("storage", &["core", "runtime"]),
    ("storage-s3", &["core", "runtime", "storage"]),
    ("storage-azure", &["core", "runtime", "storage"]),
    ("storage-gcs", &["core", "runtime", "storage"]),
    ("storage-sftp", &["core", "runtime", "storage"]),
    ("engine", &["core"]),
    ("repository", &["core", "runtime", "crypto", "storage"]),
    ("planner", &["core"]),
    ("state", &["core", "runtime"]),
    ("engine-postgres", &["core", "runtime", "engine"]),
    ("engine-sqlite", &["core", "runtime", "engine"]),
    ("engine-files", &["core", "engine"]),
    ("pipeline", &["core", "runtime", "crypto", "storage", "repository", "engine", "chunker"]),
    ("proto", &["core"]),
    ("testkit", &["core"]),
    ("agent", &["*", "!controller", "!brctl", "!state"]),
    ("controller", &["core", "runtime", "proto", "state", "planner"]),
    ("brctl", &["*"]),
    ("tests", &["*"]),
    ("fuzz", &["*"]),
    ("benches", &["*"]),
];

/// Crates that may be used by tests only.
const DEV_ONLY: &[&str] = &["testkit", "tests", "fuzz", "benches"];

/// Where no code may wait, read a clock, draw randomness or open a connection: whoever calls passes these in.
const PURE: &[&str] = &[
    "crates/core/src",
    "crates/crypto/src",
    "crates/chunker/src",
    "crates/planner/src",
    "crates/repository/src/format",
];
const IMPURE_WORDS: &[&str] =
    &["tokio", "std::net", "SystemTime::now", "Instant::now", "getrandom", "OffsetDateTime::now", "std::thread"];
const IMPURE_CRATES: &[&str] = &["tokio", "tonic", "getrandom", "rand", "rustix", "hyper"];

/// Only `wiring.rs` of a program, and tests, may name these.
const CONCRETE: &[(&str, &str)] = &[
    ("breakwater_engine_postgres", "crates/engine-postgres"),
    ("breakwater_engine_sqlite", "crates/engine-sqlite"),
    ("breakwater_engine_files", "crates/engine-files"),
    ("breakwater_storage_s3", "crates/storage-s3"),
    ("breakwater_storage_azure", "crates/storage-azure"),
    ("breakwater_storage_gcs", "crates/storage-gcs"),
    ("breakwater_storage_sftp", "crates/storage-sftp"),
    ("breakwater_kms::aws", "crates/kms"),
    ("breakwater_kms::azure", "crates/kms"),
    ("breakwater_kms::gcp", "crates/kms"),
    ("breakwater_kms::pkcs11", "crates/kms"),
    ("breakwater_kms::vault", "crates/kms"),
];

/// Why the edge from one crate to another must not be, if so.
fn edge_fault(from: &str, to: &str, dev: bool) -> Option<String> {
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == from) else {
        return Some(format!("the crate `{from}` has no row in ALLOWED of tests/tests/layers.rs"));
    };
    if dev {
        return None;
    }
    if DEV_ONLY.contains(&to) && !DEV_ONLY.contains(&from) {
        return Some(format!("`{from}` depends on `{to}`, which is for tests: make it a dev-dependency"));
    }
    let listed = allowed.contains(&to);
    let by_star = allowed.contains(&"*") && !allowed.iter().any(|entry| entry.strip_prefix('!') == Some(to));
    (!listed && !by_star).then(|| {
        format!(
            "`{from}` depends on `{to}`, which is not below it\nhint: if that is right, add it to ALLOWED in \
             tests/tests/layers.rs and write the reason into docs/decisions/"
        )
    })
}

/// The code of a file: without comments of their own line, and without its unit tests, which reach from `#[cfg(test)] mod tests {`
/// to the next brace at the margin.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let (mut code, mut in_tests, mut before) = (Vec::new(), false, "");
    for (index, line) in text.lines().enumerate() {
        in_tests |= before == "#[cfg(test)]" && line.starts_with("mod ") && line.ends_with('{');
        if !in_tests && !line.trim().starts_with("//") {
            code.push((index + 1, line));
        }
        in_tests &= line != "}";
        before = line;
    }
    code
}

fn impure_word(line: &str) -> Option<&'static str> {
    IMPURE_WORDS.iter().copied().find(|word| line.contains(word))
}

fn is_unsafe(line: &str) -> bool {
    let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let quoted = line.contains("\"unsafe") || line.contains("`unsafe");
    (words.any(|word| word == "unsafe") && !quoted) || line.contains("allow(unsafe_code")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every Rust file of the workspace with its path from the root.
fn sources() -> Vec<(String, String)> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                let built = name.starts_with("target") || path.join("CACHEDIR.TAG").exists();
                if !built && !name.starts_with('.') {
                    walk(root, &path, found);
                }
            } else if name.ends_with(".rs") {
                let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((relative, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&workspace(), &workspace(), &mut found);
    assert!(found.iter().any(|(path, _)| path == "tests/tests/layers.rs"), "this file must be among the sources");
    found
}

/// Name and dependencies (name, whether for tests only) of each package of the workspace.
fn packages() -> Vec<(String, Vec<(String, bool)>)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let dependencies = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.map(|edge| (edge["name"].as_str().unwrap().to_owned(), edge["kind"] == "dev")).collect()
    };
    packages.iter().map(|package| (package["name"].as_str().unwrap().to_owned(), dependencies(package))).collect()
}

fn short(package: &str) -> &str {
    package.strip_prefix("breakwater-").unwrap_or(package)
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn dependencies_point_downwards() {
    let mut faults = Vec::new();
    let packages = packages();
    assert!(packages.len() >= ALLOWED.len(), "cargo shows too few packages: {}", packages.len());
    for (package, dependencies) in &packages {
        let from = short(package);
        for (dependency, dev) in dependencies {
            if let Some(to) = dependency.strip_prefix("breakwater-") {
                faults.extend(edge_fault(from, to, *dev));
            }
            if ["core", "crypto", "planner"].contains(&from) && !dev && IMPURE_CRATES.contains(&dependency.as_str()) {
                faults.push(format!("`{from}` is pure and depends on `{dependency}`"));
            }
        }
    }
    report(&faults);
}

#[test]
fn pure_code_stays_pure() {
    let mut faults = Vec::new();
    let mut seen = [false; PURE.len()];
    for (path, text) in sources() {
        let Some(index) = PURE.iter().position(|prefix| path.starts_with(prefix)) else { continue };
        seen[index] = true;
        for (number, line) in code_lines(&text) {
            if let Some(word) = impure_word(line) {
                faults.push(format!("{path}:{number}: `{word}` in pure code; let the caller pass it in"));
            }
        }
    }
    for (prefix, seen) in PURE.iter().zip(seen) {
        if !seen {
            faults.push(format!("no source lies under {prefix}: correct PURE in tests/tests/layers.rs"));
        }
    }
    report(&faults);
}

#[test]
fn concrete_engines_are_named_by_wiring_alone() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if path.ends_with("/wiring.rs") || path.contains("tests/") {
            continue;
        }
        for (name, home) in CONCRETE {
            for (number, line) in code_lines(&text) {
                if line.contains(name) && !path.starts_with(home) {
                    faults.push(format!(
                        "{path}:{number}: `{name}` is for a wiring.rs; use the contract of the crate `engine`"
                    ));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn nothing_is_unsafe() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if path == "tests/tests/layers.rs" {
            continue;
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().starts_with("//")) {
            if is_unsafe(line) {
                faults.push(format!("{path}:{}: unsafe code", number + 1));
            }
        }
    }
    for manifest in ["crates/core/Cargo.toml", "agent/Cargo.toml", "controller/Cargo.toml", "brctl/Cargo.toml"] {
        let text = std::fs::read_to_string(workspace().join(manifest)).unwrap();
        if !text.contains("[lints]\nworkspace = true") {
            faults.push(format!("{manifest}: does not take the lints of the workspace"));
        }
    }
    report(&faults);
}

/// The rules themselves, on things that must be refused and things that must pass.
#[test]
fn the_rules_can_fail() {
    for (from, to) in [("core", "runtime"), ("crypto", "storage"), ("agent", "state"), ("controller", "repository")] {
        let fault = edge_fault(from, to, false).unwrap();
        assert!(fault.contains(from) && fault.contains(to) && fault.contains("docs/decisions/"), "{fault}");
    }
    assert!(edge_fault("brctl", "testkit", false).unwrap().contains("dev-dependency"));
    assert!(edge_fault("novelty", "core", false).unwrap().contains("no row"));
    for (from, to, dev) in [
        ("core", "testkit", true),
        ("tests", "testkit", false),
        ("agent", "pipeline", false),
        ("pipeline", "engine", false),
    ] {
        assert_eq!(edge_fault(from, to, dev), None);
    }

    assert_eq!(impure_word("    let now = SystemTime::now();"), Some("SystemTime::now"));
    assert_eq!(impure_word("use tokio::sync;"), Some("tokio"));
    assert_eq!(impure_word("fn now(&self) -> Timestamp;"), None);
    let text = "// tokio\nlet a = 1;\n\n#[cfg(test)]\nmod tests {\nuse tokio;\n}\nuse tokio;\n";
    let impure: Vec<usize> =
        code_lines(text).iter().filter(|(_, line)| impure_word(line).is_some()).map(|(number, _)| *number).collect();
    assert_eq!(impure, [8], "neither the comment nor the unit test, but what comes after them");

    for line in ["unsafe { x() }", "pub unsafe fn f()", "#![allow(unsafe_code)]", "unsafe impl Send for X {}"] {
        assert!(is_unsafe(line), "{line}");
    }
    for line in ["let unsafely = 1;", "unsafe_code = \"deny\"", "#![deny(unsafe_code)]"] {
        assert!(!is_unsafe(line), "{line}");
    }
}
