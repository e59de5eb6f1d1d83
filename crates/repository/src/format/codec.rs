//! Compression and the classes of content.
//!
//! Reading order: this page, [`Compression`] (what an operator chooses), [`Encoder`], [`Decoder`].

mod compression;
mod decoder;
mod encoder;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::FormatError;

pub use compression::{Compression, CompressionError};
pub use decoder::Decoder;
pub use encoder::Encoder;

/// No chunk is longer than this before compression; what claims more is damage.
pub const PLAIN_LENGTH_MAX: u32 = 256 << 20;

thread_local! {
    /// Making a compressor costs more than compressing one extent, so each thread keeps its last one.
    static ENCODER: RefCell<Option<Encoder>> = const { RefCell::new(None) };
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new());
}

/// How a chunk was compressed before it was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Codec {
    /// Not at all.
    None,
    /// One Zstandard frame (RFC 8878).
    Zstd,
    /// One raw LZ4 block.
    Lz4,
    /// One gzip member (RFC 1952).
    Gzip,
    /// One bzip2 stream.
    Bzip2,
    /// One .xz stream.
    Xz,
}

impl Codec {
    /// All of them.
    pub const ALL: [Codec; 6] = [Codec::None, Codec::Zstd, Codec::Lz4, Codec::Gzip, Codec::Bzip2, Codec::Xz];

    /// The byte on disk.
    pub const fn byte(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Zstd => 1,
            Codec::Lz4 => 2,
            Codec::Gzip => 3,
            Codec::Bzip2 => 4,
            Codec::Xz => 5,
        }
    }

    /// The codec of this byte.
    pub fn from_byte(byte: u8) -> Result<Self, FormatError> {
        let found = Codec::ALL.get(usize::from(byte)).copied();
        found.ok_or_else(|| FormatError::damaged("frame", format!("codec {byte} is not known")))
    }

    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Zstd => "zstd",
            Codec::Lz4 => "lz4",
            Codec::Gzip => "gzip",
            Codec::Bzip2 => "bzip2",
            Codec::Xz => "xz",
        }
    }

    /// Undoes the compression. `plain_length` is what must come out.
    pub fn decode(self, stored: Vec<u8>, plain_length: u32) -> Result<Vec<u8>, FormatError> {
        DECODER.with_borrow_mut(|decoder| decoder.decode_owned(self, stored, plain_length))
    }

    /// Compresses `plain` at zstd `level`, or answers it unchanged where that saves less than one part in 32.
    pub fn encode(plain: &[u8], level: i32) -> std::io::Result<(Codec, Vec<u8>)> {
        let compression = Compression::new(Codec::Zstd, level).map_err(std::io::Error::other)?;
        ENCODER.with_borrow_mut(|slot| {
            let encoder = match slot {
                Some(encoder) if encoder.compression() == compression => encoder,
                _ => slot.insert(Encoder::new(compression)?),
            };
            let (codec, stored) = encoder.encode(plain)?;
            Ok((codec, stored.to_vec()))
        })
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
        assert_eq!(Codec::from_byte(5).unwrap(), Codec::Xz);
        assert!(matches!(Codec::from_byte(6), Err(FormatError::Damaged { .. })));
        assert!(matches!(Class::from_byte(9), Err(FormatError::Newer { .. })));
        assert!(matches!(Codec::from_byte(77), Err(FormatError::Damaged { .. })));
    }
}
