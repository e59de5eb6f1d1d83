//! Compression of chunks, with a context and a buffer that a thread keeps.

use breakwater_repository::format::Codec;

use crate::PipelineError;

/// The level at which the time is well spent: measured in `benches/`.
const LEVEL: i32 = 3;

/// One thread's compressor.
pub(crate) struct Encoder {
    context: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Encoder {
    /// For chunks of up to `largest` bytes.
    pub(crate) fn new(largest: usize) -> Result<Encoder, PipelineError> {
        let context = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
        Ok(Encoder { context, buffer: Vec::with_capacity(zstd::zstd_safe::compress_bound(largest)) })
    }

    /// The compressed form of `plain`, or `plain` itself where that saves less than one part in 32.
    pub(crate) fn encode<'a>(&'a mut self, plain: &'a [u8]) -> Result<(Codec, &'a [u8]), PipelineError> {
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.context.compress_to_buffer(plain, &mut self.buffer).map_err(failed)?;
        if self.buffer.len() < plain.len() - plain.len() / 32 {
            return Ok((Codec::Zstd, &self.buffer));
        }
        Ok((Codec::None, plain))
    }
}

fn failed(error: std::io::Error) -> PipelineError {
    PipelineError::io("compressing a chunk", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_shortened_is_and_comes_back() {
        let mut encoder = Encoder::new(1000).unwrap();
        for plain in [vec![7; 5000], (0..200).collect(), Vec::new()] {
            let (codec, stored) = encoder.encode(&plain).unwrap();
            let stored = stored.to_vec();
            assert_eq!(codec == Codec::Zstd, plain.len() == 5000);
            assert_eq!(codec.decode(stored, u32::try_from(plain.len()).unwrap()).unwrap(), plain);
        }
    }
}
