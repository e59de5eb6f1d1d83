//! A payload as the body of a request: its parts as they lie in memory, with the length and the checksum known before the first
//! byte goes out.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use http_body::{Body, Frame, SizeHint};

/// Bytes in order, in any number of parts, none of them copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rope {
    parts: Vec<Bytes>,
}

impl Rope {
    pub(crate) fn new(parts: &[Bytes]) -> Rope {
        Rope { parts: parts.to_vec() }
    }

    pub(crate) fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    /// Cuts into ropes of `bytes` each, the last one of what is left.
    pub(crate) fn cut(mut self, bytes: u64) -> Vec<Rope> {
        let mut cuts = Vec::new();
        let (mut cut, mut room) = (Rope::default(), bytes);
        self.parts.reverse();
        while let Some(mut part) = self.parts.pop() {
            let fits = usize::try_from(room).unwrap_or(usize::MAX).min(part.len());
            let rest = part.split_off(fits);
            room -= part.len() as u64;
            cut.parts.push(part);
            if !rest.is_empty() {
                self.parts.push(rest);
            }
            if room == 0 {
                cuts.push(std::mem::take(&mut cut));
                room = bytes;
            }
        }
        if !cut.parts.is_empty() {
            cuts.push(cut);
        }
        cuts
    }

    pub(crate) fn checksum(&self) -> Checksum {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        for part in &self.parts {
            digest.update(part);
        }
        Checksum(digest.finalize())
    }

    /// As a body that can be made again, which the SDK asks for.
    pub(crate) fn into_body(self) -> ByteStream {
        let make = move || {
            let mut rest = self.parts.clone();
            rest.reverse();
            SdkBody::from_body_1_x(Remainder { left: self.len(), rest })
        };
        ByteStream::new(SdkBody::retryable(make))
    }
}

/// The CRC64NVME of an object, which AWS verifies as it receives and keeps with the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum(u64);

impl Checksum {
    /// As it stands in headers.
    pub(crate) fn header(self) -> String {
        BASE64_STANDARD.encode(self.0.to_be_bytes())
    }
}

/// What is still to be sent; the next part is the last of `rest`.
struct Remainder {
    left: u64,
    rest: Vec<Bytes>,
}

impl Body for Remainder {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.rest.pop();
        self.left -= next.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rope(parts: &[Vec<u8>]) -> Rope {
        Rope::new(&parts.iter().cloned().map(Bytes::from).filter(|part| !part.is_empty()).collect::<Vec<_>>())
    }

    #[test]
    fn the_checksum_is_crc64_nvme() {
        // The check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms.
        assert_eq!(rope(&[b"1234".to_vec(), b"56789".to_vec()]).checksum(), Checksum(0xAE8B_1486_0A79_9888));
        assert_eq!(rope(&[]).checksum().header(), "AAAAAAAAAAA=");
    }

    proptest! {
        #[test]
        fn cuts_are_whole_and_in_order(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8), bytes in 1_u64..50) {
            let whole: Vec<u8> = parts.concat();
            let cuts = rope(&parts).cut(bytes);
            prop_assert!(cuts.iter().rev().skip(1).all(|cut| cut.len() == bytes));
            prop_assert!(cuts.last().is_none_or(|cut| (1..=bytes).contains(&cut.len())));
            let again: Vec<u8> = cuts.iter().flat_map(|cut| cut.parts.concat()).collect();
            prop_assert_eq!(again, whole);
        }
    }
}
