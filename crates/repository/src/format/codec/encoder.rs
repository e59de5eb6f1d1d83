//! Compressing chunks. Invariant: what is answered as compressed is at least one part in 32 shorter than the chunk.

use std::io;

use bzip2::Action as BzAction;
use flate2::{Compress, FlushCompress};
use liblzma::stream::{Action as XzAction, Check, Filters, LzmaOptions, Stream};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::decoder::xz_dictionary;
use super::{Codec, Compression};

/// Bits of DEFLATE's window.
const GZIP_WINDOW: u8 = 15;

/// bzip2 sorts blocks of this many bytes times its level.
const BZIP2_BLOCK: usize = 100_000;

/// One thread's compressor: it keeps its tables and its output from chunk to chunk.
///
/// bzip2 and xz make their tables anew for each chunk, because their libraries cannot reset them; that costs little beside
/// their work.
pub struct Encoder {
    compression: Compression,
    tool: Tool,
    output: Vec<u8>,
}

enum Tool {
    None,
    Zstd(zstd::bulk::Compressor<'static>),
    Lz4(Box<CompressTable>),
    Gzip(Compress),
    Bzip2,
    Xz,
}

impl Encoder {
    /// A compressor of this kind.
    pub fn new(compression: Compression) -> io::Result<Encoder> {
        let tool = match compression.codec() {
            Codec::None => Tool::None,
            Codec::Zstd => Tool::Zstd(zstd::bulk::Compressor::new(compression.level())?),
            Codec::Lz4 => Tool::Lz4(Box::new(CompressTable::large())),
            Codec::Gzip => Tool::Gzip(Compress::new_gzip(flate2::Compression::new(level(compression)), GZIP_WINDOW)),
            Codec::Bzip2 => Tool::Bzip2,
            Codec::Xz => Tool::Xz,
        };
        Ok(Encoder { compression, tool, output: Vec::new() })
    }

    /// What it does.
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// The compressed form of `plain`, or `plain` itself where that would save less than one part in 32.
    pub fn encode<'a>(&'a mut self, plain: &'a [u8]) -> io::Result<(Codec, &'a [u8])> {
        // One byte less than the worst that is still worth it: then what comes out whole is short enough.
        let worth = (plain.len() - plain.len() / 32).saturating_sub(1);
        if worth == 0 {
            return Ok((Codec::None, plain));
        }
        let length = self.compress(plain, worth)?;
        match length.filter(|length| *length <= worth) {
            Some(length) => Ok((self.compression.codec(), self.output.get(..length).unwrap_or_default())),
            None => Ok((Codec::None, plain)),
        }
    }

    /// Compresses into the output and answers the length; `None` when it is longer than `worth`, as far as that was found.
    fn compress(&mut self, plain: &[u8], worth: usize) -> io::Result<Option<usize>> {
        let output = &mut self.output;
        match &mut self.tool {
            Tool::None => Ok(None),
            Tool::Zstd(tool) => {
                output.clear();
                output.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                tool.compress_to_buffer(plain, output).map(Some)
            }
            Tool::Lz4(table) => {
                output.resize(get_maximum_output_size(plain.len()), 0);
                compress_into_with_table(plain, output, table).map(Some).map_err(io::Error::other)
            }
            Tool::Gzip(tool) => {
                output.resize(worth, 0);
                tool.reset();
                let status = tool.compress(plain, output, FlushCompress::Finish).map_err(io::Error::other)?;
                Ok(length(status == flate2::Status::StreamEnd, tool.total_out()))
            }
            Tool::Bzip2 => {
                output.resize(worth, 0);
                // A larger block than the chunk has bytes would only cost memory, here and where it is read.
                let blocks = u32::try_from(plain.len() / BZIP2_BLOCK + 1).unwrap_or(9);
                let size = bzip2::Compression::new(level(self.compression).min(blocks));
                let mut tool = bzip2::Compress::new(size, 0);
                let status = tool.compress(plain, output, BzAction::Finish).map_err(io::Error::other)?;
                Ok(length(status == bzip2::Status::StreamEnd, tool.total_out()))
            }
            Tool::Xz => {
                output.resize(worth, 0);
                let mut options = LzmaOptions::new_preset(level(self.compression)).map_err(io::Error::other)?;
                options.dict_size(xz_dictionary(plain.len()));
                let mut filters = Filters::new();
                filters.lzma2(&options);
                let mut tool = Stream::new_stream_encoder(&filters, Check::Crc32).map_err(io::Error::other)?;
                let status = tool.process(plain, output, XzAction::Finish).map_err(io::Error::other)?;
                Ok(length(status == liblzma::stream::Status::StreamEnd, tool.total_out()))
            }
        }
    }
}

fn level(compression: Compression) -> u32 {
    compression.level().unsigned_abs()
}

fn length(ended: bool, total: u64) -> Option<usize> {
    usize::try_from(total).ok().filter(|_| ended)
}
