//! The bare primitives in a plain loop: what the machine can do when nothing else is asked of it.
//!
//! The loop uses the same crates, the same extent size and the same rule for files and fsync as the pipeline with one
//! file-system region: output goes to files of 64 MiB, each synced with its directory when it is full.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes, Metadata};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use breakwater_crypto::{ChunkId, Secret, Suite};

/// Bytes read, named, compressed and sealed at once.
pub const EXTENT: usize = 128 << 10;

/// Bytes of one file of output.
const OUTPUT: u64 = 64 << 20;

const KEY: [u8; 32] = [0x42; 32];

/// The class that the names are of.
const CLASS: u8 = 1;

/// Where one sealed extent lies, and what it was.
#[derive(Clone, Debug)]
pub struct Sealed {
    file: usize,
    offset: u64,
    length: usize,
    plain: usize,
    compressed: bool,
    id: ChunkId,
    /// Input file and offset.
    from: (usize, u64),
}

/// What is read: the files beneath a directory.
#[derive(Debug)]
pub struct Input {
    /// The directory.
    pub root: PathBuf,
    /// Every file.
    pub files: Vec<PathBuf>,
}

impl Input {
    /// Everything beneath `root`.
    pub fn of(root: &Path) -> Result<Input> {
        let (mut files, mut ahead) = (Vec::new(), vec![root.to_owned()]);
        while let Some(directory) = ahead.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let entry = entry?;
                (if entry.file_type()?.is_dir() { &mut ahead } else { &mut files }).push(entry.path());
            }
        }
        files.sort();
        Ok(Input { root: root.to_owned(), files })
    }
}

/// What a storing run leaves for the reading run.
#[derive(Debug, Default)]
pub struct Stored {
    /// Mode and times of the input files: whoever restores them has to put them back.
    pub inputs: Vec<Metadata>,
    /// Files of output.
    pub files: Vec<PathBuf>,
    /// Extents in them.
    pub extents: Vec<Sealed>,
}

impl Stored {
    /// Bytes in all files of output.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length as u64).sum()
    }
}

fn nonce(number: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(number as u64).to_be_bytes());
    nonce
}

fn extents(inputs: &[PathBuf]) -> Result<Vec<(usize, u64, usize)>> {
    let mut extents = Vec::new();
    for (number, path) in inputs.iter().enumerate() {
        let size = std::fs::metadata(path)?.len();
        let cut = |offset: u64| (number, offset, usize::try_from((size - offset).min(EXTENT as u64)).unwrap_or(EXTENT));
        extents.extend((0..size).step_by(EXTENT).map(cut));
    }
    Ok(extents)
}

/// Reads and names everything, `threads` parts at once.
pub fn read_and_name(suite: Suite, input: &Input, threads: usize) -> Result<()> {
    let inputs = &input.files;
    let all = extents(inputs)?;
    in_threads(&all, threads, |_, part| {
        let mut buffer = vec![0; EXTENT];
        let key = Secret::from_bytes(KEY);
        let mut open = Open::default();
        for (number, offset, length) in part {
            let plain = &mut buffer[..*length];
            open.file(inputs, *number)?.read_exact_at(plain, *offset)?;
            std::hint::black_box(suite.chunk_id(&key, CLASS, plain));
        }
        Ok(())
    })?;
    Ok(())
}

/// Reads, names, compresses (zstd 3), seals and writes everything into `output`, `threads` parts at once.
pub fn store(suite: Suite, input: &Input, output: &Path, threads: usize) -> Result<Stored> {
    let inputs = &input.files;
    let all = extents(inputs)?;
    let parts = in_threads(&all, threads, |thread, part| store_part(suite, inputs, output, thread, part))?;
    let looked_at = inputs.iter().map(std::fs::metadata).collect::<std::io::Result<_>>()?;
    let mut stored = Stored { inputs: looked_at, ..Stored::default() };
    for mut part in parts {
        let base = stored.files.len();
        stored.files.append(&mut part.files);
        stored.extents.extend(part.extents.into_iter().map(|sealed| Sealed { file: sealed.file + base, ..sealed }));
    }
    Ok(stored)
}

fn store_part(
    suite: Suite,
    inputs: &[PathBuf],
    output: &Path,
    thread: usize,
    part: &[(usize, u64, usize)],
) -> Result<Stored> {
    let key = Secret::from_bytes(KEY);
    let mut compressor = zstd::bulk::Compressor::new(3)?;
    let (mut plain, mut packed) = (vec![0; EXTENT], Vec::with_capacity(zstd::zstd_safe::compress_bound(EXTENT) + 16));
    let (mut open, mut stored) = (Open::default(), Stored::default());
    let mut out: Option<(File, u64)> = None;
    for (count, (number, offset, length)) in part.iter().enumerate() {
        let plain = &mut plain[..*length];
        open.file(inputs, *number)?.read_exact_at(plain, *offset)?;
        let id = suite.chunk_id(&key, CLASS, plain);
        packed.clear();
        compressor.compress_to_buffer(plain, &mut packed)?;
        let compressed = packed.len() < plain.len();
        if !compressed {
            packed.clear();
            packed.extend_from_slice(plain);
        }
        let tag = suite.seal_detached(&key, nonce(count), &id.0, &mut packed);
        packed.extend_from_slice(&tag);
        if out.as_ref().is_none_or(|(_, written)| *written + packed.len() as u64 > OUTPUT) {
            finish(out.take(), output)?;
            let path = output.join(format!("{thread}-{}", stored.files.len()));
            out = Some((File::create_new(&path)?, 0));
            stored.files.push(path);
        }
        let Some((file, written)) = &mut out else { continue };
        file.write_all(&packed)?;
        stored.extents.push(Sealed {
            file: stored.files.len() - 1,
            offset: *written,
            length: packed.len(),
            plain: plain.len(),
            compressed,
            id,
            from: (*number, *offset),
        });
        *written += packed.len() as u64;
    }
    finish(out, output)?;
    Ok(stored)
}

fn finish(out: Option<(File, u64)>, directory: &Path) -> Result<()> {
    let Some((file, _)) = out else { return Ok(()) };
    file.sync_all()?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

/// Reads, opens, decompresses, checks the names and writes everything into `output`, `threads` parts at once, gives each file
/// its mode and times, as every restore has to, and syncs the file system at the end.
pub fn bring_back(suite: Suite, input: &Input, stored: &Stored, output: &Path, threads: usize) -> Result<()> {
    let target = |file: &PathBuf| Ok(output.join(file.strip_prefix(&input.root)?));
    let targets = input.files.iter().map(target).collect::<Result<Vec<PathBuf>>>()?;
    let directories: BTreeSet<&Path> = targets.iter().filter_map(|file| file.parent()).collect();
    directories.into_iter().try_for_each(std::fs::create_dir_all)?;
    // Numbers of extents count from 0 in every part, as the nonces did.
    let starts = stored.extents.iter().scan((usize::MAX, 0), |(thread, number), sealed| {
        let of = stored.files.get(sealed.file).and_then(|path| path.file_name()).and_then(|name| name.to_str());
        let now = of.and_then(|name| name.split('-').next()).and_then(|text| text.parse().ok()).unwrap_or(0);
        *number = if now == *thread { *number + 1 } else { 0 };
        *thread = now;
        Some((*number, sealed))
    });
    let numbered: Vec<_> = starts.collect();
    in_threads(&numbered, threads, |_, part| {
        let key = Secret::from_bytes(KEY);
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        let (mut sealed_bytes, mut plain) = (Vec::new(), Vec::with_capacity(EXTENT));
        let (mut open, mut target) = (Open::default(), None);
        for (number, sealed) in part {
            sealed_bytes.resize(sealed.length, 0);
            open.file(&stored.files, sealed.file)?.read_exact_at(&mut sealed_bytes, sealed.offset)?;
            suite.open(&key, nonce(*number), &sealed.id.0, &mut sealed_bytes)?;
            plain.clear();
            let content = if sealed.compressed {
                decompressor.decompress_to_buffer(&sealed_bytes, &mut plain)?;
                &plain
            } else {
                &sealed_bytes
            };
            let same = content.len() == sealed.plain && suite.chunk_id(&key, CLASS, content) == sealed.id;
            anyhow::ensure!(same, "an extent came back changed");
            let (file, offset) = sealed.from;
            if target.as_ref().is_none_or(|(open, _)| *open != file) {
                dress(target.take(), stored)?;
                let path = targets.get(file).context("an extent of no file")?;
                target = Some((file, File::options().write(true).create(true).truncate(false).open(path)?));
            }
            let (_, file) = target.as_ref().context("just opened")?;
            file.write_all_at(content, offset)?;
        }
        dress(target, stored)
    })?;
    rustix::fs::syncfs(File::open(output)?)?;
    Ok(())
}

/// Mode and times of a file whose content is there.
fn dress(target: Option<(usize, File)>, stored: &Stored) -> Result<()> {
    let Some((number, file)) = target else { return Ok(()) };
    let input = stored.inputs.get(number).context("an extent of no file")?;
    file.set_permissions(input.permissions())?;
    let time = input.modified()?;
    Ok(file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?)
}

/// The file read last.
#[derive(Default)]
struct Open(Option<(usize, File)>);

impl Open {
    fn file(&mut self, paths: &[PathBuf], number: usize) -> Result<&File> {
        if self.0.as_ref().is_none_or(|(open, _)| *open != number) {
            self.0 = Some((number, File::open(paths.get(number).context("no such input")?)?));
        }
        self.0.as_ref().map(|(_, file)| file).context("just opened")
    }
}

/// Gives each of `threads` threads an equal part of `items`, and answers their results in order.
fn in_threads<I: Sync, T: Send>(
    items: &[I],
    threads: usize,
    work: impl Fn(usize, &[I]) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let size = items.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let start = |(number, part)| {
            let work = &work;
            scope.spawn(move || work(number, part))
        };
        let running: Vec<_> = items.chunks(size).enumerate().map(start).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    })
}
