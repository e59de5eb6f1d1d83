//! Trees to protect, and a backup of them that is read as the pipeline would.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_engine::{
    BackupEnd, BackupRequest, BackupSession, BaseFacts, Engine as _, EngineError, Entry, EntryKind, Settled,
};
use breakwater_engine_files::{FilesEngine, FilesSettings, Root};
use breakwater_runtime::SystemClock;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use tempfile::TempDir;

pub(crate) struct Lab {
    directory: TempDir,
    pub(crate) scratch: PathBuf,
}

impl Lab {
    /// On a file system that keeps extended attributes.
    pub(crate) fn new() -> Lab {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let scratch = directory.path().join("agent");
        std::fs::create_dir(&scratch).unwrap();
        Lab { directory, scratch }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A directory that is there.
    pub(crate) fn root(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn settings(&self, roots: &[&str]) -> FilesSettings {
        let roots = roots.iter().map(|name| Root::named_by_path(self.path().join(name)).unwrap()).collect();
        let mut settings = FilesSettings::new("lab", roots, &self.scratch);
        settings.own = vec![self.scratch.clone()];
        settings
    }

    pub(crate) fn engine(&self, settings: &FilesSettings) -> FilesEngine {
        FilesEngine::new(settings.clone(), Arc::new(SystemClock))
    }

    pub(crate) async fn begin(
        &self,
        settings: &FilesSettings,
        base: Option<&Taken>,
    ) -> Result<Box<dyn BackupSession>, EngineError> {
        let base = base.map(|base| BaseFacts { facts: base.end.facts.clone(), start: None, end: None });
        let request = BackupRequest { label: "test".to_owned(), fast: true, extent_size: 128 << 10, base };
        self.engine(settings).begin_backup(request).await
    }

    pub(crate) async fn take(&self, settings: &FilesSettings, base: Option<&Taken>) -> Taken {
        take(self.begin(settings, base).await.unwrap()).await
    }
}

/// A backup that has ended.
pub(crate) struct Taken {
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) end: BackupEnd,
}

impl Taken {
    pub(crate) fn entry(&self, path: &str) -> &Entry {
        self.entries.get(path).unwrap_or_else(|| panic!("{path} is listed, among {:?}", self.paths()))
    }

    pub(crate) fn paths(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    /// What an entry's reader reads.
    pub(crate) fn content(&self, path: &str) -> Result<Vec<u8>, EngineError> {
        content(self.entry(path))
    }

    /// The count for the reason that begins so.
    pub(crate) fn excluded(&self, reason: &str) -> u64 {
        let counts = self.end.facts["excluded"].as_array().unwrap();
        let found = counts.iter().find(|count| count["reason"].as_str().unwrap().starts_with(reason));
        found.map_or(0, |count| count["count"].as_u64().unwrap())
    }
}

pub(crate) async fn take(mut session: Box<dyn BackupSession>) -> Taken {
    let mut entries = BTreeMap::new();
    loop {
        let batch = session.next_entries(64).await.unwrap();
        if batch.is_empty() {
            break;
        }
        entries.extend(batch.into_iter().map(|entry| (entry.path.escape_ascii().to_string(), entry)));
    }
    Taken { entries, end: session.finish().await.unwrap() }
}

/// Reads a file in pieces until it settles, as the pipeline does.
pub(crate) fn content(entry: &Entry) -> Result<Vec<u8>, EngineError> {
    let EntryKind::File { size, reader, .. } = &entry.kind else { panic!("a file: {entry:?}") };
    let mut size = *size;
    for _ in 0..4 {
        let mut bytes = Vec::new();
        let mut buffer = vec![7; 10_000];
        while (bytes.len() as u64) < size {
            let wanted = usize::try_from(size - bytes.len() as u64).unwrap().min(buffer.len());
            let length = reader.read_at(bytes.len() as u64, &mut buffer[..wanted])?.length;
            bytes.extend_from_slice(&buffer[..length]);
            if length < wanted {
                break;
            }
        }
        match reader.settle()? {
            Settled::Stable => return Ok(bytes),
            Settled::Changed { size: now } => size = now,
        }
    }
    panic!("the file does not settle");
}

/// Fills `root` with every kind of entry, and names that need care.
pub(crate) fn everything(root: &Path) {
    for directory in ["a", "a-b", "a/sub", "a.d", "empty"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (name, content) in [("a/one", "1"), ("a-b/two", "22"), ("a/sub/three", "333"), ("a0", ""), ("a.d/x", "x")] {
        std::fs::write(root.join(name), content).unwrap();
    }
    std::fs::write(root.join("large"), noise(300_000)).unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"not \xFF utf-8\n")), "bytes").unwrap();
    std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
    std::os::unix::fs::symlink("a", root.join("link-to-directory")).unwrap();
    std::fs::hard_link(root.join("a/one"), root.join("z-hard")).unwrap();
    std::fs::hard_link(root.join("a/one"), root.join("a-b/hard")).unwrap();
    sparse(&root.join("sparse"));
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    setxattr(root.join("a/one"), "user.colour", b"blue", XattrFlags::empty()).unwrap();
    if rustix::process::geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), null).unwrap();
        let disk = rustix::fs::makedev(7, 200);
        mknodat(CWD, root.join("disk"), FileType::BlockDevice, Mode::from_raw_mode(0o600), disk).unwrap();
    }
}

/// A mebibyte of hole, some data, a hole to the end.
pub(crate) fn sparse(path: &Path) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(path).unwrap();
    file.write_all_at(&[9; 5000], 1 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
}

pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 12_345_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Sets a file's modification time, as programs do that do not want to be noticed.
pub(crate) fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let moment = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = rustix::fs::Timestamps { last_access: moment, last_modification: moment };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
