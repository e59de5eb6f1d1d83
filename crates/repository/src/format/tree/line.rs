//! An entry as it is written: one line of JSON, in which whatever is absent leaves no trace.

use breakwater_core::{Attributes, DeviceNumber, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::FormatError;
use super::super::path::{escape, unescape};
use super::{LeafRef, TreeEntry, TreeKind, WHAT};

/// The fields in the order in which they are written.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    #[serde(default, skip_serializing_if = "is_zero")]
    ns: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extent: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves: Option<Vec<LeafRef>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rdev: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sparse: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stamp: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    changed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    last: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl Line {
    pub(super) fn of(entry: &TreeEntry) -> Line {
        let attributes = &entry.attributes;
        let mut line = Line {
            path: escape(&entry.path),
            kind: String::new(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            ns: attributes.nanos,
            born: attributes.born,
            user: attributes.user.clone(),
            group: attributes.group.clone(),
            xattrs: attributes.xattrs.iter().map(|(name, value)| (escape(name), escape(value))).collect(),
            size: None,
            extent: None,
            leaves: None,
            target: None,
            rdev: None,
            sparse: attributes.sparse,
            stamp: entry.stamp.clone(),
            changed: entry.changed,
            last: entry.last,
        };
        let kind = match &entry.kind {
            TreeKind::File { size, extent, leaves } => {
                line.size = Some(*size);
                line.extent = Some(*extent);
                line.leaves = Some(leaves.clone());
                "file"
            }
            TreeKind::Directory => "dir",
            TreeKind::Symlink { target } => {
                line.target = Some(escape(target));
                "symlink"
            }
            TreeKind::Hardlink { target } => {
                line.target = Some(escape(target));
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
        kind.clone_into(&mut line.kind);
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
        let kind = match self.kind.as_str() {
            "file" => {
                let (Some(size), Some(extent), Some(leaves)) = (self.size, self.extent, self.leaves.clone()) else {
                    return Err(damaged("is a file without size, extent or leaves"));
                };
                TreeKind::File { size, extent, leaves }
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
        let xattr = |(name, value): &(String, String)| Ok((unescape(name)?, unescape(value)?));
        let attributes = Attributes {
            nanos: self.ns,
            user: self.user,
            group: self.group,
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
            stamp: self.stamp,
            changed: self.changed,
        })
    }
}
