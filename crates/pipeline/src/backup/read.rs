//! Reading content on one thread: whole files, extents, stretches with known changes, content-defined chunks. A piece of
//! content stays on its thread from the read to the pack, in buffers that the thread keeps.

use std::ops::Range;
use std::sync::Arc;

use breakwater_engine::{Chunking, EngineError, ExtentReader, Settled};
use breakwater_repository::format::Class;
use breakwater_repository::format::leaf::{Extent, Patch};

use super::assemble::{ContentDone, ExtentsDone, FileDone, ReadXattrs, Reading};
use super::compress::Encoder;
use super::listing::changed_bytes;
use super::pages::{Decision, Stretch, decide};
use super::work::{Content, Item, Large, Mode, Run, span};
use super::worker::Context;
use crate::PipelineError;
use crate::progress::Kind;

/// How often a file that changes while it is read is read again at once.
const AGAIN: u32 = 3;

/// A file of at most this many bytes is one chunk.
const ONE_CHUNK: u64 = 256 << 10;

/// Bytes of changed pages in one chunk at most.
const RUN_MAX: usize = 128 << 10;

/// What a thread keeps.
pub(crate) struct Hands {
    pub(crate) buffer: Vec<u8>,
    pub(crate) encoder: Encoder,
}

/// Why a file could not be read.
enum Trouble {
    /// The file is to blame; the backup may go on without it.
    File(u64, EngineError),
    /// The run is.
    Run(PipelineError),
}

impl From<PipelineError> for Trouble {
    fn from(error: PipelineError) -> Self {
        Trouble::Run(error)
    }
}

type Tried<T> = Result<T, Trouble>;

/// A file that is being read.
struct Source<'a> {
    path: &'a [u8],
    reader: &'a dyn ExtentReader,
    sparse: bool,
}

/// What was read of a file.
#[derive(Default)]
struct Found {
    extents: Vec<Extent>,
    /// Fewer bytes were there than asked: the file ends here.
    short: bool,
    damaged: Vec<u64>,
}

impl Context {
    /// Does one entry of a batch.
    pub(crate) fn item(&self, item: Item, hands: &mut Hands) -> Result<FileDone, PipelineError> {
        let Item { meta, content } = item;
        let Some(content) = content else { return Ok(FileDone { meta, reading: Reading::Nothing }) };
        let reading = match self.whole_file(&meta.path, content, hands) {
            Ok(done) => Reading::Content(done),
            Err(Trouble::File(_, error)) if meta.tolerant => Reading::Failed(reason(&error)),
            Err(trouble) => return Err(trouble.into_error(&meta.path)),
        };
        Ok(FileDone { meta, reading })
    }

    /// Does one extent of a large file.
    pub(crate) fn extent_of(&self, run: Arc<Run>, index: u64, hands: &mut Hands) -> Result<ExtentsDone, PipelineError> {
        let tried = if run.file.failure().is_some() {
            Ok(Found::default())
        } else {
            let before = usize::try_from(index).ok().and_then(|index| run.base.get(index));
            let mut found = Found::default();
            let size = run.file.listed;
            self.extent(&source(&run.file), run.first + index, size, before, hands, &mut found).map(|()| found)
        };
        self.end_claim(run, tried)
    }

    /// Does a whole stretch of a large file.
    pub(crate) fn run(&self, run: Arc<Run>, hands: &mut Hands) -> Result<ExtentsDone, PipelineError> {
        let file = &run.file;
        let tried = match &run.mode {
            _ if file.failure().is_some() => Ok(Found::default()),
            Mode::Kept => Ok(self.kept(&run)),
            Mode::Chunks(range) => self.chunks(&source(file), range.clone(), hands),
            Mode::Pages(changed) => {
                let extent_size = self.extent_size;
                let stretch = Stretch {
                    first: run.first,
                    count: run.count,
                    size: file.listed,
                    extent_size,
                    base: &run.base,
                    changed,
                    rotation: self.rotation,
                };
                self.pages(&source(file), stretch, hands)
            }
            Mode::Extents => return Err(PipelineError::Defect("a run of extents was claimed whole".to_owned())),
        };
        self.end_claim(run, tried)
    }

    fn end_claim(&self, run: Arc<Run>, tried: Tried<Found>) -> Result<ExtentsDone, PipelineError> {
        let file = &run.file;
        let found = match tried {
            Ok(found) => found,
            Err(Trouble::File(_, error)) if file.tolerant => {
                file.fail(reason(&error));
                Found::default()
            }
            Err(trouble) => return Err(trouble.into_error(&file.path)),
        };
        if file.done_with_one() && file.failure().is_none() {
            if !file.kept {
                file.note_attributes(attributes(file.reader.as_ref(), file.listed));
            }
            match file.reader.settle() {
                Ok(Settled::Stable) => {}
                Ok(Settled::Changed { size }) => file.note_change(size),
                Err(error) if file.tolerant => file.fail(reason(&error)),
                Err(error) => return Err(Trouble::File(0, error).into_error(&file.path)),
            }
        }
        let Found { extents, short, damaged } = found;
        Ok(ExtentsDone { extents, short, damaged, run })
    }

    /// What the base has; where it does not have all of it, the file has to be read after all.
    fn kept(&self, run: &Run) -> Found {
        if run.base.len() as u64 == run.count {
            self.progress.kept(super::listing::plain_of(&run.base));
        } else {
            run.file.note_change(run.file.listed);
        }
        Found { extents: run.base.clone(), ..Found::default() }
    }

    fn whole_file(&self, path: &[u8], mut content: Content, hands: &mut Hands) -> Tried<ContentDone> {
        let chunked = content.chunking == Chunking::ContentDefined;
        let extent_size = if chunked { 0 } else { self.extent_size };
        let base_leaves = std::mem::take(&mut content.base_leaves);
        let mut changed = false;
        if content.kept {
            self.progress.kept(content.listed);
            let extents = content.base;
            let (damaged, attributes) = (Vec::new(), Ok(None));
            return Ok(ContentDone { extents, extent_size, base_leaves, damaged, changed, attributes });
        }
        let source = Source { path, reader: content.reader.as_ref(), sparse: content.sparse };
        let mut tries = 0;
        let (found, attributes) = loop {
            let found = if chunked {
                self.chunks(&source, 0..content.listed, hands)?
            } else {
                self.extents(&source, &content, hands)?
            };
            let attributes = attributes(content.reader.as_ref(), content.listed);
            match content.reader.settle().map_err(|error| Trouble::File(0, error))? {
                Settled::Stable => break (found, attributes),
                Settled::Changed { size } => {
                    if tries == AGAIN {
                        changed = true;
                        break (found, attributes);
                    }
                    tries += 1;
                    (content.listed, content.changed) = (size, None);
                }
            }
        };
        let Found { extents, damaged, .. } = found;
        Ok(ContentDone { extents, extent_size, base_leaves, damaged, changed, attributes })
    }

    fn extents(&self, source: &Source<'_>, content: &Content, hands: &mut Hands) -> Tried<Found> {
        let (size, extent_size) = (content.listed, self.extent_size);
        let count = size.div_ceil(u64::from(extent_size.max(1)));
        if let Some(changed) = &content.changed {
            let changed = changed_bytes(changed, 0..size);
            let (base, rotation) = (content.base.as_slice(), self.rotation);
            let stretch = Stretch { first: 0, count, size, extent_size, base, changed: &changed, rotation };
            return self.pages(source, stretch, hands);
        }
        let mut found = Found::default();
        for index in 0..count {
            let before = usize::try_from(index).ok().and_then(|index| content.base.get(index));
            self.extent(source, index, size, before, hands, &mut found)?;
            if found.short {
                break;
            }
        }
        Ok(found)
    }

    /// Reads extent `index` of a file of `size` bytes.
    fn extent(
        &self,
        source: &Source<'_>,
        index: u64,
        size: u64,
        before: Option<&Extent>,
        hands: &mut Hands,
        found: &mut Found,
    ) -> Tried<()> {
        let (offset, asked) = span(index, size, self.extent_size);
        if source.sparse && self.hole(source, offset)? >= asked as u64 && asked > 0 {
            found.extents.push(self.zeros(Class::Extent, u32::try_from(asked).unwrap_or(u32::MAX)));
            return Ok(());
        }
        let Hands { buffer, encoder } = hands;
        let (plain, damaged) = self.read(source, offset, asked, buffer)?;
        found.damaged.extend(damaged);
        found.short = plain.len() < asked;
        if !plain.is_empty() {
            found.extents.push(self.settle(Class::Extent, plain, before, encoder)?);
        }
        Ok(())
    }

    /// Reads what has changed, and one extent in eight whole.
    fn pages(&self, source: &Source<'_>, stretch: Stretch<'_>, hands: &mut Hands) -> Tried<Found> {
        let decisions = match self.distrusts() {
            true => vec![Decision::Whole { expected: None }; usize::try_from(stretch.count).unwrap_or(0)],
            false => decide(stretch),
        };
        let Stretch { first, size, extent_size, base, .. } = stretch;
        let mut found = Found::default();
        let mut pages = PageRun::default();
        for (at, decision) in decisions.into_iter().enumerate() {
            let index = first + at as u64;
            let before = base.get(at);
            match (decision, before) {
                (Decision::Keep, Some(before)) => {
                    self.progress.kept(before.plain().into());
                    found.extents.push(before.clone());
                }
                (Decision::Patch(parts), Some(before)) => {
                    let (offset, length) = span(index, size, extent_size);
                    let mut read = 0;
                    found.extents.push(before.clone());
                    for part in parts {
                        let place = found.extents.len() - 1;
                        let whole =
                            self.changed_part(source, offset, part.clone(), place, &mut pages, &mut found, hands)?;
                        read += u64::from(part.end - part.start);
                        if !whole {
                            // The file has lost its end meanwhile: what is left of it is read as ever.
                            found.extents.truncate(place);
                            pages.forget(place);
                            self.extent(source, index, size, None, hands, &mut found)?;
                            break;
                        }
                    }
                    self.progress.kept((length as u64).saturating_sub(read));
                }
                (Decision::Whole { expected }, before) => {
                    self.extent(source, index, size, before, hands, &mut found)?;
                    let now = found.extents.last().and_then(Extent::id);
                    if expected.is_some() && now != expected && !found.short {
                        self.engine_lied(source.path, index * u64::from(extent_size));
                    }
                }
                (Decision::Keep | Decision::Patch(_), None) => {
                    self.extent(source, index, size, None, hands, &mut found)?;
                }
            }
            if found.short {
                break;
            }
        }
        self.end_page_run(&mut pages, &mut found, hands)?;
        Ok(found)
    }

    /// Reads `part` of the extent at `offset`; false when the file has not so many bytes any more.
    #[expect(clippy::too_many_arguments, reason = "one step of the loop above")]
    fn changed_part(
        &self,
        source: &Source<'_>,
        offset: u64,
        part: Range<u32>,
        extent: usize,
        pages: &mut PageRun,
        found: &mut Found,
        hands: &mut Hands,
    ) -> Tried<bool> {
        let mut at = part.start;
        while at < part.end {
            if pages.bytes.len() >= RUN_MAX {
                self.end_page_run(pages, found, hands)?;
            }
            let length = (part.end - at).min(u32::try_from(RUN_MAX - pages.bytes.len()).unwrap_or(0));
            let (plain, damaged) = self.read(source, offset + u64::from(at), length as usize, &mut hands.buffer)?;
            found.damaged.extend(damaged);
            if plain.len() < length as usize {
                return Ok(false);
            }
            let run_offset = u32::try_from(pages.bytes.len()).unwrap_or(u32::MAX);
            pages.bytes.extend_from_slice(plain);
            pages.places.push((extent, at, length, run_offset));
            at += length;
        }
        Ok(true)
    }

    /// Stores the changed pages collected so far and lays them over their extents.
    fn end_page_run(&self, pages: &mut PageRun, found: &mut Found, hands: &mut Hands) -> Tried<()> {
        let PageRun { bytes, places } = std::mem::take(pages);
        if places.is_empty() {
            return Ok(());
        }
        let run = self.store(Class::PageRun, &bytes, &mut hands.encoder)?;
        for (extent, offset, length, run_offset) in places {
            let Some(slot) = found.extents.get_mut(extent) else { continue };
            let patch = Patch { offset, length, run, run_offset };
            match slot {
                Extent::Stored(base) => *slot = Extent::Patched { base: *base, patches: vec![patch] },
                Extent::Patched { patches, .. } => {
                    // What it covers need not be read any more.
                    let end = offset + length;
                    patches.retain(|old| old.offset < offset || old.offset + old.length > end);
                    patches.push(patch);
                }
                Extent::Zeros { .. } => {
                    return Err(Trouble::Run(PipelineError::Defect("pages were to be laid over zeros".to_owned())));
                }
            }
        }
        Ok(())
    }

    /// Cuts `range` of a file where its content says.
    fn chunks(&self, source: &Source<'_>, range: Range<u64>, hands: &mut Hands) -> Tried<Found> {
        let mut found = Found::default();
        let asked = range.end - range.start;
        if asked == 0 {
            return Ok(found);
        }
        let Hands { buffer, encoder } = hands;
        if asked <= ONE_CHUNK && !source.sparse {
            let (plain, damaged) = self.read(source, range.start, usize::try_from(asked).unwrap_or(0), buffer)?;
            found.damaged = damaged;
            found.short = (plain.len() as u64) < asked;
            if !plain.is_empty() {
                found.extents.push(self.settle(Class::Chunk, plain, None, encoder)?);
            }
            return Ok(found);
        }
        let room = self.chunk_rooms.take(|| self.stop.is_set());
        let _room = room.ok_or(Trouble::Run(PipelineError::Cancelled))?;
        let largest = self.chunker.sizes().greatest();
        let (mut at, mut filled) = (range.start, 0_usize);
        // `buffer[..filled]` holds the bytes from `at` on that are not cut yet.
        while at < range.end {
            if source.sparse && filled == 0 {
                let zeros = self.hole(source, at)?.min(range.end - at);
                if zeros >= largest as u64 {
                    found.extents.push(self.zeros(Class::Chunk, u32::try_from(largest).unwrap_or(u32::MAX)));
                    at += largest as u64;
                    continue;
                }
                if zeros > 0 && (zeros == range.end - at || zeros >= ONE_CHUNK) {
                    found.extents.push(self.zeros(Class::Chunk, u32::try_from(zeros).unwrap_or(u32::MAX)));
                    at += zeros;
                    continue;
                }
            }
            let wanted = usize::try_from((range.end - at).min(largest as u64)).unwrap_or(largest);
            if !found.short && filled < wanted {
                buffer.resize(buffer.len().max(wanted), 0);
                let rest = buffer.get_mut(filled..wanted).unwrap_or_default();
                let (read, damaged) = self.read_into(source, at + filled as u64, rest)?;
                found.damaged.extend(damaged);
                found.short = read < wanted - filled;
                filled += read;
            }
            let window = buffer.get(..filled).unwrap_or_default();
            if window.is_empty() {
                break;
            }
            let cut = self.chunker.cut(window).unwrap_or(window.len()).clamp(1, window.len());
            let plain = window.get(..cut).unwrap_or_default();
            found.extents.push(self.settle(Class::Chunk, plain, None, encoder)?);
            buffer.copy_within(cut..filled, 0);
            filled -= cut;
            at += cut as u64;
            if found.short && filled == 0 {
                break;
            }
        }
        // The room is another thread's from now on.
        buffer.truncate(self.extent_size as usize);
        buffer.shrink_to_fit();
        Ok(found)
    }

    /// Bytes of zeros at `offset` that need not be read.
    fn hole(&self, source: &Source<'_>, offset: u64) -> Tried<u64> {
        source.reader.zeros_at(offset).map_err(|error| Trouble::File(offset, error))
    }

    fn zeros(&self, class: Class, plain: u32) -> Extent {
        self.progress.read(plain.into(), Kind::Zeros);
        Extent::Zeros { id: self.zeros.id(self, class, plain), plain }
    }

    fn read<'b>(
        &self,
        source: &Source<'_>,
        offset: u64,
        asked: usize,
        buffer: &'b mut Vec<u8>,
    ) -> Tried<(&'b [u8], Vec<u64>)> {
        if buffer.len() < asked {
            buffer.resize(asked, 0);
        }
        let (length, damaged) = self.read_into(source, offset, buffer.get_mut(..asked).unwrap_or_default())?;
        Ok((buffer.get(..length).unwrap_or_default(), damaged))
    }

    fn read_into(&self, source: &Source<'_>, offset: u64, buffer: &mut [u8]) -> Tried<(usize, Vec<u64>)> {
        self.wait_for_rate(buffer.len())?;
        let read = source.reader.read_at(offset, buffer).map_err(|error| Trouble::File(offset, error))?;
        Ok((read.length.min(buffer.len()), read.damaged_pages))
    }
}

/// Changed pages that wait for their chunk to be full.
#[derive(Default)]
struct PageRun {
    bytes: Vec<u8>,
    /// Index of the extent, offset in it, length, offset in the run.
    places: Vec<(usize, u32, u32, u32)>,
}

impl PageRun {
    /// The extent is read whole after all.
    fn forget(&mut self, extent: usize) {
        self.places.retain(|(place, ..)| *place != extent);
    }
}

impl Trouble {
    fn into_error(self, path: &[u8]) -> PipelineError {
        match self {
            Trouble::File(offset, error) => {
                PipelineError::engine(format!("reading {} at {offset}", path.escape_ascii()))(error)
            }
            Trouble::Run(error) => error,
        }
    }
}

/// The attributes that the reader of a file of `size` bytes brings.
fn attributes(reader: &dyn ExtentReader, size: u64) -> ReadXattrs {
    if size == 0 { Ok(None) } else { reader.xattrs().map_err(|error| reason(&error)) }
}

fn source(file: &Large) -> Source<'_> {
    Source { path: &file.path, reader: file.reader.as_ref(), sparse: file.sparse }
}

fn reason(error: &EngineError) -> String {
    breakwater_core::Chain(error).to_string()
}
