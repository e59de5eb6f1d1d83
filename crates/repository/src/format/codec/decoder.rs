//! Decompressing chunks.
//!
//! Invariant: whatever the bytes are, no more is written than the chunk is to have, and no decoder takes more memory than a
//! few times that: what claims more is damage. Nothing here panics.

use bzip2::Decompress as BzDecompress;
use flate2::{Decompress, FlushDecompress};
use liblzma::stream::{Action, Stream};

use super::{Codec, PLAIN_LENGTH_MAX};
use crate::format::FormatError;

/// Bits of DEFLATE's window.
const GZIP_WINDOW: u8 = 15;

/// The smallest dictionary that xz has.
const XZ_SMALLEST: u32 = 4 << 10;

/// What liblzma takes besides the dictionary.
const XZ_EXTRA: u64 = 1 << 20;

/// One thread's decompressor: it keeps its output, and zstd's tables, from chunk to chunk.
#[derive(Default)]
pub struct Decoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    plain: Vec<u8>,
}

impl Decoder {
    /// A decompressor of all codecs.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Undoes the compression of `payload`. `plain_length` is what must come out.
    pub fn decode<'a>(
        &'a mut self,
        codec: Codec,
        payload: &'a [u8],
        plain_length: u32,
    ) -> Result<&'a [u8], FormatError> {
        if codec == Codec::None {
            return if payload.len() == plain_length as usize { Ok(payload) } else { Err(wrong_length()) };
        }
        self.decompress(codec, payload, plain_length)?;
        Ok(&self.plain)
    }

    /// The same, and gives the output away. Answers `payload` itself when it was not compressed.
    pub(super) fn decode_owned(
        &mut self,
        codec: Codec,
        payload: Vec<u8>,
        plain_length: u32,
    ) -> Result<Vec<u8>, FormatError> {
        if codec == Codec::None {
            return if payload.len() == plain_length as usize { Ok(payload) } else { Err(wrong_length()) };
        }
        self.decompress(codec, &payload, plain_length)?;
        Ok(std::mem::take(&mut self.plain))
    }

    fn decompress(&mut self, codec: Codec, payload: &[u8], plain_length: u32) -> Result<(), FormatError> {
        if plain_length > PLAIN_LENGTH_MAX {
            return Err(wrong_length());
        }
        let length = plain_length as usize;
        let written = match codec {
            Codec::None => return Err(damaged()),
            Codec::Zstd => {
                let tool = match &mut self.zstd {
                    Some(tool) => tool,
                    none => none.insert(zstd::bulk::Decompressor::new().map_err(|_| damaged())?),
                };
                self.plain.clear();
                self.plain.reserve_exact(length);
                // The buffer may have room for more than this chunk.
                tool.decompress_to_buffer(payload, &mut self.plain).ok()
            }
            Codec::Lz4 => lz4_flex::block::decompress_into(payload, self.room(length)).ok(),
            Codec::Gzip => {
                let mut tool = Decompress::new_gzip(GZIP_WINDOW);
                let status = tool.decompress(payload, self.room(length + 1), FlushDecompress::Finish);
                let whole = matches!(status, Ok(flate2::Status::StreamEnd)) && tool.total_in() == payload.len() as u64;
                usize::try_from(tool.total_out()).ok().filter(|_| whole)
            }
            Codec::Bzip2 => {
                let mut tool = BzDecompress::new(false);
                let status = tool.decompress(payload, self.room(length + 1));
                let whole = matches!(status, Ok(bzip2::Status::StreamEnd)) && tool.total_in() == payload.len() as u64;
                usize::try_from(tool.total_out()).ok().filter(|_| whole)
            }
            Codec::Xz => {
                let memory = u64::from(xz_dictionary(length)) + XZ_EXTRA;
                let mut tool = Stream::new_stream_decoder(memory, 0).map_err(|_| damaged())?;
                let status = tool.process(payload, self.room(length + 1), Action::Finish);
                let whole =
                    matches!(status, Ok(liblzma::stream::Status::StreamEnd)) && tool.total_in() == payload.len() as u64;
                usize::try_from(tool.total_out()).ok().filter(|_| whole)
            }
        };
        match written {
            Some(written) if written == length => {
                self.plain.truncate(length);
                Ok(())
            }
            Some(_) => Err(wrong_length()),
            None => Err(damaged()),
        }
    }

    /// Room for `length` bytes.
    fn room(&mut self, length: usize) -> &mut [u8] {
        self.plain.resize(length, 0);
        &mut self.plain
    }
}

/// The dictionary for a chunk of `length` bytes: all of the chunk, in a size that the format has.
pub(super) fn xz_dictionary(length: usize) -> u32 {
    let largest = PLAIN_LENGTH_MAX as usize;
    u32::try_from(length.min(largest)).unwrap_or(PLAIN_LENGTH_MAX).next_power_of_two().max(XZ_SMALLEST)
}

fn damaged() -> FormatError {
    FormatError::damaged("frame", "its content cannot be decompressed")
}

fn wrong_length() -> FormatError {
    FormatError::damaged("frame", "its content does not have the length that it should have")
}
