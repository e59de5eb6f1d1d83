//! The content of an object on its way out: the parts of a [`Payload`] one after the other, never copied together.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use azure_core::http::Body;
use azure_core::stream::SeekableStream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use breakwater_storage::Payload;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::io::AsyncRead;

/// How much the SDK takes at a time, in bytes.
const TAKEN: usize = 256 << 10;

/// A body that sends `payload`. One part goes out as it is; of several a piece is copied at a time.
pub(crate) fn body(payload: &Payload) -> Body {
    match payload.parts() {
        [] => Body::Bytes(Bytes::new()),
        [only] => Body::Bytes(only.clone()),
        _ => Body::SeekableStream(Box::new(Rope { payload: payload.clone(), part: 0, offset: 0 })),
    }
}

/// The checksum of `payload` as the service wants it: its CRC-64, the one that is also called NVME, lowest byte first.
pub(crate) fn crc64(payload: &Payload) -> [u8; 8] {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    for part in payload.parts() {
        digest.update(part);
    }
    digest.finalize().to_le_bytes()
}

/// The same for a header.
pub(crate) fn crc64_text(payload: &Payload) -> String {
    STANDARD.encode(crc64(payload))
}

/// `payload` in blocks of `length` bytes, the last one shorter. Shares the bytes.
pub(crate) fn blocks(payload: &Payload, length: u64) -> Vec<Payload> {
    let mut blocks = Vec::new();
    let (mut parts, mut room) = (Vec::new(), length);
    for part in payload.parts() {
        let mut rest = part.clone();
        while !rest.is_empty() {
            let taken = rest.split_to(usize::try_from(room).map_or(rest.len(), |room| room.min(rest.len())));
            room -= taken.len() as u64;
            parts.push(taken);
            if room == 0 {
                blocks.push(Payload::from(std::mem::take(&mut parts)));
                room = length;
            }
        }
    }
    if !parts.is_empty() {
        blocks.push(Payload::from(parts));
    }
    blocks
}

#[derive(Clone, Debug)]
struct Rope {
    payload: Payload,
    part: usize,
    offset: usize,
}

impl AsyncRead for Rope {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let (part, offset) = (self.part, self.offset);
        let Some(current) = self.payload.parts().get(part) else { return Poll::Ready(Ok(0)) };
        let (length, whole) = (buffer.len().min(current.len() - offset), current.len());
        buffer[..length].copy_from_slice(&current[offset..offset + length]);
        if offset + length == whole {
            (self.part, self.offset) = (part + 1, 0);
        } else {
            self.offset += length;
        }
        Poll::Ready(Ok(length))
    }
}

#[async_trait]
impl SeekableStream for Rope {
    async fn reset(&mut self) -> azure_core::Result<()> {
        (self.part, self.offset) = (0, 0);
        Ok(())
    }

    fn len(&self) -> Option<u64> {
        Some(self.payload.len())
    }

    fn buffer_size(&self) -> usize {
        // Not more than there is, so that small parts do not cost a large buffer each.
        self.payload.parts().get(self.part).map_or(1, |part| (part.len() - self.offset).min(TAKEN))
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncReadExt;
    use proptest::prelude::*;

    use super::*;

    fn payload(parts: &[Vec<u8>]) -> Payload {
        Payload::from(parts.iter().map(|part| Bytes::from(part.clone())).collect::<Vec<_>>())
    }

    /// Values of Microsoft's own calculator, from the tests of its Java library.
    #[test]
    fn checksums_are_those_of_the_vendor() {
        let sum = |text: &str| u64::from_le_bytes(crc64(&Payload::from(text.as_bytes().to_vec())));
        assert_eq!(sum(""), 0);
        assert_eq!(sum("Hello World!"), 208_604_604_655_264_165);
        assert_eq!(sum("123456789!@#$%^&*()"), 2_153_758_901_452_455_624);
        let long = "This is a test where the data is longer than 64 characters so that we can test that code path.";
        assert_eq!(sum(long), 2_736_107_658_526_394_369);
        let bytes = hex_bytes();
        assert_eq!(u64::from_le_bytes(crc64(&Payload::from(bytes))), 3_386_042_136_331_673_945);
    }

    fn hex_bytes() -> Vec<u8> {
        vec![0xC8, 0xE1, 0x1B, 0x40, 0xD7, 0x93, 0xD1, 0x52, 0x60, 0x18]
    }

    proptest! {
        #[test]
        fn parts_go_out_in_order_and_again_after_a_reset(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            piece in 1..50_usize,
        ) {
            let payload = payload(&parts);
            let mut rope = Rope { payload: payload.clone(), part: 0, offset: 0 };
            for _ in 0..2 {
                let (mut out, mut buffer) = (Vec::new(), vec![0; piece]);
                loop {
                    let read = futures::executor::block_on(rope.read(&mut buffer)).unwrap();
                    if read == 0 {
                        break;
                    }
                    out.extend_from_slice(&buffer[..read]);
                }
                prop_assert_eq!(&out[..], &payload.to_bytes()[..]);
                futures::executor::block_on(rope.reset()).unwrap();
            }
        }

        #[test]
        fn blocks_are_the_payload(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            length in 1..50_u64,
        ) {
            let payload = payload(&parts);
            let blocks = blocks(&payload, length);
            let (last, whole) = blocks.split_last().map_or((0, &[][..]), |(last, whole)| (last.len(), whole));
            prop_assert!(whole.iter().all(|block| block.len() == length) && last <= length);
            let joined: Vec<u8> = blocks.iter().flat_map(|block| block.to_bytes()).collect();
            prop_assert_eq!(&joined[..], &payload.to_bytes()[..]);
            let parts: Vec<Bytes> = payload.parts().to_vec();
            prop_assert_eq!(crc64(&Payload::from(parts)), crc64(&Payload::from(payload.to_bytes())));
        }
    }
}
