//! Comparing what a source sends again with what is stored.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use super::StreamError;
use crate::format::names::LogRange;

/// The stored pieces that are still to be compared, in order.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    expected: VecDeque<(LogRange, [u8; 32])>,
    hasher: Sha256,
    /// Bytes of the first piece that were hashed.
    done: u64,
}

impl Verifier {
    pub(super) fn new(expected: &[(LogRange, [u8; 32])]) -> Verifier {
        Verifier { expected: expected.iter().copied().collect(), hasher: Sha256::new(), done: 0 }
    }

    /// Takes the next bytes of `branch`, which begin at `start`.
    pub(super) fn feed(&mut self, branch: u32, mut start: u64, mut bytes: &[u8]) -> Result<(), StreamError> {
        while let Some((range, digest)) = self.expected.front().copied() {
            let wanted = range.start + self.done;
            let end = start + bytes.len() as u64;
            if branch != range.branch || end <= wanted {
                return Ok(());
            }
            if start > wanted {
                // The bytes in between were not sent; nothing can be said about this piece.
                self.next();
                continue;
            }
            let skip = usize::try_from(wanted - start).unwrap_or(usize::MAX);
            let rest = bytes.get(skip..).unwrap_or_default();
            let take = usize::try_from((range.end - wanted).min(rest.len() as u64)).unwrap_or(rest.len());
            let (now, later) = rest.split_at(take);
            self.hasher.update(now);
            self.done += now.len() as u64;
            if range.start + self.done < range.end {
                return Ok(());
            }
            let found: [u8; 32] = std::mem::take(&mut self.hasher).finalize().into();
            if found != digest {
                return Err(StreamError::Divergence { range });
            }
            self.next();
            start = range.end;
            bytes = later;
        }
        Ok(())
    }

    fn next(&mut self) {
        self.expected.pop_front();
        self.hasher = Sha256::new();
        self.done = 0;
    }

    /// The branch ended: what is left of it cannot be compared.
    pub(super) fn branch_ended(&mut self) {
        self.expected.clear();
        self.hasher = Sha256::new();
        self.done = 0;
    }
}

#[cfg(test)]
mod tests {
    use breakwater_crypto::sha256;

    use super::*;

    fn pieces() -> Vec<(LogRange, [u8; 32])> {
        let piece = |start: u64, end: u64, text: &str| (LogRange { branch: 1, start, end }, sha256(text.as_bytes()));
        vec![piece(10, 13, "abc"), piece(13, 15, "de"), piece(20, 22, "xy")]
    }

    #[test]
    fn equal_bytes_pass_however_they_are_cut() {
        let log = b"__abcde12345xy77";
        for cut in 1..log.len() {
            let mut verifier = Verifier::new(&pieces());
            for (index, chunk) in log.chunks(cut).enumerate() {
                verifier.feed(1, 8 + (index * cut) as u64, chunk).unwrap();
            }
            assert!(verifier.expected.is_empty(), "cut {cut}");
        }
    }

    #[test]
    fn one_other_byte_is_found_in_its_piece() {
        let mut verifier = Verifier::new(&pieces());
        let error = verifier.feed(1, 10, b"abcdX12345xy").unwrap_err();
        assert!(matches!(error, StreamError::Divergence { range } if range.start == 13), "{error}");
        let mut verifier = Verifier::new(&pieces());
        verifier.feed(2, 10, b"zzzzzzz").unwrap();
        assert_eq!(verifier.expected.len(), 3, "another branch says nothing");
    }
}
