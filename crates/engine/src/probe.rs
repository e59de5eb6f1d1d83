//! What a source is, what it can do, and what stands in the way of protecting it.

use serde::{Deserialize, Serialize};

/// The answer of a probe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// What makes this source itself (PostgreSQL: the system identifier; SQLite: the file's canonical path). A source
    /// that answers with another identity later is refused.
    pub identity: String,
    /// The server's or library's version, as it prints it.
    pub version: String,
    /// Where the data lies on this host.
    pub data_directory: String,
    /// Bytes on disk now; what a full read will see, roughly.
    pub size_bytes: u64,
    /// What can be done with this source.
    pub capabilities: Capabilities,
    /// What was found, worst first.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Whether nothing stands in the way.
    pub fn is_ready(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Blocking)
    }
}

/// Capabilities as values: planning asks these, never the engine's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// There is a continuous log, so any moment can be restored.
    pub stream: bool,
    /// Entries may be read by several threads.
    pub parallel: bool,
    /// The bytes of one page; extents are multiples of it.
    pub page_size: u32,
    /// A restored directory has to be replayed by the database's own program to become consistent.
    pub needs_recovery: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Protection is impossible until this is mended.
    Blocking,
    /// Protection works with the named restriction.
    Warning,
    /// Worth knowing.
    Info,
}

/// One thing a probe found, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, naming the setting or right.
    pub what: String,
    /// The next step, in words.
    pub next_step: String,
    /// Exact lines to paste: SQL, `pg_hba.conf` or settings.
    pub lines: Vec<String>,
}
