//! Many runs into one, in the memory of a few pages of each.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::entry::Entry;
use super::run::{Run, RunReader, RunWriter};

/// Merges `runs`, oldest first. Of entries with one half the newest stays. Runs that are lost are left out.
pub(super) fn merge(dir: &Path, runs: &[Arc<Run>]) -> io::Result<Run> {
    let mut writer = RunWriter::new(dir)?;
    let mut heads: Vec<(Entry, RunReader<'_>)> = Vec::new();
    for run in runs.iter().filter(|run| !run.is_lost()) {
        let mut reader = run.reader();
        if let Some(entry) = reader.next()? {
            heads.push((entry, reader));
        }
    }
    while let Some(least) = heads.iter().map(|(entry, _)| entry.half).min() {
        let newest = heads.iter().rev().find(|(entry, _)| entry.half == least);
        if let Some((entry, _)) = newest {
            writer.push(entry)?;
        }
        let mut at = 0;
        while let Some((entry, reader)) = heads.get_mut(at) {
            if entry.half != least {
                at += 1;
                continue;
            }
            match reader.next()? {
                Some(next) => {
                    *entry = next;
                    at += 1;
                }
                None => drop(heads.remove(at)),
            }
        }
    }
    writer.finish()
}
