//! Trees: the entries of a snapshot, one JSON line each, in path order, cut into frames at line ends.

mod line;

use breakwater_core::{Attributes, DeviceNumber, Timestamp};

use super::path::{PathOrder, check, escape};
use super::{FormatError, FrameLocation};

use line::Line;

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
    /// More metadata, for file trees.
    pub attributes: Attributes,
    /// The engine's token for this content: an entry with an equal one holds the same bytes.
    pub stamp: Option<String>,
    /// The file was being changed whenever it was read: its bytes may be of several states.
    pub changed: bool,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeKind {
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Bytes of every extent but the last; 0 for a file that is cut where its content says, whose extents are chunks
        /// of any length that add up to `size`.
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
    /// Another name of a file of this tree.
    Hardlink {
        /// The path of that file, which comes before this entry.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
}

/// Some extents of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRef {
    /// The leaf.
    pub leaf: FrameLocation,
    /// Index of the first extent in the leaf.
    pub first: u32,
    /// How many extents.
    pub count: u32,
}

/// Number of extents of a file of `size` bytes whose extents have `extent` bytes each; not to be asked for a file that is
/// cut where its content says.
pub const fn extent_count(size: u64, extent: u32) -> u64 {
    if extent == 0 { 0 } else { size.div_ceil(extent as u64) }
}

impl TreeEntry {
    /// Refuses an entry that contradicts itself or leaves the target.
    fn check(&self) -> Result<(), FormatError> {
        check(&self.path)?;
        let damaged =
            |detail: &str| Err(FormatError::damaged(WHAT, format!("entry `{}` {detail}", escape(&self.path))));
        if self.attributes.nanos > 999 {
            return damaged("has more nanoseconds than a microsecond has");
        }
        let names = || self.attributes.xattrs.iter().map(|(name, _)| name);
        if names().any(|name| name.is_empty() || name.contains(&0)) || !names().is_sorted_by(|one, next| one < next) {
            return damaged("has attributes without a usable name or out of order");
        }
        match &self.kind {
            TreeKind::File { size, extent, leaves } => {
                let listed: u64 = leaves.iter().map(|leaf| u64::from(leaf.count)).sum();
                // Of chunks only the leaves know the lengths; whoever reads those adds them up.
                let fits =
                    if *extent == 0 { (listed == 0) == (*size == 0) } else { listed == extent_count(*size, *extent) };
                if fits { Ok(()) } else { damaged("does not list the extents that its size needs") }
            }
            TreeKind::Symlink { target } if target.is_empty() || target.contains(&0) => damaged("has no usable target"),
            TreeKind::Hardlink { target } if check(target).is_err() || *target >= self.path => {
                damaged("is a hard link to something that does not come before it")
            }
            _ if self.attributes.sparse && !matches!(self.kind, TreeKind::File { .. }) => {
                damaged("is no file and has holes")
            }
            _ => Ok(()),
        }
    }
}

/// Appends the line of an entry, its end included, for [`TreeEncoder::push_line`].
pub fn encode_line(lines: &mut Vec<u8>, entry: &TreeEntry) -> Result<(), FormatError> {
    entry.check()?;
    serde_json::to_writer(&mut *lines, &Line::of(entry)).map_err(|source| FormatError::Json { what: WHAT, source })?;
    lines.push(b'\n');
    Ok(())
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
        self.order.next(&entry.path, matches!(entry.kind, TreeKind::Symlink { .. }))?;
        encode_line(&mut self.lines, entry)?;
        Ok(self.full())
    }

    /// The same with an entry that was [encoded](encode_line) before; `path` is its path, and `is_symlink` whether it is a
    /// symbolic link.
    pub fn push_line(&mut self, path: &[u8], is_symlink: bool, line: &[u8]) -> Result<Option<Vec<u8>>, FormatError> {
        self.order.next(path, is_symlink)?;
        self.lines.extend_from_slice(line);
        Ok(self.full())
    }

    fn full(&mut self) -> Option<Vec<u8>> {
        (self.lines.len() >= FRAME_AIM)
            .then(|| std::mem::replace(&mut self.lines, Vec::with_capacity(FRAME_AIM + 4096)))
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
        let entries = decode_frame(content)?;
        self.follow(&entries)?;
        Ok(entries)
    }

    /// Checks that the [decoded](decode_frame) entries of a frame come after those of the one before.
    pub fn follow(&mut self, entries: &[TreeEntry]) -> Result<(), FormatError> {
        let mut next = |entry: &TreeEntry| self.order.next(&entry.path, matches!(entry.kind, TreeKind::Symlink { .. }));
        entries.iter().try_for_each(&mut next)
    }
}

/// The entries of one frame, whose order is not checked: frames may be decoded side by side.
pub fn decode_frame(content: &[u8]) -> Result<Vec<TreeEntry>, FormatError> {
    let lines = match content.strip_suffix(b"\n") {
        Some(lines) => lines,
        None if content.is_empty() => return Ok(Vec::new()),
        None => return Err(FormatError::damaged(WHAT, "the last line has no end")),
    };
    // Once for the whole frame, instead of for each of its texts.
    let lines = std::str::from_utf8(lines).map_err(|_| FormatError::damaged(WHAT, "it is no text"))?;
    let decode = |line| {
        let line: Line<'_> = serde_json::from_str(line).map_err(|source| FormatError::Json { what: WHAT, source })?;
        let entry = line.entry()?;
        entry.check()?;
        Ok(entry)
    };
    lines.split('\n').map(decode).collect()
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

    fn attributes() -> impl Strategy<Value = (Attributes, Option<String>, bool)> {
        let names = prop::collection::btree_map(prop::collection::vec(1..=255u8, 1..9), any::<Vec<u8>>(), 0..3);
        let rest = any::<(u16, Option<String>, Option<String>, bool, Option<i64>, Option<String>, bool)>();
        (names, rest).prop_map(|(xattrs, (nanos, user, group, sparse, born, stamp, changed))| {
            let (nanos, born) = (nanos % 1000, born.map(Timestamp));
            let xattrs = xattrs.into_iter().collect();
            (Attributes { nanos, user, group, xattrs, sparse, born }, stamp, changed)
        })
    }

    fn entries() -> impl Strategy<Value = Vec<TreeEntry>> {
        let kind = any::<(u8, u32)>().prop_map(|(kind, size)| match kind % 10 {
            0 => TreeKind::Directory,
            1 => TreeKind::Symlink { target: vec![kind | 1; 3] },
            2 => TreeKind::Fifo,
            3 => TreeKind::Socket,
            4 => TreeKind::CharDevice(DeviceNumber { major: size, minor: 7 }),
            5 => TreeKind::BlockDevice(DeviceNumber { major: 1, minor: size }),
            6 => TreeKind::Hardlink { target: vec![1] },
            7 => TreeKind::File { size: u64::from(size) + 1, extent: 0, leaves: vec![leaf(size | 1)] },
            _ => {
                let count = u32::try_from(extent_count(u64::from(size), 4096)).unwrap();
                TreeKind::File { size: u64::from(size), extent: 4096, leaves: vec![leaf(count)] }
            }
        });
        let path = prop::collection::vec(1..=255u8, 1..12)
            .prop_filter("no parts", |path| !path.contains(&b'/') && path != b"." && path != b"..");
        prop::collection::btree_map(path, (kind, any::<(u32, u32, u32, i64, bool)>(), attributes()), 0..30).prop_map(
            |map| {
                let entry = |(path, (kind, (mode, uid, gid, mtime, last), (attributes, stamp, changed)))| TreeEntry {
                    path,
                    kind,
                    mode,
                    uid,
                    gid,
                    mtime: Timestamp(mtime),
                    last,
                    attributes,
                    stamp,
                    changed,
                };
                let mut entries: Vec<TreeEntry> = map.into_iter().map(entry).collect();
                for entry in &mut entries {
                    entry.attributes.sparse &= matches!(entry.kind, TreeKind::File { .. });
                }
                entries.retain(|entry| !matches!(entry.kind, TreeKind::Hardlink { .. }) || entry.path > vec![1]);
                entries
            },
        )
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
            attributes: Attributes::default(),
            stamp: None,
            changed: false,
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
    fn the_documented_line_of_a_file_with_everything_is_what_is_written() {
        let attributes = Attributes {
            nanos: 789,
            user: Some("ada".to_owned()),
            group: Some("staff".to_owned()),
            xattrs: vec![(b"user.colour".to_vec(), b"blue\0".to_vec())],
            sparse: true,
            born: Some(Timestamp(5)),
        };
        let entry = TreeEntry {
            path: b"docs/a".to_vec(),
            kind: TreeKind::File { size: 0, extent: 0, leaves: Vec::new() },
            mode: 0o640,
            uid: 1000,
            gid: 50,
            mtime: Timestamp(1_795_179_038_000_123),
            last: false,
            attributes,
            stamp: Some("1:2:3".to_owned()),
            changed: true,
        };
        let link = TreeEntry {
            path: b"docs/b".to_vec(),
            kind: TreeKind::Hardlink { target: b"docs/a".to_vec() },
            attributes: Attributes::default(),
            stamp: None,
            changed: false,
            ..entry.clone()
        };
        let number = DeviceNumber { major: 1, minor: 3 };
        let null = TreeEntry { path: b"null".to_vec(), kind: TreeKind::CharDevice(number), ..link.clone() };
        let mut encoder = TreeEncoder::default();
        for entry in [&entry, &link, &null] {
            assert!(encoder.push(entry).unwrap().is_none());
        }
        let common = "\"mode\":416,\"uid\":1000,\"gid\":50,\"mtime\":1795179038000123";
        assert_eq!(
            String::from_utf8(encoder.finish().unwrap()).unwrap(),
            format!(
                "{{\"path\":\"docs/a\",\"type\":\"file\",{common},\"ns\":789,\"born\":5,\"user\":\"ada\",\
                 \"group\":\"staff\",\"xattrs\":[[\"user.colour\",\"blue%00\"]],\"size\":0,\"extent\":0,\"leaves\":[],\
                 \"sparse\":true,\"stamp\":\"1:2:3\",\"changed\":true}}\n\
                 {{\"path\":\"docs/b\",\"type\":\"hardlink\",{common},\"target\":\"docs/a\"}}\n\
                 {{\"path\":\"null\",\"type\":\"char\",{common},\"rdev\":[1,3]}}\n"
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
        assert!(file(0, 0).is_ok());
        let is_bad = |rest: &str| assert!(line(&format!("{{\"path\":\"b\",{common},{rest}}}")).is_err(), "{rest}");
        is_bad("\"type\":\"dir\",\"ns\":1000");
        is_bad("\"type\":\"dir\",\"sparse\":true");
        is_bad("\"type\":\"hardlink\"");
        is_bad("\"type\":\"hardlink\",\"target\":\"../a\"");
        is_bad("\"type\":\"hardlink\",\"target\":\"b\"");
        is_bad("\"type\":\"hardlink\",\"target\":\"c\"");
        is_bad("\"type\":\"char\"");
        is_bad("\"type\":\"dir\",\"xattrs\":[[\"b\",\"\"],[\"a\",\"\"]]");
        is_bad("\"type\":\"dir\",\"xattrs\":[[\"\",\"\"]]");
        let error = line(&format!("{{\"path\":\"a\",\"type\":\"door\",{common}}}")).unwrap_err();
        assert!(matches!(error, FormatError::Newer { .. }));
    }
}
