//! Whether a source of files can be protected, and how large it is, roughly.

use std::os::fd::AsFd as _;

use breakwater_engine::{Capabilities, EngineError, EngineErrorKind, Entry, EntryKind, Finding, Probe, Severity};

use crate::judge::Judge;
use crate::marker::Marks;
use crate::roots::{self, OpenRoot, own_directories};
use crate::settings::FilesSettings;
use crate::walk::Walk;

/// Entries that a probe looks at: a look around, not a backup.
const ENTRIES: u64 = 50_000;

/// Bytes of a page: files are cut by their content, so this only says that any extent will do.
const PAGE: u32 = 4096;

pub(crate) fn probe(settings: &FilesSettings) -> Result<Probe, EngineError> {
    roots::check_names(&settings.roots)?;
    let judge = Judge::of(settings)?;
    let mut findings = Vec::new();
    for root in &settings.roots {
        if let Err(error) = roots::open_one(root, &settings.own) {
            if error.kind == EngineErrorKind::Unreachable {
                return Err(error);
            }
            findings.push(blocking(&error));
        }
    }
    let mut size_bytes = 0;
    if findings.is_empty() {
        match roots::open(settings) {
            Ok(opened) => size_bytes = look_around(settings, judge, opened, &mut findings),
            Err(error) => findings.push(blocking(&error)),
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    let paths: Vec<String> = settings.roots.iter().map(|root| root.path.display().to_string()).collect();
    Ok(Probe {
        identity: format!("files:{}", settings.source),
        version: format!("Linux {}", kernel()),
        data_directory: paths.join(", "),
        size_bytes,
        capabilities: Capabilities { stream: false, parallel: true, page_size: PAGE, needs_recovery: false },
        findings,
    })
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn blocking(error: &EngineError) -> Finding {
    let because = error.source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
    Finding {
        severity: Severity::Blocking,
        what: format!("{}{because}", error.what),
        next_step: error.hint.clone().unwrap_or_default(),
        lines: Vec::new(),
    }
}

/// Walks a part of the source, at most. Answers the bytes found, or, when there is more, those in use on the file systems.
fn look_around(settings: &FilesSettings, judge: Judge, opened: Vec<OpenRoot>, findings: &mut Vec<Finding>) -> u64 {
    let used: u64 = opened.iter().map(used).max().unwrap_or(0);
    let mut walk = Walk::new(opened, judge, own_directories(&settings.own), Marks::new(&settings.scratch), 0);
    let (mut bytes, mut entries) = (0u64, 0);
    while entries < ENTRIES {
        let Some(Entry { kind, .. }) = walk.next() else { break };
        entries += 1;
        if let EntryKind::File { size, .. } = kind {
            bytes = bytes.saturating_add(size);
        }
    }
    let finding = |severity, what: String, next_step: &str| Finding {
        severity,
        what,
        next_step: next_step.to_owned(),
        lines: Vec::new(),
    };
    let unreadable = &walk.findings.unreadable;
    if let Some(first) = unreadable.paths.first() {
        findings.push(finding(
            Severity::Warning,
            format!("{} paths cannot be read, such as {}: {}", unreadable.count, first.path.escape_ascii(), first.reason),
            "give the agent's user the right to read them (or CAP_DAC_READ_SEARCH), or exclude them: every backup is partial \
             until then",
        ));
    }
    for warning in walk.warnings() {
        findings.push(finding(Severity::Info, warning, ""));
    }
    if walk.is_over() {
        return bytes;
    }
    findings.push(finding(
        Severity::Info,
        format!("more than {ENTRIES} entries: the size is that of all that is in use on the file system"),
        "",
    ));
    used.max(bytes)
}

fn used(root: &OpenRoot) -> u64 {
    let Ok(answer) = rustix::fs::fstatvfs(root.directory.as_fd()) else { return 0 };
    answer.f_blocks.saturating_sub(answer.f_bfree).saturating_mul(answer.f_frsize)
}
