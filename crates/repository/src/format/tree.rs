//! Trees: the entries of a snapshot, one JSON line each, in path order, cut into frames at line ends.

use breakwater_core::Timestamp;
use serde::{Deserialize, Serialize};

use super::path::{PathOrder, check, escape, unescape};
use super::{FormatError, FrameLocation};

const WHAT: &str = "tree";

/// A frame is cut when it has this many bytes.
pub const FRAME_AIM: usize = 1 << 20;

/// One thing to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Path inside the target.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TreeKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Put in place last by a restore.
    pub last: bool,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeKind {
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Bytes of every extent but the last.
        extent: u32,
        /// Where its extents are listed, in order.
        leaves: Vec<LeafRef>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

/// Some extents of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRef {
    /// The leaf.
    #[serde(flatten)]
    pub leaf: FrameLocation,
    /// Index of the first extent in the leaf.
    pub first: u32,
    /// How many extents.
    pub count: u32,
}

/// Number of extents of a file of `size` bytes.
pub const fn extent_count(size: u64, extent: u32) -> u64 {
    if extent == 0 { 0 } else { size.div_ceil(extent as u64) }
}

/// An entry as it is written.
#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extent: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves: Option<Vec<LeafRef>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    last: bool,
}

impl TreeEntry {
    fn to_line(&self) -> Line {
        let mut line = Line {
            path: escape(&self.path),
            kind: String::new(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            size: None,
            extent: None,
            leaves: None,
            target: None,
            last: self.last,
        };
        match &self.kind {
            TreeKind::File { size, extent, leaves } => {
                "file".clone_into(&mut line.kind);
                line.size = Some(*size);
                line.extent = Some(*extent);
                line.leaves = Some(leaves.clone());
            }
            TreeKind::Directory => "dir".clone_into(&mut line.kind),
            TreeKind::Symlink { target } => {
                "symlink".clone_into(&mut line.kind);
                line.target = Some(escape(target));
            }
        }
        line
    }

    fn from_line(line: Line) -> Result<Self, FormatError> {
        let damaged = |detail: &str| FormatError::damaged(WHAT, format!("entry `{}` {detail}", line.path));
        let kind = match line.kind.as_str() {
            "file" => {
                let (Some(size), Some(extent), Some(leaves)) = (line.size, line.extent, line.leaves.clone()) else {
                    return Err(damaged("is a file without size, extent or leaves"));
                };
                TreeKind::File { size, extent, leaves }
            }
            "dir" => TreeKind::Directory,
            "symlink" => {
                let target = line.target.as_deref().ok_or_else(|| damaged("is a link without target"))?;
                TreeKind::Symlink { target: unescape(target)? }
            }
            other => return Err(FormatError::Newer { what: WHAT, detail: format!("entry type `{other}`") }),
        };
        let path = unescape(&line.path)?;
        let Line { mode, uid, gid, mtime, last, .. } = line;
        let entry = TreeEntry { path, kind, mode, uid, gid, mtime, last };
        entry.check()?;
        Ok(entry)
    }

    /// Refuses an entry that contradicts itself or leaves the target.
    fn check(&self) -> Result<(), FormatError> {
        check(&self.path)?;
        let damaged =
            |detail: &str| Err(FormatError::damaged(WHAT, format!("entry `{}` {detail}", escape(&self.path))));
        match &self.kind {
            TreeKind::File { size, extent, leaves } => {
                let listed: u64 = leaves.iter().map(|leaf| u64::from(leaf.count)).sum();
                if listed != extent_count(*size, *extent) || (*extent == 0 && *size > 0) {
                    return damaged("does not list the extents that its size needs");
                }
                Ok(())
            }
            TreeKind::Symlink { target } if target.is_empty() || target.contains(&0) => damaged("has no usable target"),
            TreeKind::Symlink { .. } | TreeKind::Directory => Ok(()),
        }
    }
}

/// Makes the frames of a tree of entries that come in path order.
#[derive(Debug, Default)]
pub struct TreeEncoder {
    order: PathOrder,
    lines: Vec<u8>,
}

impl TreeEncoder {
    /// Adds an entry; answers a frame's content when one is full.
    pub fn push(&mut self, entry: &TreeEntry) -> Result<Option<Vec<u8>>, FormatError> {
        entry.check()?;
        self.order.next(&entry.path, matches!(entry.kind, TreeKind::Symlink { .. }))?;
        serde_json::to_writer(&mut self.lines, &entry.to_line())
            .map_err(|source| FormatError::Json { what: WHAT, source })?;
        self.lines.push(b'\n');
        Ok((self.lines.len() >= FRAME_AIM).then(|| std::mem::take(&mut self.lines)))
    }

    /// The content of the last frame, where there is one.
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.lines.is_empty()).then_some(self.lines)
    }
}

/// Reads the frames of a tree one after the other, and checks what a whole tree promises.
#[derive(Debug, Default)]
pub struct TreeDecoder {
    order: PathOrder,
}

impl TreeDecoder {
    /// The entries of the next frame.
    pub fn frame(&mut self, content: &[u8]) -> Result<Vec<TreeEntry>, FormatError> {
        let lines = match content.strip_suffix(b"\n") {
            Some(lines) => lines,
            None if content.is_empty() => return Ok(Vec::new()),
            None => return Err(FormatError::damaged(WHAT, "the last line has no end")),
        };
        let mut entries = Vec::new();
        for line in lines.split(|byte| *byte == b'\n') {
            let line: Line = serde_json::from_slice(line).map_err(|source| FormatError::Json { what: WHAT, source })?;
            let entry = TreeEntry::from_line(line)?;
            self.order.next(&entry.path, matches!(entry.kind, TreeKind::Symlink { .. }))?;
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::SessionId;
    use breakwater_crypto::ChunkId;
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    use super::*;
    use crate::format::{Codec, PackId};

    fn leaf(count: u32) -> LeafRef {
        let pack = PackId { session: SessionId::from_bytes([1; 16]), number: 0 };
        let id = ChunkId([3; 32]);
        LeafRef {
            leaf: FrameLocation { pack, offset: 128, stored: 412, plain: 1064, codec: Codec::Zstd, id },
            first: 0,
            count,
        }
    }

    fn entries() -> impl Strategy<Value = Vec<TreeEntry>> {
        let kind = any::<(u8, u32)>().prop_map(|(kind, size)| match kind % 4 {
            0 => TreeKind::Directory,
            1 => TreeKind::Symlink { target: vec![kind | 1; 3] },
            _ => {
                let count = u32::try_from(extent_count(u64::from(size), 4096)).unwrap();
                TreeKind::File { size: u64::from(size), extent: 4096, leaves: vec![leaf(count)] }
            }
        });
        let path = prop::collection::vec(1..=255u8, 1..12)
            .prop_filter("no parts", |path| !path.contains(&b'/') && path != b"." && path != b"..");
        prop::collection::btree_map(path, (kind, any::<(u32, u32, u32, i64, bool)>()), 0..30).prop_map(|map| {
            let entry = |(path, (kind, (mode, uid, gid, mtime, last)))| TreeEntry {
                path,
                kind,
                mode,
                uid,
                gid,
                mtime: Timestamp(mtime),
                last,
            };
            map.into_iter().map(entry).collect()
        })
    }

    proptest! {
        #[test]
        fn trees_round_trip(entries in entries()) {
            let mut encoder = TreeEncoder::default();
            let mut frames: Vec<_> = entries.iter().filter_map(|entry| encoder.push(entry).unwrap()).collect();
            frames.extend(encoder.finish());
            let mut decoder = TreeDecoder::default();
            let read: Vec<_> = frames.iter().flat_map(|frame| decoder.frame(frame).unwrap()).collect();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in "[ -~\n]{0,200}") {
            drop(TreeDecoder::default().frame(text.as_bytes()));
        }
    }

    #[test]
    fn the_documented_line_is_what_is_written() {
        let entry = TreeEntry {
            path: b"base/1/1259".to_vec(),
            kind: TreeKind::File { size: 131_072, extent: 131_072, leaves: vec![leaf(1)] },
            mode: 384,
            uid: 104,
            gid: 110,
            mtime: Timestamp(1_795_179_038_000_123),
            last: false,
        };
        let mut encoder = TreeEncoder::default();
        assert!(encoder.push(&entry).unwrap().is_none());
        let text = String::from_utf8(encoder.finish().unwrap()).unwrap();
        let (session, id) = ("01".repeat(16), "03".repeat(32));
        assert_eq!(
            text,
            format!(
                "{{\"path\":\"base/1/1259\",\"type\":\"file\",\"mode\":384,\"uid\":104,\"gid\":110,\
                 \"mtime\":1795179038000123,\"size\":131072,\"extent\":131072,\"leaves\":[{{\"pack\":[\"{session}\",0],\
                 \"offset\":128,\"stored\":412,\"plain\":1064,\"codec\":1,\"id\":\"{id}\",\"first\":0,\"count\":1}}]}}\n"
            )
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let line = |text: &str| TreeDecoder::default().frame(format!("{text}\n").as_bytes());
        let common = "\"mode\":1,\"uid\":0,\"gid\":0,\"mtime\":0";
        assert!(line(&format!("{{\"path\":\"a\",\"type\":\"dir\",{common},\"new\":1}}")).is_ok(), "unknown field");
        assert!(line(&format!("{{\"path\":\"../a\",\"type\":\"dir\",{common}}}")).is_err());
        assert!(line(&format!("{{\"path\":\"%2e%2e/a\",\"type\":\"dir\",{common}}}")).is_err());
        assert!(line(&format!("{{\"path\":\"a\",\"type\":\"file\",{common}}}")).is_err());
        let file = |size, extent| {
            line(&format!(
                "{{\"path\":\"a\",\"type\":\"file\",{common},\"size\":{size},\"extent\":{extent},\"leaves\":[]}}"
            ))
        };
        assert!(file(0, 4096).is_ok());
        assert!(file(1, 4096).is_err());
        assert!(file(1, 0).is_err());
        let error = line(&format!("{{\"path\":\"a\",\"type\":\"fifo\",{common}}}")).unwrap_err();
        assert!(matches!(error, FormatError::Newer { .. }));
    }
}
