//! One look at an entry: everything that one `statx` tells.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use breakwater_core::{DeviceNumber, Timestamp};
use rustix::fs::{AtFlags, FileType, RawMode, Statx, StatxAttributes, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

/// A moment of a file system's clock: seconds and nanoseconds.
pub(crate) type Moment = (i64, u32);

/// What changes when a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Moment,
    pub(crate) ctime: Moment,
}

/// What an entry is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
    Unknown,
}

/// The answer of one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) kind: Kind,
    pub(crate) identity: Identity,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    /// Bytes on disk.
    pub(crate) allocated: u64,
    pub(crate) number: DeviceNumber,
    pub(crate) born: Option<Moment>,
    /// The mount that it lies in, where the kernel says.
    pub(crate) mount: Option<u64>,
    /// Another file system begins here.
    pub(crate) is_mount_root: bool,
    pub(crate) no_dump: bool,
}

/// Looks at `name` in `directory` without following it.
pub(crate) fn at(directory: BorrowedFd<'_>, name: &CStr) -> Result<Look, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    ask(directory, name, flags)
}

/// Looks at what `descriptor` has open.
pub(crate) fn of(descriptor: BorrowedFd<'_>) -> Result<Look, Errno> {
    ask(descriptor, c"", AtFlags::EMPTY_PATH)
}

fn ask(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Look, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    statx(directory, name, flags, wanted).map(|answer| Look::of(&answer))
}

impl Look {
    fn of(answer: &Statx) -> Look {
        let has = |flag: StatxFlags| answer.stx_mask & flag.bits() != 0;
        let mode = RawMode::from(answer.stx_mode);
        let moment = |stamp: &StatxTimestamp| (stamp.tv_sec, stamp.tv_nsec);
        Look {
            kind: match FileType::from_raw_mode(mode) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink,
                FileType::Fifo => Kind::Fifo,
                FileType::Socket => Kind::Socket,
                FileType::CharacterDevice => Kind::CharDevice,
                FileType::BlockDevice => Kind::BlockDevice,
                FileType::Unknown => Kind::Unknown,
            },
            identity: Identity {
                device: (u64::from(answer.stx_dev_major) << 32) | u64::from(answer.stx_dev_minor),
                inode: answer.stx_ino,
                size: answer.stx_size,
                mtime: moment(&answer.stx_mtime),
                ctime: moment(&answer.stx_ctime),
            },
            mode: mode & 0o7777,
            uid: answer.stx_uid,
            gid: answer.stx_gid,
            links: answer.stx_nlink,
            allocated: answer.stx_blocks.saturating_mul(512),
            number: DeviceNumber { major: answer.stx_rdev_major, minor: answer.stx_rdev_minor },
            born: has(StatxFlags::BTIME).then(|| moment(&answer.stx_btime)),
            mount: has(StatxFlags::MNT_ID).then_some(answer.stx_mnt_id),
            is_mount_root: answer.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            no_dump: answer.stx_attributes.contains(StatxAttributes::NODUMP),
        }
    }

    /// Whether the file seems to have holes: it takes less room than its bytes would.
    pub(crate) fn seems_sparse(&self) -> bool {
        // Small files may lie in the inode and take no room at all.
        self.kind == Kind::File && self.identity.size > 4096 && self.allocated < self.identity.size
    }
}

impl Identity {
    /// The token for this state of a file, as the tree keeps it. `generation` sets apart what was seen before the clock was
    /// set back.
    pub(crate) fn stamp(&self, generation: u64) -> String {
        let Identity { device, inode, size, mtime, ctime } = self;
        let nanos = |moment: &Moment| i128::from(moment.0) * 1_000_000_000 + i128::from(moment.1);
        format!("{generation}:{device:x}:{inode:x}:{size:x}:{:x}:{:x}", nanos(mtime), nanos(ctime))
    }
}

/// Microseconds and the nanoseconds beyond them.
pub(crate) fn parts(moment: Moment) -> (Timestamp, u16) {
    let micros = moment.0.saturating_mul(1_000_000).saturating_add(i64::from(moment.1 / 1000));
    (Timestamp::from_micros(micros), u16::try_from(moment.1 % 1000).unwrap_or(0))
}
