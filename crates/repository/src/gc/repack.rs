//! Moving what is left of packs into new ones, as ciphertext, and deleting the old ones.
//!
//! Invariant: an old pack goes only after the new ones, the moved records and the run's decision are in every region. A run
//! that finds a fence in its register deletes nothing.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::SessionId;
use breakwater_storage::Payload;

use super::everywhere::{Everywhere, Put, Stop};
use super::moved_packs::{Movable, MovedPacks};
use super::pace::Pace;
use super::sweep::{ListedPack, Swept, Verdict};
use super::verdicts::VerdictReader;
use super::{GcOptions, GcReport};
use crate::error::{RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::moved::{Moved, MovedFrames};
use crate::format::pack::{FRAME_HEAD, Footer, FooterFrame, KeyKind, frame};
use crate::format::record::RecordKind;
use crate::format::references::{FrameRange, PackRanges, push};

/// A run moves at most so many packs: what a kill costs, and what one decision is about.
const PACKS: usize = 128;
/// One read has at most this many bytes, a single larger frame excepted.
const READ_MAX: u64 = 8 << 20;

/// Moves packs in runs.
pub(super) struct Moving<'a> {
    all: &'a Everywhere<'a>,
    pace: Pace,
    repack_below: u8,
    report: &'a mut GcReport,
}

impl<'a> Moving<'a> {
    pub(super) fn new(all: &'a Everywhere<'a>, options: &GcOptions, report: &'a mut GcReport) -> Self {
        Moving { all, pace: Pace::new(options.bytes_per_second), repack_below: options.repack_below, report }
    }

    /// Moves what `verdicts` name. Sessions of packs that have to stay are added to `kept`.
    pub(super) async fn all(
        mut self,
        verdicts: VerdictReader,
        swept: &Swept,
        kept: &mut BTreeSet<SessionId>,
        deletes: &mut Pace,
    ) -> Result<(), Stop> {
        let mut batch = Vec::new();
        for verdict in verdicts {
            let Verdict::Repack(pack, ranges) = verdict? else { continue };
            batch.push((pack, ranges));
            if batch.len() >= PACKS {
                self.batch(std::mem::take(&mut batch), swept, kept, deletes).await?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.batch(batch, swept, kept, deletes).await }
    }

    async fn batch(
        &mut self,
        batch: Vec<(ListedPack, Vec<FrameRange>)>,
        swept: &Swept,
        kept: &mut BTreeSet<SessionId>,
        deletes: &mut Pace,
    ) -> Result<(), Stop> {
        let all = self.all;
        let run = all.repository.new_session();
        let plan = all.plan(run, swept).await?;
        let mut packs = MovedPacks::new(all, run);
        let mut moved = Vec::new();
        for (pack, ranges) in batch {
            all.go_on()?;
            // What is moved out of a pack that cannot go would be moved again and again.
            let frames = match all.kept(&ObjectName::of_pack(all.source, pack.kind, pack.pack)).await? {
                Some(_) => None,
                None => self.frames_of(&pack, ranges).await?,
            };
            match frames {
                Some(frames) => {
                    for frame in frames {
                        packs.add(pack.kind, frame).await?;
                    }
                    moved.push(pack);
                }
                None => {
                    kept.insert(pack.pack.session);
                }
            }
        }
        let (places, written) = packs.finish().await?;
        if moved.is_empty() {
            all.delete(&plan).await?;
            return Ok(());
        }
        for ((kind, pack), to) in places {
            let name = ObjectName::Moved { source: all.source, kind, pack, mover: run };
            let record = Moved { pack, kind, mover: run, to: to.into_iter().collect(), at: all.repository.now() };
            let bytes = all.repository.seal_record(all.source, RecordKind::Moved, &name, &record)?;
            all.create_own(&name, &Payload::from(bytes)).await?;
        }
        self.decide(run, swept).await?;
        self.report.moved.objects += written.objects;
        self.report.moved.bytes += written.bytes;
        for pack in moved {
            all.go_on()?;
            deletes.take(1).await;
            match all.release(&ObjectName::of_pack(all.source, pack.kind, pack.pack)).await? {
                None => self.report.repacked.add(pack.size),
                Some(locked) => {
                    self.report.waiting.add(pack.size, locked);
                    kept.insert(pack.pack.session);
                }
            }
        }
        all.delete(&plan).await
    }

    /// Makes what the run moved count.
    async fn decide(&self, run: SessionId, swept: &Swept) -> Result<(), Stop> {
        let all = self.all;
        let name = ObjectName::GcDecision(all.source, run);
        let plan = all.plan_of(run, swept);
        let bytes = all.repository.seal_record(all.source, RecordKind::GcPlan, &name, &plan)?;
        let puts = all.create(&name, &Payload::from(bytes)).await?;
        if puts.iter().all(|put| *put == Put::Mine) { Ok(()) } else { Err(Stop::Overtaken) }
    }

    /// The frames of `pack` that are needed, read whole; `None` where that is not possible, so that the pack has to stay.
    async fn frames_of(&mut self, pack: &ListedPack, ranges: Vec<FrameRange>) -> Result<Option<Vec<Movable>>, Stop> {
        let all = self.all;
        let name = ObjectName::of_pack(all.source, pack.kind, pack.pack);
        let footer = match all.repository.fetch_footer(&all.repository.read_order(), &name).await {
            Ok((footer, _)) => footer,
            Err(RepositoryError::NotFound { .. }) => return Err(Stop::Overtaken),
            Err(error) => {
                all.confirm().await?;
                return Ok(stays(&name, &breakwater_core::Chain(&error).to_string()));
            }
        };
        let places = match MovedFrames::of_footer(&footer.json, footer.frames.len()) {
            Ok(places) => places.from,
            Err(error) => return Ok(stays(&name, &breakwater_core::Chain(&error).to_string())),
        };
        let needed = PackRanges { kind: pack.kind, pack: pack.pack, ranges };
        let Some(chosen) = chosen(&footer, &needed) else {
            return Ok(stays(&name, "what snapshots refer to in it are not whole frames"));
        };
        // Footer and padding count in the listing; a pack of which all frames are needed must not move for ever.
        let bytes = |frame: &FooterFrame| u64::from(frame.stored) + FRAME_HEAD as u64;
        let all_bytes: u64 = footer.frames.iter().map(bytes).sum();
        let chosen_bytes: u64 = chosen.iter().filter_map(|index| footer.frames.get(*index)).map(bytes).sum();
        if chosen_bytes.saturating_mul(100) >= all_bytes.saturating_mul(u64::from(self.repack_below)) {
            return Ok(None);
        }
        let mut frames = Vec::with_capacity(chosen.len());
        for group in grouped(&footer, &chosen) {
            let Some(read) = self.read(&name, &footer, &group).await? else {
                return Ok(stays(&name, "no region delivers it whole"));
            };
            for (index, bytes) in group.into_iter().zip(read) {
                let (Some(frame), at) = (footer.frames.get(index), index) else { continue };
                let Some(origin) = footer.origins.get(frame.origin as usize) else { continue };
                let from = places.get(at).copied().unwrap_or((pack.pack, frame.offset));
                frames.push(Movable { frame: *frame, origin: *origin, from, bytes });
            }
        }
        Ok(Some(frames))
    }

    /// The bytes of frames that lie near each other, from a region that has all of them whole.
    async fn read(
        &mut self,
        name: &ObjectName,
        footer: &Footer,
        group: &[usize],
    ) -> Result<Option<Vec<bytes::Bytes>>, Stop> {
        let frames: Vec<&FooterFrame> = group.iter().filter_map(|index| footer.frames.get(*index)).collect();
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(Some(Vec::new())) };
        let start = u64::from(first.offset);
        let end = u64::from(last.offset) + FRAME_HEAD as u64 + u64::from(last.stored);
        self.pace.take(end - start).await;
        let key = name.to_string();
        for region in self.all.repository.read_order().regions() {
            match self.all.repository.range_of(region, &key, start..end).await {
                Ok(bytes) => {
                    let cut = |frame: &&FooterFrame| {
                        let at = usize::try_from(u64::from(frame.offset) - start).ok()?;
                        let piece = bytes.get(at..at + FRAME_HEAD + frame.stored as usize)?;
                        frame::looks_whole(piece, frame.stored).then(|| bytes.slice_ref(piece))
                    };
                    let whole: Option<Vec<bytes::Bytes>> = frames.iter().map(cut).collect();
                    if whole.is_some() {
                        return Ok(whole);
                    }
                    tracing::warn!(
                        region = region.name(),
                        object = key,
                        "a pack is damaged; hint: run `repository repair`"
                    );
                }
                Err(trouble @ (Trouble::Silent | Trouble::Unusable(_))) => {
                    return Err(Stop::Away(vec![region.cause(trouble)]));
                }
                Err(trouble) => {
                    tracing::warn!(region = region.name(), object = key, error = %trouble, "a pack cannot be read")
                }
            }
        }
        Ok(None)
    }
}

fn stays(name: &ObjectName, why: &str) -> Option<Vec<Movable>> {
    tracing::warn!(object = %name, why, "a pack of which little is needed stays as it is");
    None
}

/// The frames that are needed, by their places in the footer, in the order in which they lie; `None` when they are not
/// exactly what the ranges say.
fn chosen(footer: &Footer, needed: &PackRanges) -> Option<Vec<usize>> {
    let inside = |(_, frame): &(usize, &FooterFrame)| needed.covers(&frame.location(needed.pack));
    let mut chosen: Vec<(usize, &FooterFrame)> = footer.frames.iter().enumerate().filter(inside).collect();
    chosen.sort_by_key(|(_, frame)| frame.offset);
    let mut ranges = Vec::new();
    for (_, frame) in &chosen {
        push(&mut ranges, FrameRange::of(&frame.location(needed.pack)));
    }
    (ranges == needed.ranges).then(|| chosen.into_iter().map(|(index, _)| index).collect())
}

/// Frames that lie side by side, so that they can be read in one go.
fn grouped(footer: &Footer, chosen: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(FrameRange, Vec<usize>)> = Vec::new();
    for index in chosen {
        let Some(frame) = footer.frames.get(*index) else { continue };
        let length = u32::try_from(FRAME_HEAD).unwrap_or(u32::MAX).saturating_add(frame.stored);
        let range = FrameRange { offset: frame.offset, length };
        match groups.last_mut() {
            Some((last, group)) if last.reaches(range.offset) && range.end() - u64::from(last.offset) <= READ_MAX => {
                last.extend_over(range);
                group.push(*index);
            }
            _ => groups.push((range, vec![*index])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// New packs by the places that references name.
pub(super) type Places = BTreeMap<(KeyKind, crate::format::PackId), BTreeSet<crate::format::PackId>>;
