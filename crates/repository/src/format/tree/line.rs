//! An entry as it is written: one line of JSON, in which whatever is absent leaves no trace.

use std::borrow::Cow;

use breakwater_core::{Attributes, DeviceNumber, Timestamp};
use breakwater_crypto::ChunkId;
use serde::{Deserialize, Serialize};

use super::super::path::{escaped, unescape};
use super::super::{Codec, FormatError, FrameLocation, PackId};
use super::{LeafRef, TreeEntry, TreeKind, WHAT};

/// The fields in the order in which they are written. Text is borrowed where it needs no escapes: a tree has a line for
/// every file there is.
#[derive(Serialize, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    #[serde(default, skip_serializing_if = "is_zero")]
    ns: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extent: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves: Option<Vec<Leaf>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rdev: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sparse: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stamp: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    changed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    last: bool,
}

/// A reference to a leaf, its frame's fields beside its own.
#[derive(Serialize, Deserialize)]
struct Leaf {
    pack: PackId,
    offset: u32,
    stored: u32,
    plain: u32,
    codec: Codec,
    id: ChunkId,
    first: u32,
    count: u32,
}

impl From<&LeafRef> for Leaf {
    fn from(reference: &LeafRef) -> Leaf {
        let LeafRef { leaf: FrameLocation { pack, offset, stored, plain, codec, id }, first, count } = *reference;
        Leaf { pack, offset, stored, plain, codec, id, first, count }
    }
}

impl From<Leaf> for LeafRef {
    fn from(leaf: Leaf) -> LeafRef {
        let Leaf { pack, offset, stored, plain, codec, id, first, count } = leaf;
        LeafRef { leaf: FrameLocation { pack, offset, stored, plain, codec, id }, first, count }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl<'a> Line<'a> {
    pub(super) fn of(entry: &'a TreeEntry) -> Line<'a> {
        let attributes = &entry.attributes;
        let mut line = Line {
            path: escaped(&entry.path),
            kind: Cow::Borrowed(""),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            ns: attributes.nanos,
            born: attributes.born,
            user: attributes.user.as_deref().map(Cow::Borrowed),
            group: attributes.group.as_deref().map(Cow::Borrowed),
            xattrs: attributes.xattrs.iter().map(|(name, value)| (escaped(name), escaped(value))).collect(),
            size: None,
            extent: None,
            leaves: None,
            target: None,
            rdev: None,
            sparse: attributes.sparse,
            stamp: entry.stamp.as_deref().map(Cow::Borrowed),
            changed: entry.changed,
            last: entry.last,
        };
        let kind = match &entry.kind {
            TreeKind::File { size, extent, leaves } => {
                line.size = Some(*size);
                line.extent = Some(*extent);
                line.leaves = Some(leaves.iter().map(Leaf::from).collect());
                "file"
            }
            TreeKind::Directory => "dir",
            TreeKind::Symlink { target } => {
                line.target = Some(escaped(target));
                "symlink"
            }
            TreeKind::Hardlink { target } => {
                line.target = Some(escaped(target));
                "hardlink"
            }
            TreeKind::Fifo => "fifo",
            TreeKind::Socket => "socket",
            TreeKind::CharDevice(number) => {
                line.rdev = Some((number.major, number.minor));
                "char"
            }
            TreeKind::BlockDevice(number) => {
                line.rdev = Some((number.major, number.minor));
                "block"
            }
        };
        line.kind = Cow::Borrowed(kind);
        line
    }

    /// The entry, not yet checked against itself.
    pub(super) fn entry(self) -> Result<TreeEntry, FormatError> {
        let damaged = |detail: &str| FormatError::damaged(WHAT, format!("entry `{}` {detail}", self.path));
        let target = || unescape(self.target.as_deref().ok_or_else(|| damaged("is a link without target"))?);
        let number = || {
            let (major, minor) = self.rdev.ok_or_else(|| damaged("is a device without a number"))?;
            Ok(DeviceNumber { major, minor })
        };
        let kind = match &*self.kind {
            "file" => {
                let (Some(size), Some(extent), Some(leaves)) = (self.size, self.extent, self.leaves) else {
                    return Err(damaged("is a file without size, extent or leaves"));
                };
                TreeKind::File { size, extent, leaves: leaves.into_iter().map(LeafRef::from).collect() }
            }
            "dir" => TreeKind::Directory,
            "symlink" => TreeKind::Symlink { target: target()? },
            "hardlink" => TreeKind::Hardlink { target: target()? },
            "fifo" => TreeKind::Fifo,
            "socket" => TreeKind::Socket,
            "char" => TreeKind::CharDevice(number()?),
            "block" => TreeKind::BlockDevice(number()?),
            other => return Err(FormatError::Newer { what: WHAT, detail: format!("entry type `{other}`") }),
        };
        let xattr = |(name, value): &(Cow<'_, str>, Cow<'_, str>)| Ok((unescape(name)?, unescape(value)?));
        let attributes = Attributes {
            nanos: self.ns,
            user: self.user.map(Cow::into_owned),
            group: self.group.map(Cow::into_owned),
            xattrs: self.xattrs.iter().map(xattr).collect::<Result<_, FormatError>>()?,
            sparse: self.sparse,
            born: self.born,
        };
        Ok(TreeEntry {
            path: unescape(&self.path)?,
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            last: self.last,
            attributes,
            stamp: self.stamp.map(Cow::into_owned),
            changed: self.changed,
        })
    }
}
