//! Compression of chunks, with tables and a buffer that a thread keeps.

use breakwater_repository::format::Codec;
use breakwater_repository::format::codec;
use breakwater_repository::format::codec::Compression;

use crate::PipelineError;

/// One thread's compressor.
pub(crate) struct Encoder(codec::Encoder);

impl Encoder {
    /// A compressor of this kind.
    pub(crate) fn new(compression: Compression) -> Result<Encoder, PipelineError> {
        codec::Encoder::new(compression).map(Encoder).map_err(failed)
    }

    /// The compressed form of `plain`, or `plain` itself where that saves less than one part in 32.
    pub(crate) fn encode<'a>(&'a mut self, plain: &'a [u8]) -> Result<(Codec, &'a [u8]), PipelineError> {
        self.0.encode(plain).map_err(failed)
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
        for kind in ["none", "zstd:3", "lz4", "gzip", "bzip2", "xz"] {
            let compression: Compression = kind.parse().unwrap();
            let mut encoder = Encoder::new(compression).unwrap();
            for plain in [vec![7; 5000], (0..200).collect(), Vec::new()] {
                let (codec, stored) = encoder.encode(&plain).unwrap();
                let stored = stored.to_vec();
                let expected = if plain.len() == 5000 { compression.codec() } else { Codec::None };
                assert_eq!(codec, expected);
                assert_eq!(codec.decode(stored, u32::try_from(plain.len()).unwrap()).unwrap(), plain);
            }
        }
    }
}
