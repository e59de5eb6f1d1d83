//! The body of a request as a rope of buffers, of a length that is known before, so that a pack is sent without being copied
//! together.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use breakwater_storage::Payload;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes in order, handed out part by part. No part is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rope {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl Rope {
    pub(crate) fn push(&mut self, part: Bytes) {
        self.left += part.len() as u64;
        if !part.is_empty() {
            self.parts.push_back(part);
        }
    }

    /// The bytes of `payload` that lie in `range`.
    pub(crate) fn push_range(&mut self, payload: &Payload, range: Range<u64>) {
        let mut at = 0;
        for part in payload.parts() {
            let length = part.len() as u64;
            let within = |offset: u64| usize::try_from(offset.saturating_sub(at).min(length)).unwrap_or(part.len());
            self.push(part.slice(within(range.start)..within(range.end)));
            at += length;
        }
    }
}

impl Body for Rope {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.pop_front();
        self.left -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_of_a_rope_is_a_range_of_its_bytes(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6),
            ends in (0..50_usize, 0..50_usize),
        ) {
            let payload = Payload::from(parts.iter().cloned().map(Bytes::from).collect::<Vec<_>>());
            let whole = parts.concat();
            let (start, end) = (ends.0.min(ends.1).min(whole.len()), ends.0.max(ends.1).min(whole.len()));
            let mut rope = Rope::default();
            rope.push_range(&payload, start as u64..end as u64);
            prop_assert_eq!(rope.size_hint().exact(), Some((end - start) as u64));
            prop_assert_eq!(rope.parts.into_iter().flatten().collect::<Vec<u8>>(), &whole[start..end]);
        }
    }
}
