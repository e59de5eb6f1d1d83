//! A backup of file trees: the walk in batches, and at the end the account of what is not in it.

use std::path::PathBuf;
use std::sync::Arc;

use breakwater_core::Clock;
use breakwater_engine::{BackupEnd, BackupRequest, BackupSession, EngineError, EngineErrorKind, Entry};

use crate::engine::blocking;
use crate::facts::{Facts, RootFacts, generation};
use crate::judge::Judge;
use crate::look::Moment;
use crate::marker::{self, Marks};
use crate::roots::{self, own_directories};
use crate::settings::FilesSettings;
use crate::walk::Walk;

/// A listing in progress.
#[derive(Debug)]
pub(crate) struct FilesSession {
    /// Missing while a call is in progress, and after one that was given up.
    walk: Option<Walk>,
    roots: Vec<RootFacts>,
    before: Option<Facts>,
    generation: u64,
    began: Option<Moment>,
    scratch: PathBuf,
    clock: Arc<dyn Clock>,
}

impl FilesSession {
    /// Opens the roots and marks the clocks. Blocking.
    pub(crate) fn begin(
        settings: &FilesSettings,
        request: &BackupRequest,
        clock: Arc<dyn Clock>,
    ) -> Result<FilesSession, EngineError> {
        let judge = Judge::of(settings)?;
        let opened = roots::open(settings)?;
        let before = request.base.as_ref().and_then(|base| Facts::of_json(&base.facts).ok());
        let began = marker::now(&settings.scratch);
        let generation = match (&request.base, &before) {
            // The base is of another engine, or of a version that we cannot read: its stamps must not fit ours.
            (Some(_), None) => {
                began.map_or(u64::MAX, |(seconds, nanos)| seconds.unsigned_abs() ^ (u64::from(nanos) << 32))
            }
            _ => generation(before.as_ref(), began),
        };
        let shown = |root: &roots::OpenRoot| RootFacts {
            name: root.name.clone(),
            path: root.canonical.display().to_string(),
            entries: 0,
        };
        let facts = opened.iter().map(shown).collect();
        let own = own_directories(&settings.own);
        let walk = Walk::new(opened, judge, own, Marks::new(&settings.scratch), generation);
        let scratch = settings.scratch.clone();
        Ok(FilesSession { walk: Some(walk), roots: facts, before, generation, began, scratch, clock })
    }

    /// Directories that are empty and were not, as those of volumes that are not mounted.
    fn note_emptied(&mut self, walk: &mut Walk) {
        for root in &mut self.roots {
            root.entries = walk.findings.top.get(&root.name).copied().unwrap_or(0);
            let before = self.before.iter().flat_map(|facts| &facts.roots).find(|before| before.name == root.name);
            if let Some(before) = before.filter(|before| before.entries > 0 && root.entries == 0) {
                let reason = format!(
                    "{} is empty, but held {} entries at the last backup (hint: is its volume mounted?)",
                    root.path, before.entries
                );
                walk.findings.unreadable.note(root.name.clone().into_bytes(), reason);
            }
        }
    }
}

fn lost() -> EngineError {
    EngineError::new(EngineErrorKind::Internal, "the listing was left in the middle of a call, so it cannot go on")
}

#[async_trait::async_trait]
impl BackupSession for FilesSession {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let mut walk = self.walk.take().ok_or_else(lost)?;
        let (walk, entries) = blocking(move || {
            let mut entries = Vec::new();
            while entries.len() < limit {
                match walk.next() {
                    Some(entry) => entries.push(entry),
                    None => break,
                }
            }
            Ok((walk, entries))
        })
        .await?;
        self.walk = Some(walk);
        Ok(entries)
    }

    async fn finish(mut self: Box<Self>) -> Result<BackupEnd, EngineError> {
        let mut walk = self.walk.take().ok_or_else(lost)?;
        let scratch = self.scratch.clone();
        let ended = blocking(move || Ok(marker::now(&scratch))).await?;
        if walk.is_over() {
            self.note_emptied(&mut walk);
        }
        let warnings = walk.warnings();
        let findings = walk.findings;
        let facts = Facts {
            roots: self.roots,
            consistency: "file".to_owned(),
            generation: self.generation,
            began: self.began,
            ended,
            stamped: findings.stamped,
            unstamped: findings.unstamped,
            excluded: findings.account.counts(),
        };
        Ok(BackupEnd {
            entries: Vec::new(),
            range: None,
            consistent_at: self.clock.now(),
            facts: facts.to_json()?,
            warnings,
            unreadable: findings.unreadable,
        })
    }
}
