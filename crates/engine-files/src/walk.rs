//! The listing: every entry of every root in the order of the tree, one at a time.
//!
//! Invariant: what is listed lies beneath its root without a link between; what is not listed was left out for a reason in
//! the account, has vanished, or is among the unreadable.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use breakwater_core::{Attributes, Xattrs};
use breakwater_engine::{Chunking, Entry, EntryKind, Unreadable};
use rustix::fs::readlinkat;
use rustix::io::Errno;

use crate::beneath;
use crate::judge::{Account, Judge, Reason};
use crate::level::{Names as Listed, Step};
use crate::look::{self, Kind, Look, parts};
use crate::marker::Marks;
use crate::names::Names;
use crate::reader::FileReader;
use crate::roots::{OpenRoot, is_open_region};
use crate::xattrs::XattrReader;

/// Directories kept open; deeper trees open the upper ones again when they come back to them.
const OPEN_MAX: usize = 64;

/// How a directory says that it is a cache, and how the file that says so begins.
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_TAG_TEXT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What a walk has found out besides entries.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) account: Account,
    pub(crate) unreadable: Unreadable,
    /// Entries directly in each root, by name.
    pub(crate) top: HashMap<String, u64>,
    /// Files listed with a stamp, and without.
    pub(crate) stamped: u64,
    pub(crate) unstamped: u64,
}

/// One directory being listed.
#[derive(Debug)]
struct Level {
    names: Listed,
    /// Its path in the tree with a slash at the end; empty above the roots.
    prefix: Vec<u8>,
    /// The root that it lies in.
    root: usize,
    directory: Option<OwnedFd>,
    look: Option<Look>,
    /// Directories whose content is to come, by number.
    entered: Vec<usize>,
}

/// Lists entries.
#[derive(Debug)]
pub(crate) struct Walk {
    roots: Vec<OpenRoot>,
    judge: Judge,
    own: HashSet<(u64, u64)>,
    generation: u64,
    levels: Vec<Level>,
    marks: Marks,
    xattrs: XattrReader,
    names: Names,
    /// The first path of each file with several names.
    linked: HashMap<(u64, u64), Vec<u8>>,
    pub(crate) findings: Findings,
}

impl Walk {
    /// A walk of `roots`, which are sorted by name. Stamps carry `generation`.
    pub(crate) fn new(
        roots: Vec<OpenRoot>,
        judge: Judge,
        own: HashSet<(u64, u64)>,
        mut marks: Marks,
        generation: u64,
    ) -> Walk {
        for root in &roots {
            marks.enter(root.directory.as_fd(), root.look.identity.device);
        }
        let names: Vec<CString> = roots.iter().filter_map(|root| CString::new(root.name.as_str()).ok()).collect();
        let top = Level {
            names: Listed::of_directories(names.iter().map(CString::as_c_str)),
            prefix: Vec::new(),
            root: 0,
            directory: None,
            look: None,
            entered: Vec::new(),
        };
        Walk {
            roots,
            judge,
            own,
            generation,
            levels: vec![top],
            marks,
            xattrs: XattrReader::new(),
            names: Names::read(),
            linked: HashMap::new(),
            findings: Findings::default(),
        }
    }

    /// Whether everything was listed.
    pub(crate) fn is_over(&self) -> bool {
        self.levels.is_empty()
    }

    /// What is worth a warning.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut lines = self.findings.account.warnings();
        if !self.xattrs.is_usable() {
            lines.push(
                "/proc is not mounted: extended attributes and ACLs are backed up of files with content and one name alone, not \
                 of directories, links, empty files and files with several names (hint: mount it where the agent runs)"
                    .to_owned(),
            );
        }
        if self.marks.has_doubt() {
            lines.push(
                "a file system with another host's clock: its files are read whole in every backup, since no time stamp \
                 there proves that a file did not change"
                    .to_owned(),
            );
        }
        lines
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Entry> {
        loop {
            let level = self.levels.last_mut()?;
            match level.names.step() {
                None => {
                    self.levels.pop();
                }
                Some(Step::Entry(number)) => {
                    let entry = if self.levels.len() == 1 { self.root_entry(number) } else { self.entry(number) };
                    if entry.is_some() {
                        return entry;
                    }
                }
                Some(Step::Content(number)) => {
                    if let Some(at) = level.entered.iter().position(|entered| *entered == number) {
                        level.entered.swap_remove(at);
                        self.enter(number);
                    }
                }
            }
        }
    }

    /// The name of this number in the present directory, and its path in the tree.
    fn named(&self, number: usize) -> Option<(CString, Vec<u8>)> {
        let level = self.levels.last()?;
        let name = level.names.name(number);
        Some((name.to_owned(), [level.prefix.as_slice(), name.to_bytes()].concat()))
    }

    fn root_entry(&mut self, number: usize) -> Option<Entry> {
        let (name, path) = self.named(number)?;
        let at = self.roots.iter().position(|root| root.name.as_bytes() == name.to_bytes())?;
        self.levels.last_mut()?.entered.push(number);
        let root = self.roots.get(at)?;
        let xattrs = self.xattrs.read(root.directory.as_fd(), c".").unwrap_or_default();
        Some(self.describe(path, EntryKind::Directory, &root.look.clone(), xattrs))
    }

    /// The entry of this number of the present directory, unless it has vanished or is left out.
    fn entry(&mut self, number: usize) -> Option<Entry> {
        self.reopen()?;
        let (name, path) = self.named(number)?;
        let level = self.levels.last()?;
        let (root_at, directory) = (level.root, level.directory.as_ref()?.as_fd());
        let look = match look::at(directory, &name) {
            Ok(look) => look,
            Err(Errno::NOENT) => return None,
            Err(error) => {
                self.findings.unreadable.note(path, why(error));
                return None;
            }
        };
        let root = self.roots.get(root_at)?;
        let relative = path.get(root.name.len() + 1..).unwrap_or_default();
        if let Some(reason) = self.judge.excludes(Path::new(OsStr::from_bytes(relative)), &look) {
            let bytes = if look.kind == Kind::File { look.identity.size } else { 0 };
            self.findings.account.note(reason, &path, bytes);
            return None;
        }
        // A file with content and one name has them read through its reader, if at all.
        let later = look.kind == Kind::File && look.links == 1 && look.identity.size > 0;
        let xattrs = match if later { Ok(Xattrs::new()) } else { self.xattrs.read(directory, &name) } {
            Ok(xattrs) => xattrs,
            Err(Errno::NOENT) => return None,
            Err(error) => {
                self.findings.unreadable.note(path.clone(), format!("its attributes: {}", why(error)));
                Vec::new()
            }
        };
        let kind = match look.kind {
            Kind::Directory => {
                let crosses = is_elsewhere(&look, &root.look);
                if self.own.contains(&(look.identity.device, look.identity.inode)) {
                    self.findings.account.note(Reason::Own, &path, 0);
                    return None;
                }
                if crosses && (self.judge.one_file_system || is_pseudo(directory, &name)) {
                    self.findings.account.note(Reason::OtherFileSystem, &path, 0);
                } else {
                    self.levels.last_mut()?.entered.push(number);
                }
                EntryKind::Directory
            }
            Kind::Symlink => match readlinkat(directory, &name, Vec::new()) {
                Ok(target) => EntryKind::Symlink { target: target.into_bytes() },
                Err(Errno::NOENT | Errno::INVAL) => return None,
                Err(error) => {
                    self.findings.unreadable.note(path, why(error));
                    return None;
                }
            },
            Kind::File => return self.file(path, root_at, &look, xattrs),
            Kind::Fifo => EntryKind::Fifo,
            Kind::Socket => EntryKind::Socket,
            Kind::CharDevice => EntryKind::CharDevice(look.number),
            Kind::BlockDevice => EntryKind::BlockDevice(look.number),
            Kind::Unknown => {
                self.findings.unreadable.note(path, "of a kind that this agent does not know");
                return None;
            }
        };
        Some(self.describe(path, kind, &look, xattrs))
    }

    fn file(&mut self, path: Vec<u8>, root: usize, look: &Look, xattrs: Xattrs) -> Option<Entry> {
        let place = (look.identity.device, look.identity.inode);
        if look.links > 1 {
            if let Some(first) = self.linked.get(&place) {
                let kind = EntryKind::Hardlink { target: first.clone() };
                return Some(self.describe(path, kind, look, xattrs));
            }
            self.linked.insert(place, path.clone());
        }
        let sparse = look.seems_sparse();
        let root = self.roots.get(root)?;
        let relative = path.get(root.name.len() + 1..).unwrap_or_default();
        let reader = Arc::new(FileReader::new(&root.directory, relative, look.identity, sparse));
        let size = look.identity.size;
        let kind = EntryKind::File { size, reader, chunking: Chunking::ContentDefined, changed: None };
        let mut entry = self.describe(path, kind, look, xattrs);
        entry.attributes.sparse = sparse;
        if self.marks.trusts(look.identity.device, look.identity.ctime) {
            entry.stamp = Some(look.identity.stamp(self.generation));
            self.findings.stamped += 1;
        } else {
            self.findings.unstamped += 1;
        }
        Some(entry)
    }

    fn describe(&self, path: Vec<u8>, kind: EntryKind, look: &Look, xattrs: Xattrs) -> Entry {
        let (mtime, nanos) = parts(look.identity.mtime);
        let attributes = Attributes {
            nanos,
            user: self.names.user(look.uid),
            group: self.names.group(look.gid),
            xattrs,
            sparse: false,
            born: look.born.map(|born| parts(born).0),
        };
        let Look { mode, uid, gid, .. } = *look;
        Entry { path, kind, mode, uid, gid, mtime, last: false, attributes, stamp: None, tolerant: true }
    }

    /// Goes down into the directory of this number.
    fn enter(&mut self, number: usize) {
        let Some((name, path)) = self.named(number) else { return };
        match self.open_level(&name, &path) {
            Ok(Some(level)) => {
                if self.levels.len() == 1 {
                    let top = u64::try_from(level.names.left()).unwrap_or(u64::MAX);
                    self.findings.top.insert(name.to_string_lossy().into_owned(), top);
                }
                self.levels.push(level);
                let open = self.levels.len();
                if let Some(upper) = open.checked_sub(OPEN_MAX).and_then(|at| self.levels.get_mut(at)) {
                    upper.directory = None;
                }
            }
            // It has vanished, which is nobody's fault.
            Ok(None) | Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.findings.unreadable.note(path, "it became something else while it was listed");
            }
            Err(error) => self.findings.unreadable.note(path, why(error)),
        }
    }

    fn open_level(&mut self, name: &CStr, path: &[u8]) -> Result<Option<Level>, Errno> {
        let (root, directory) = if self.levels.len() == 1 {
            let at = self.roots.iter().position(|root| root.name.as_bytes() == name.to_bytes()).ok_or(Errno::NOENT)?;
            let root = self.roots.get(at).ok_or(Errno::NOENT)?;
            // A descriptor of its own: reading names moves it.
            (at, beneath::directory(root.directory.as_fd(), b"")?)
        } else {
            if self.reopen().is_none() {
                return Ok(None);
            }
            let level = self.levels.last().ok_or(Errno::NOENT)?;
            let above = level.directory.as_ref().ok_or(Errno::NOENT)?;
            (level.root, beneath::directory(above.as_fd(), name.to_bytes())?)
        };
        let look = look::of(directory.as_fd())?;
        let is_root = self.levels.len() == 1;
        if let Some(root) = self.roots.get(root)
            && !is_root
            && is_elsewhere(&look, &root.look)
            && self.judge.one_file_system
        {
            // It was mounted just now.
            self.findings.account.note(Reason::OtherFileSystem, path, 0);
            return Ok(None);
        }
        self.marks.enter(directory.as_fd(), look.identity.device);
        let (mut names, failure) = Listed::read(&directory);
        if let Some(error) = failure {
            self.findings.unreadable.note(path.to_vec(), format!("not all names in it: {}", why(error)));
        }
        if names.contains(b"repo") && is_open_region(directory.as_fd()) {
            self.findings.account.note(Reason::Region, path, 0);
            return Ok(None);
        }
        if self.judge.cache_tags && names.contains(CACHE_TAG) && is_cache(directory.as_fd()) {
            self.findings.account.note(Reason::CacheTag, path, 0);
            names.keep_only(CACHE_TAG);
        }
        let prefix = [path, b"/"].concat();
        Ok(Some(Level { names, prefix, root, directory: Some(directory), look: Some(look), entered: Vec::new() }))
    }

    /// Opens the present directory again where it was closed to save descriptors. `None` when it is not there any more: the
    /// rest of its names is given up.
    fn reopen(&mut self) -> Option<()> {
        let level = self.levels.last_mut()?;
        if level.directory.is_some() {
            return Some(());
        }
        let root = self.roots.get(level.root)?;
        let relative = level.prefix.get(root.name.len() + 1..).unwrap_or_default();
        let relative = relative.strip_suffix(b"/").unwrap_or(relative);
        let opened = beneath::directory(root.directory.as_fd(), relative).and_then(|directory| {
            let now = look::of(directory.as_fd())?.identity;
            let before = level.look.map(|look| (look.identity.device, look.identity.inode));
            if before == Some((now.device, now.inode)) { Ok(directory) } else { Err(Errno::NOENT) }
        });
        match opened {
            Ok(directory) => {
                level.directory = Some(directory);
                Some(())
            }
            Err(error) => {
                let path = level.prefix.strip_suffix(b"/").unwrap_or(&level.prefix).to_vec();
                level.names = Listed::default();
                level.entered.clear();
                self.findings
                    .unreadable
                    .note(path, format!("it was moved or removed while it was listed: {}", why(error)));
                None
            }
        }
    }
}

/// Whether the entry lies in another mount or file system than its root.
pub(crate) fn is_elsewhere(look: &Look, root: &Look) -> bool {
    let other_mount = matches!((look.mount, root.mount), (Some(one), Some(other)) if one != other);
    look.is_mount_root || other_mount || look.identity.device != root.identity.device
}

/// Whether a file system that the kernel makes up begins at `name`: nothing in it is data.
fn is_pseudo(directory: BorrowedFd<'_>, name: &CStr) -> bool {
    const PSEUDO: [u64; 14] = [
        0x9FA0,      // proc
        0x6265_6572, // sysfs
        0x0027_E0EB, // cgroup
        0x6367_7270, // cgroup2
        0x1CD1,      // devpts
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0x6165_676C, // pstore
        0xCAFE_4A11, // bpf
        0x6265_6570, // configfs
        0x1980_0202, // mqueue
        0x4249_4E4D, // binfmt_misc
        0xDE5E_81E4, // efivarfs
    ];
    let Ok(open) = beneath::directory(directory, name.to_bytes()) else { return false };
    #[expect(clippy::cast_sign_loss, reason = "the magic number is 32 bits wide")]
    rustix::fs::fstatfs(&open).is_ok_and(|answer| PSEUDO.contains(&(answer.f_type as u64 & 0xFFFF_FFFF)))
}

/// Whether the mark in this directory is a cache's.
pub(crate) fn is_cache(directory: BorrowedFd<'_>) -> bool {
    let Ok(file) = beneath::file(directory, CACHE_TAG) else { return false };
    if !look::of(file.as_fd()).is_ok_and(|look| look.kind == Kind::File) {
        return false;
    }
    let mut text = [0; CACHE_TAG_TEXT.len()];
    matches!(rustix::io::pread(&file, &mut text, 0), Ok(length) if length == text.len()) && text == CACHE_TAG_TEXT
}

fn why(error: Errno) -> String {
    std::io::Error::from(error).to_string()
}
