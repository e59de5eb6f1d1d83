//! What goes back onto a path besides content, in the order in which one step does not undo another: owner (which takes
//! set-id bits and capabilities away), the attributes that need a writable file, mode, access lists and the rest, times.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use breakwater_core::{Attributes, Timestamp};
use breakwater_repository::format::tree::TreeEntry;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::owners::{Owner, Owners};
use super::shortfall::Shortfalls;

/// Extended attributes that a restore takes away where the snapshot has none of that name: they would give rights that
/// the original did not give, or are content.
const OURS: &[&[u8]] = &[b"user.", b"system.posix_acl_", b"security.capability"];

/// Bytes of the names of extended attributes that are looked at; Linux gives no more than 64 KiB.
const LIST_MAX: usize = 64 << 10;

/// Metadata of one entry.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// What only file trees have.
    pub(crate) more: Option<Box<Attributes>>,
}

impl Metadata {
    /// Takes it out of an entry.
    pub(crate) fn of(entry: &mut TreeEntry) -> Metadata {
        let more = std::mem::take(&mut entry.attributes);
        let more = (more != Attributes::default()).then(|| Box::new(more));
        Metadata { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, more }
    }

    pub(crate) fn is_sparse(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.sparse)
    }

    fn xattrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        self.more.as_ref().map_or(&[], |more| &more.xattrs)
    }

    fn mode(&self) -> Mode {
        // Linux takes the twelve bits below the file type.
        Mode::from_raw_mode((self.mode & 0o7777) as RawMode)
    }

    fn time(&self) -> Timespec {
        let micros = self.mtime.as_micros();
        let nanos = self.more.as_ref().map_or(0, |more| i64::from(more.nanos));
        Timespec { tv_sec: micros.div_euclid(1_000_000), tv_nsec: micros.rem_euclid(1_000_000) * 1000 + nanos }
    }

    fn times(&self) -> Timestamps {
        Timestamps { last_access: self.time(), last_modification: self.time() }
    }
}

/// Puts metadata back, and counts what it cannot.
#[derive(Debug)]
pub(crate) struct Dresser {
    pub(crate) owners: Owners,
    pub(crate) shortfalls: Shortfalls,
    /// The owner that new files here have already.
    pub(crate) default_owner: Option<(u32, u32)>,
}

impl Dresser {
    /// Dresses an open file or directory at `path`. One that is `new` has no attributes that have to be taken away.
    pub(crate) fn open(&self, path: &[u8], file: impl AsFd, metadata: &Metadata, new: bool) -> Result<(), Errno> {
        let file = file.as_fd();
        if let Some(owner) = self.owner(path, metadata)
            && !(new && self.default_owner == Some((owner.uid, owner.gid)))
        {
            let set = rustix::fs::fchown(file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
            self.permitted(path, set)?;
        }
        if !new {
            self.undress(path, file, metadata);
        }
        let set = |name: &[u8], value: &[u8]| {
            rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty())
        };
        self.xattrs(path, metadata, true, set);
        rustix::fs::fchmod(file, metadata.mode())?;
        self.xattrs(path, metadata, false, set);
        rustix::fs::futimens(file, &metadata.times())
    }

    /// Dresses what must not be opened: a link, a pipe, a socket, a device. `name` lies in `directory`; links have no mode.
    pub(crate) fn named(
        &self,
        path: &[u8],
        directory: impl AsFd,
        name: &OsStr,
        metadata: &Metadata,
        has_mode: bool,
    ) -> Result<(), Errno> {
        let directory = directory.as_fd();
        if let Some(owner) = self.owner(path, metadata)
            && self.default_owner != Some((owner.uid, owner.gid))
        {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            let set = rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            self.permitted(path, set)?;
        }
        if has_mode {
            // By way of the open path, because setting a mode by name would follow a link put in its place.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            let by_path = format!("/proc/self/fd/{}", place.as_raw_fd());
            if rustix::fs::chmod(by_path.as_str(), metadata.mode()).is_err() {
                self.shortfalls.note("mode not set", path);
            }
        }
        let mut by_path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        by_path.extend_from_slice(name.as_bytes());
        let by_path = OsStr::from_bytes(&by_path);
        for of_users in [true, false] {
            self.xattrs(path, metadata, of_users, |attribute, value| {
                rustix::fs::lsetxattr(by_path, OsStr::from_bytes(attribute), value, XattrFlags::empty())
            });
        }
        rustix::fs::utimensat(directory, name, &metadata.times(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Whether an existing file has all of it already.
    pub(crate) fn fits(&self, file: impl AsFd, stat: &Stat, metadata: &Metadata) -> bool {
        let file = file.as_fd();
        let owner = self.owners.wanted(metadata);
        let time = metadata.time();
        let names = list(file);
        let wanted = metadata.xattrs();
        let has = |(name, value): &(Vec<u8>, Vec<u8>)| {
            let mut found = vec![0; value.len() + 1];
            let read = rustix::fs::fgetxattr(file, OsStr::from_bytes(name), found.as_mut_slice());
            read.is_ok_and(|length| found.get(..length) == Some(value))
        };
        (stat.st_mode & 0o7777) == (metadata.mode & 0o7777)
            && owner.is_none_or(|owner| (stat.st_uid, stat.st_gid) == (owner.uid, owner.gid))
            && (stat.st_mtime, stat.st_mtime_nsec as i64) == (time.tv_sec, time.tv_nsec)
            && wanted.iter().all(has)
            && names.iter().all(|name| !is_ours(name) || wanted.iter().any(|(other, _)| other == name))
    }

    fn owner(&self, path: &[u8], metadata: &Metadata) -> Option<Owner> {
        let owner = self.owners.wanted(metadata)?;
        if owner.unknown_name {
            self.shortfalls.note("owner set by number, because its name is not known here", path);
        }
        Some(owner)
    }

    /// Without privilege files belong to whoever restores them; that is told, and no reason to stop.
    fn permitted(&self, path: &[u8], set: Result<(), Errno>) -> Result<(), Errno> {
        match set {
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
                self.shortfalls.note("owner not set (not permitted)", path);
                Ok(())
            }
            other => other,
        }
    }

    /// Sets the attributes of users, which need a writable file, or all others.
    fn xattrs(
        &self,
        path: &[u8],
        metadata: &Metadata,
        of_users: bool,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) {
        for (name, value) in metadata.xattrs() {
            if name.starts_with(b"user.") == of_users
                && let Err(error) = set(name, value)
            {
                let name = name.escape_ascii();
                self.shortfalls.note(&format!("extended attribute {name} not set ({error})"), path);
            }
        }
    }

    /// Takes away attributes of ours that the snapshot does not have.
    fn undress(&self, path: &[u8], file: impl AsFd, metadata: &Metadata) {
        let file = file.as_fd();
        for name in list(file) {
            if is_ours(&name)
                && !metadata.xattrs().iter().any(|(wanted, _)| *wanted == name)
                && rustix::fs::fremovexattr(file, OsStr::from_bytes(&name)).is_err()
            {
                self.shortfalls.note("extended attribute that the snapshot does not have not removed", path);
            }
        }
    }
}

fn list(file: impl AsFd) -> Vec<Vec<u8>> {
    let mut names = vec![0; 1024];
    let read = match rustix::fs::flistxattr(&file, names.as_mut_slice()) {
        Err(Errno::RANGE) => {
            names.resize(LIST_MAX, 0);
            rustix::fs::flistxattr(&file, names.as_mut_slice())
        }
        answer => answer,
    };
    let names = names.get(..read.unwrap_or(0)).unwrap_or_default();
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

fn is_ours(name: &[u8]) -> bool {
    OURS.iter().any(|prefix| name.starts_with(prefix))
}
