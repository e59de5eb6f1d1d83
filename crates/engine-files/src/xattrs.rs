//! Extended attributes, ACLs and capabilities among them: of what is open, or of what nobody has to open for them.

use std::ffi::CStr;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use breakwater_core::Xattrs;
use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

/// All attributes of one entry at most; the file systems that keep more are exotic.
const TOTAL_MAX: usize = 1 << 20;

/// The kernel's own bounds for a list of names and for one value.
const KERNEL_MAX: usize = 64 << 10;

/// Bytes of names that most files do not exceed.
const FEW: usize = 512;

/// Reads attributes through `/proc`, which leads to a directory that is open already, so nothing on the way is looked up
/// again.
#[derive(Debug)]
pub(crate) struct XattrReader {
    buffer: Vec<u8>,
    /// Where `/proc` shows what this process has open; `None` where it is not mounted.
    open: Option<PathBuf>,
    /// The path asked for last.
    path: Vec<u8>,
}

impl XattrReader {
    pub(crate) fn new() -> XattrReader {
        // The number behind the link spares the kernel a link for each file.
        let own = std::fs::canonicalize("/proc/self").map(|own| own.join("fd"));
        let open = own.ok().filter(|open| open.is_dir());
        XattrReader { buffer: vec![0; KERNEL_MAX], open, path: Vec::new() }
    }

    /// Whether attributes can be read at all.
    pub(crate) fn is_usable(&self) -> bool {
        self.open.is_some()
    }

    /// The attributes of `name` in `directory`, which is not followed.
    pub(crate) fn read(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<Xattrs, Errno> {
        let Some(open) = &self.open else { return Ok(Vec::new()) };
        let path = &mut self.path;
        path.clear();
        path.extend_from_slice(open.as_os_str().as_bytes());
        // Writing into memory does not fail.
        drop(write!(path, "/{}/", directory.as_raw_fd()));
        path.extend_from_slice(name.to_bytes());
        let listed = match llistxattr(path.as_slice(), self.buffer.as_mut_slice()) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(length) => self.buffer.get(..length).unwrap_or_default().to_vec(),
            Err(error) => return Err(error),
        };
        let path = path.as_slice();
        values(&listed, &mut self.buffer, |name, buffer| lgetxattr(path, name, buffer))
    }
}

/// The attributes of what `file` has open.
pub(crate) fn of(file: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let mut few = [0; FEW];
    let listed = match flistxattr(file, few.as_mut_slice()) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(length) => few.get(..length).unwrap_or_default().to_vec(),
        Err(Errno::RANGE) => {
            let mut many = vec![0; KERNEL_MAX];
            let length = flistxattr(file, many.as_mut_slice())?;
            many.truncate(length);
            many
        }
        Err(error) => return Err(error),
    };
    values(&listed, &mut vec![0; KERNEL_MAX], |name, buffer| fgetxattr(file, name, buffer))
}

/// The values of the attributes whose names are `listed`, each with a zero byte at its end.
fn values(
    listed: &[u8],
    buffer: &mut [u8],
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let (mut found, mut total) = (Xattrs::new(), 0);
    for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match get(name, buffer) {
            Ok(length) => {
                total += name.len() + length;
                if total > TOTAL_MAX {
                    return Err(Errno::TOOBIG);
                }
                found.push((name.to_vec(), buffer.get(..length).unwrap_or_default().to_vec()));
            }
            // Removed meanwhile, or listed by a file system that does not show it to us.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    found.dedup_by(|one, other| one.0 == other.0);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use rustix::fs::{XattrFlags, setxattr};

    use super::*;

    #[test]
    fn attributes_are_read_by_name_and_links_are_not_followed() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "x").unwrap();
        setxattr(&path, "user.b", b"2\0\xFF", XattrFlags::empty()).expect("the test's file system keeps attributes");
        setxattr(&path, "user.a", b"", XattrFlags::empty()).unwrap();
        std::os::unix::fs::symlink("f", directory.path().join("l")).unwrap();
        let open = File::open(directory.path()).unwrap();
        let mut reader = XattrReader::new();
        let found: Xattrs = reader.read(open.as_fd(), c"f").unwrap();
        let ours: Vec<_> = found.into_iter().filter(|(name, _)| name.starts_with(b"user.")).collect();
        assert_eq!(ours, [(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), b"2\0\xFF".to_vec())]);
        let file = File::open(&path).unwrap();
        assert_eq!(of(file.as_fd()).unwrap(), reader.read(open.as_fd(), c"f").unwrap(), "both ways");
        let many: Vec<String> = (0..60).map(|number| format!("user.a-rather-long-name-{number:03}")).collect();
        many.iter().for_each(|name| setxattr(&path, name.as_str(), b"x", XattrFlags::empty()).unwrap());
        assert!(of(file.as_fd()).unwrap().len() >= 62);
        assert_eq!(of(file.as_fd()).unwrap(), reader.read(open.as_fd(), c"f").unwrap(), "more than a few");
        let of_link = reader.read(open.as_fd(), c"l").unwrap();
        assert!(of_link.iter().all(|(name, _)| !name.starts_with(b"user.")));
        assert_eq!(reader.read(open.as_fd(), c"none").unwrap_err(), Errno::NOENT);
    }
}
