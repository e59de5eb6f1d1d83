//! What a file system keeps of an entry beyond mode, owner and time.
//!
//! Everything here is optional: an engine for a database leaves it empty, and an empty value leaves no trace on disk.

/// Extended attributes as name and value, sorted by name, each name once.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// More metadata of an entry, for engines that protect file trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Nanoseconds of the modification time beyond the microsecond, 0..999.
    pub nanos: u16,
    /// The owner's name on the host where it was read.
    pub user: Option<String>,
    /// The group's name there.
    pub group: Option<String>,
    /// ACLs and capabilities are among them.
    pub xattrs: Xattrs,
    /// A file with holes, to be restored as holes.
    pub sparse: bool,
    /// When the file was made, in microseconds, where the file system knows. Nothing can put it back; it is for people.
    pub born: Option<crate::Timestamp>,
}

/// The number of a device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}
