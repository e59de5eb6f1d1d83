//! The search for the first position that is a cut.
//!
//! Positions are independent, so a stretch is split into lanes that go on side by side, and their digests are encrypted many
//! at a time: neither the chain of one lane's steps nor the latency of one encryption is what the processor waits for.

use aes::Aes128Enc;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit, consts::U16};
use breakwater_crypto::{Secret, derive};

use crate::WINDOW;
use crate::digest::{Digest, Tables};

/// Lanes side by side.
const LANES: usize = 8;

/// Positions of each lane that are encrypted at once.
const GROUP: usize = 64;

/// Positions of a lane in one stretch. What lies behind the first cut in the other lanes of a stretch is looked at in vain.
const LANE: usize = 2048;

type Block = Array<u8, U16>;

/// The keys of one chunker.
pub(crate) struct Cipher {
    tables: Tables,
    aes: Aes128Enc,
    threshold: u64,
}

impl Cipher {
    pub(crate) fn new(key: &Secret, threshold: u64) -> Cipher {
        let secret = derive(key, "chunker-aes", &[]);
        let (half, _) = secret.expose().split_at(16);
        let aes = Aes128Enc::new_from_slice(half).expect("AES-128 takes 16 bytes");
        Cipher { tables: Tables::new(key), aes, threshold }
    }

    /// The first of the positions `from..=to` of `data` that is a cut. `from` must be at least [`WINDOW`], and `to` at most
    /// the length of `data`.
    pub(crate) fn first_cut(&self, data: &[u8], from: usize, to: usize) -> Option<usize> {
        debug_assert!(WINDOW <= from && to <= data.len());
        if from > to {
            return None;
        }
        if self.is_cut(data.get(from - WINDOW..from)?) {
            return Some(from);
        }
        let mut next = from + 1;
        while to + 1 - next >= LANES * GROUP {
            let lane = ((to + 1 - next) / LANES).min(LANE) / GROUP * GROUP;
            if let Some(cut) = self.stretch::<LANES>(data, next, lane) {
                return Some(cut);
            }
            next += LANES * lane;
        }
        if to + 1 - next >= GROUP {
            let lane = (to + 1 - next) / GROUP * GROUP;
            if let Some(cut) = self.stretch::<1>(data, next, lane) {
                return Some(cut);
            }
            next += lane;
        }
        let mut digest = self.tables.of(data.get(next - 1 - WINDOW..next - 1)?);
        while next <= to {
            digest = self.tables.roll(digest, *data.get(next - 1)?, *data.get(next - 1 - WINDOW)?);
            if self.decides(digest) {
                return Some(next);
            }
            next += 1;
        }
        None
    }

    /// Whether a chunk may end behind this window.
    pub(crate) fn is_cut(&self, window: &[u8]) -> bool {
        self.decides(self.tables.of(window))
    }

    fn decides(&self, digest: Digest) -> bool {
        let mut block = block(digest);
        self.aes.encrypt_block(&mut block);
        low(&block) < self.threshold
    }

    /// The first cut among `N * lane` positions from `first` on.
    fn stretch<const N: usize>(&self, data: &[u8], first: usize, lane: usize) -> Option<usize> {
        let mut digests: [Digest; N] = [[0; 2]; N];
        // Bytes that come in and go out at each lane's positions.
        let mut flows: [(&[u8], &[u8]); N] = [(&[], &[]); N];
        for (number, (digest, flow)) in digests.iter_mut().zip(&mut flows).enumerate() {
            let before = first + number * lane - 1;
            *digest = self.tables.of(data.get(before - WINDOW..before)?);
            *flow = (data.get(before..before + lane)?, data.get(before - WINDOW..before - WINDOW + lane)?);
        }
        let mut found: [Option<usize>; N] = [None; N];
        let mut blocks = [[Block::default(); GROUP]; N];
        for at in (0..lane).step_by(GROUP) {
            let mut ins = [&[0; GROUP]; N];
            let mut outs = ins;
            for ((incoming, leaving), flow) in ins.iter_mut().zip(&mut outs).zip(&flows) {
                *incoming = flow.0.get(at..)?.first_chunk()?;
                *leaving = flow.1.get(at..)?.first_chunk()?;
            }
            for step in 0..GROUP {
                for number in 0..N {
                    let digest = self.tables.roll(digests[number], ins[number][step], outs[number][step]);
                    digests[number] = digest;
                    blocks[number][step] = block(digest);
                }
            }
            self.aes.encrypt_blocks(blocks.as_flattened_mut());
            if blocks.as_flattened().iter().fold(false, |any, block| any | (low(block) < self.threshold)) {
                for (number, (found, blocks)) in found.iter_mut().zip(&blocks).enumerate() {
                    let hit = blocks.iter().position(|block| low(block) < self.threshold);
                    *found = found.or(hit.map(|hit| first + number * lane + at + hit));
                }
                if found.first().is_some_and(Option::is_some) {
                    break;
                }
            }
        }
        found.into_iter().flatten().next()
    }
}

#[inline(always)]
fn block(digest: Digest) -> Block {
    let mut block = Block::default();
    block[..8].copy_from_slice(&digest[0].to_le_bytes());
    block[8..].copy_from_slice(&digest[1].to_le_bytes());
    block
}

#[inline(always)]
fn low(block: &Block) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = block.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
