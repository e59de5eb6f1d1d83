//! Compression and the classes of content.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::FormatError;

/// No chunk is longer than this before compression; what claims more is damage.
pub const PLAIN_LENGTH_MAX: u32 = 256 << 20;

thread_local! {
    /// Making a compressor costs more than compressing one extent, so each thread keeps its last one.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        RefCell::new(zstd::bulk::Decompressor::new().ok());
}

/// How a chunk was compressed before it was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Codec {
    /// Not at all.
    None,
    /// One Zstandard frame.
    Zstd,
}

impl Codec {
    /// The byte on disk.
    pub const fn byte(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Zstd => 1,
        }
    }

    /// The codec of this byte.
    pub fn from_byte(byte: u8) -> Result<Self, FormatError> {
        match byte {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Zstd),
            2..=5 => Err(FormatError::Newer { what: "frame", detail: format!("codec {byte}") }),
            _ => Err(FormatError::damaged("frame", format!("codec {byte} is not known"))),
        }
    }

    /// Undoes the compression. `plain_length` is what must come out.
    pub fn decode(self, stored: Vec<u8>, plain_length: u32) -> Result<Vec<u8>, FormatError> {
        let wrong = || FormatError::damaged("frame", "its content does not have the length that it should have");
        if plain_length > PLAIN_LENGTH_MAX {
            return Err(wrong());
        }
        let plain = match self {
            Codec::None => stored,
            Codec::Zstd => DECOMPRESSOR
                .with_borrow_mut(|tool| tool.as_mut().map(|tool| tool.decompress(&stored, plain_length as usize)))
                .unwrap_or_else(|| zstd::bulk::decompress(&stored, plain_length as usize))
                .map_err(|_| FormatError::damaged("frame", "its content cannot be decompressed"))?,
        };
        if plain.len() == plain_length as usize { Ok(plain) } else { Err(wrong()) }
    }

    /// Compresses `plain` at zstd `level`, or answers it unchanged where that saves less than one part in 32.
    pub fn encode(plain: &[u8], level: i32) -> std::io::Result<(Codec, Vec<u8>)> {
        let compressed = COMPRESSOR.with_borrow_mut(|slot| {
            let tool = match slot {
                Some((known, tool)) if *known == level => tool,
                _ => &mut slot.insert((level, zstd::bulk::Compressor::new(level)?)).1,
            };
            tool.compress(plain)
        })?;
        if compressed.len() < plain.len() - plain.len() / 32 {
            return Ok((Codec::Zstd, compressed));
        }
        Ok((Codec::None, plain.to_vec()))
    }
}

impl From<Codec> for u8 {
    fn from(codec: Codec) -> u8 {
        codec.byte()
    }
}

impl TryFrom<u8> for Codec {
    type Error = FormatError;
    fn try_from(byte: u8) -> Result<Self, FormatError> {
        Codec::from_byte(byte)
    }
}

/// What a chunk holds. Part of its id, so that one class can never be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// An extent of a file.
    Extent,
    /// A list of extents.
    Leaf,
    /// Lines of a tree.
    Tree,
    /// Bytes of a source's log.
    Log,
    /// The transaction index of a piece of log.
    LogIndex,
    /// Changed pages of a file.
    PageRun,
    /// A piece of a file whose ends its content decides.
    Chunk,
    /// What a snapshot needs of packs.
    References,
}

impl Class {
    /// The byte on disk.
    pub const fn byte(self) -> u8 {
        match self {
            Class::Extent => 1,
            Class::Leaf => 2,
            Class::Tree => 3,
            Class::Log => 4,
            Class::LogIndex => 5,
            Class::PageRun => 6,
            Class::Chunk => 7,
            Class::References => 8,
        }
    }

    /// The class of this byte.
    pub fn from_byte(byte: u8) -> Result<Self, FormatError> {
        match byte {
            1 => Ok(Class::Extent),
            2 => Ok(Class::Leaf),
            3 => Ok(Class::Tree),
            4 => Ok(Class::Log),
            5 => Ok(Class::LogIndex),
            6 => Ok(Class::PageRun),
            7 => Ok(Class::Chunk),
            8 => Ok(Class::References),
            9..=15 => Err(FormatError::Newer { what: "frame", detail: format!("class {byte}") }),
            _ => Err(FormatError::damaged("frame", format!("class {byte} is not known"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_undo_themselves_and_check_lengths() {
        let zeros = vec![0; 10_000];
        let (codec, stored) = Codec::encode(&zeros, 3).unwrap();
        assert_eq!(codec, Codec::Zstd);
        assert_eq!(codec.decode(stored.clone(), 10_000).unwrap(), zeros);
        assert!(codec.decode(stored.clone(), 9_999).is_err());
        assert!(codec.decode(stored.clone(), 10_001).is_err());
        assert!(codec.decode(stored, u32::MAX).is_err());
        assert!(codec.decode(b"nonsense".to_vec(), 10).is_err());
        let (codec, stored) = Codec::encode(b"short", 3).unwrap();
        assert_eq!((codec, &stored[..]), (Codec::None, &b"short"[..]));
        assert!(codec.decode(stored, 4).is_err());
        assert_eq!(Codec::encode(b"", 3).unwrap(), (Codec::None, Vec::new()));
    }

    #[test]
    fn bytes_round_trip_and_reserved_ones_are_newer() {
        for byte in 0..=255 {
            if let Ok(codec) = Codec::from_byte(byte) {
                assert_eq!(codec.byte(), byte);
            }
            if let Ok(class) = Class::from_byte(byte) {
                assert_eq!(class.byte(), byte);
            }
        }
        assert!(matches!(Codec::from_byte(2), Err(FormatError::Newer { .. })));
        assert!(matches!(Class::from_byte(9), Err(FormatError::Newer { .. })));
        assert!(matches!(Codec::from_byte(77), Err(FormatError::Damaged { .. })));
    }
}
