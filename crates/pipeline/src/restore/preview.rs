//! What a restore onto an existing directory would fetch. Changes nothing.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use breakwater_repository::format::tree::TreeKind;
use breakwater_repository::{ObjectName, PackId};
use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::attributes::{Dresser, Metadata};
use super::delta::Part;
use super::fetch::whole_class;
use super::owners::Owners;
use super::shortfall::Shortfalls;
use super::target::{Namer, Target};
use super::window::Window;
use super::{RestoreJob, Source, onto};
use crate::PipelineError;
use crate::frames::{LeafReader, leaves_of};

/// What a delta restore finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeltaPreview {
    /// Files that are right.
    pub files_kept: u64,
    /// Files that are missing or differ.
    pub files_changed: u64,
    /// Bytes of files that are right.
    pub bytes_kept: u64,
    /// Bytes of files that have to be written.
    pub bytes_changed: u64,
    /// Bytes that would be fetched from regions, gaps between neighbours not counted.
    pub bytes_fetched: u64,
}

/// Compares what the target holds with the snapshot.
pub async fn preview_delta(job: &RestoreJob) -> Result<DeltaPreview, PipelineError> {
    let entrance = job.entrance().await?;
    let source = Source::of(job).await?;
    let survey = source.survey(job).await?;
    if entrance.existing {
        onto::check_conflicts(&job.target, &survey, &entrance, source.tree()).await?;
    }
    let target = if entrance.existing { Some(open(job)?) } else { None };
    let mut preview = DeltaPreview::default();
    let mut fetched: HashSet<(PackId, u32)> = HashSet::new();
    let mut leaves = LeafReader::new(Arc::clone(&source.structure));
    let writers = TaskTracker::new();
    let mut tree = source.tree();
    while let Some(mut entry) = tree.next().await? {
        if job.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        if !survey.takes(&entry) {
            continue;
        }
        let metadata = Metadata::of(&mut entry);
        let TreeKind::File { size, extent, leaves: parts } = entry.kind else { continue };
        let (mut offset, mut whole, parts_of_file) = (0, true, parts.len());
        let mut nothing = parts_of_file == 0;
        let mut rest = parts.iter();
        let mut number = 0;
        while let Some(part) = rest.next() {
            number += 1;
            let mut window = Window::default();
            window.file(entry.path.clone(), metadata.clone(), size, entry.last, number == 1);
            let next = rest.clone().chain(leaves_of(tree.at_hand().filter(|entry| survey.takes(entry))));
            for extent_found in leaves.extents(part, next).await? {
                window.extent(offset, &extent_found, whole_class(extent));
                offset += u64::from(extent_found.plain());
            }
            let (content, target) = (Arc::clone(&source.content), target.clone());
            let looking =
                writers.spawn_blocking(move || look(&window, target.as_deref(), &content).map(|kept| (window, kept)));
            let looked = looking.await;
            let looked = looked.map_err(|error| PipelineError::Defect(format!("a thread of a preview: {error}")))?;
            let (window, (kept, is_whole)) = looked?;
            whole &= is_whole;
            for (destination, kept) in window.destinations.iter().zip(kept) {
                let length = u64::from(destination.length);
                if kept {
                    preview.bytes_kept += length;
                    continue;
                }
                preview.bytes_changed += length;
                let location = &destination.location;
                if fetched.insert((location.pack, location.offset)) {
                    preview.bytes_fetched += location.range().end - location.range().start;
                }
            }
        }
        if nothing {
            let path = job.target.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&entry.path));
            nothing = path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == size);
            whole = nothing;
        }
        *(if whole { &mut preview.files_kept } else { &mut preview.files_changed }) += 1;
    }
    Ok(preview)
}

/// The packs of content that the chosen files need, as the snapshot names them.
pub async fn needed_packs(job: &RestoreJob) -> Result<BTreeSet<ObjectName>, PipelineError> {
    let source = Source::of(job).await?;
    let survey = source.survey(job).await?;
    let mut leaves = LeafReader::new(Arc::clone(&source.structure));
    let mut packs = BTreeSet::new();
    let mut tree = source.tree();
    while let Some(entry) = tree.next().await? {
        if job.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        if !survey.takes(&entry) {
            continue;
        }
        let TreeKind::File { extent, leaves: parts, .. } = entry.kind else { continue };
        let mut rest = parts.iter();
        while let Some(part) = rest.next() {
            let next = rest.clone().chain(leaves_of(tree.at_hand().filter(|entry| survey.takes(entry))));
            for found in leaves.extents(part, next).await? {
                let frames = found.frames(whole_class(extent));
                packs.extend(frames.map(|(_, frame)| source.content.name(frame.pack)));
            }
        }
    }
    Ok(packs)
}

/// Which destinations of the window's one file are there, and whether nothing else has to be done.
fn look(
    window: &Window,
    target: Option<&Target>,
    content: &super::content::Content,
) -> Result<(Vec<bool>, bool), PipelineError> {
    let none = || (vec![false; window.destinations.len()], false);
    let (Some(target), Some(file)) = (target, window.files.first()) else { return Ok(none()) };
    let part = Part { file, destinations: &window.destinations, zeros: &window.zeros, target, content };
    match part.look() {
        Ok(compared) => Ok((compared.kept, compared.whole)),
        // Its directory is not there, or no directory.
        Err(PipelineError::Io { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
                || source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) =>
        {
            Ok(none())
        }
        Err(error) => Err(error),
    }
}

fn open(job: &RestoreJob) -> Result<Arc<Target>, PipelineError> {
    let namer = Namer { suite: job.repository.suite(), key: job.repository.id_key_of(job.manifest.source.uid).clone() };
    let owners = Owners::new(job.owner, Path::new("/etc"));
    let dresser = Dresser { owners, shortfalls: Shortfalls::default(), default_owner: None };
    Target::open(&job.target, dresser, namer, true).map(Arc::new)
}
