//! The universal hash of a window: 64 bytes into two times 64 bits.
//!
//! Each half is `x^63·T[b0] + x^62·T[b1] + … + T[b63]` over GF(2)[x] modulo x^64 + x^4 + x^3 + x + 1, with a secret table T of
//! 256 random elements, its own for each half. For two different windows the sum of the halves' differences is a sum over the
//! table's elements with at least one factor that is not zero; the polynomial is irreducible, so that factor is invertible and
//! the sum is uniform: the windows meet with probability 2^-64 in each half and 2^-128 in both.
//!
//! One step multiplies by x, which is a shift and a reduction (a plain rotation instead would make 64 equal steps cancel, and
//! any two constant windows would meet with probability 1/2), adds the byte that comes, and takes out the one that leaves.

use breakwater_crypto::{Secret, derive};
use zeroize::Zeroize;

use crate::WINDOW;

/// x^64 modulo the polynomial.
const REDUCED: u64 = 0b11011;

/// Both halves.
pub(crate) type Digest = [u64; 2];

/// The secret tables.
pub(crate) struct Tables {
    /// T of both halves.
    incoming: Box<[Digest; 256]>,
    /// x^64·T.
    leaving: Box<[Digest; 256]>,
}

impl Tables {
    /// Tables of this key.
    pub(crate) fn new(key: &Secret) -> Tables {
        let mut tables = Tables { incoming: Box::new([[0; 2]; 256]), leaving: Box::new([[0; 2]; 256]) };
        let (pairs, _) = tables.incoming.as_chunks_mut::<2>();
        for (number, pair) in (0_u8..).zip(pairs) {
            let random = derive(key, "chunker-table", &[&[number]]);
            let (words, _) = random.expose().as_chunks::<8>();
            for (word, bytes) in pair.as_flattened_mut().iter_mut().zip(words) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        for (leaving, incoming) in tables.leaving.iter_mut().zip(tables.incoming.iter()) {
            *leaving = incoming.map(|half| (0..WINDOW).fold(half, |half, _| times_x(half)));
        }
        tables
    }

    /// The digest of a window.
    pub(crate) fn of(&self, window: &[u8]) -> Digest {
        window.iter().fold([0; 2], |digest, byte| {
            let [one, two] = self.incoming[usize::from(*byte)];
            [times_x(digest[0]) ^ one, times_x(digest[1]) ^ two]
        })
    }

    /// The digest of the window one position on.
    #[inline(always)]
    pub(crate) fn roll(&self, digest: Digest, incoming: u8, leaving: u8) -> Digest {
        let (add, remove) = (self.incoming[usize::from(incoming)], self.leaving[usize::from(leaving)]);
        [times_x(digest[0]) ^ add[0] ^ remove[0], times_x(digest[1]) ^ add[1] ^ remove[1]]
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.incoming.as_flattened_mut().zeroize();
        self.leaving.as_flattened_mut().zeroize();
    }
}

#[inline(always)]
const fn times_x(half: u64) -> u64 {
    (half << 1) ^ ((half >> 63) * REDUCED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, prop_assert_ne, proptest};

    use super::*;

    fn tables(key: u8) -> Tables {
        Tables::new(&Secret::from_bytes([key; 32]))
    }

    /// The product of two polynomials, bit by bit.
    fn times(one: u64, other: u64) -> u64 {
        (0..64).rev().fold(0, |sum, bit| times_x(sum) ^ if other >> bit & 1 == 1 { one } else { 0 })
    }

    #[test]
    fn the_polynomial_is_irreducible() {
        // Rabin's test: x^(2^64) = x, and x^(2^32) - x has no factor in common with it.
        let square = |value: u64| times(value, value);
        let power = |n: u32| (0..n).fold(2_u64, |value, _| square(value));
        assert_eq!(power(64), 2);
        // In a field every element but zero has an inverse: its power 2^64 - 2. Were there a common factor, this would fail.
        let difference = power(32) ^ 2;
        let inverse = (0..63).fold((1_u64, difference), |(product, value), _| {
            let value = square(value);
            (times(product, value), value)
        });
        assert_eq!(times(difference, inverse.0), 1);
    }

    proptest! {
        #[test]
        fn a_rolled_digest_is_that_of_the_window(bytes in prop::collection::vec(any::<u8>(), 65..300), key: u8) {
            let tables = tables(key);
            let mut digest = tables.of(&bytes[..64]);
            for end in 65..=bytes.len() {
                digest = tables.roll(digest, bytes[end - 1], bytes[end - 65]);
                prop_assert_eq!(digest, tables.of(&bytes[end - 64..end]));
            }
        }

        #[test]
        fn digests_are_sums_of_powers_times_table_elements(window in prop::collection::vec(any::<u8>(), 64)) {
            let tables = tables(1);
            for half in 0..2 {
                let sum = window.iter().enumerate().fold(0, |sum, (at, byte)| {
                    let power = 1_u64 << (63 - at);
                    sum ^ times(tables.incoming[usize::from(*byte)][half], power)
                });
                prop_assert_eq!(sum, tables.of(&window)[half]);
            }
        }

        #[test]
        fn constant_windows_do_not_meet(one: u8, other: u8, key: u8) {
            if one != other {
                let tables = tables(key);
                prop_assert_ne!(tables.of(&[one; 64]), tables.of(&[other; 64]));
            }
        }
    }

    #[test]
    fn the_halves_are_independent() {
        let tables = tables(3);
        let mut all: Vec<u64> = tables.incoming.as_flattened().to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 512);
        let ones: u32 = all.iter().map(|word| word.count_ones()).sum();
        assert!((15_500..17_300).contains(&ones), "{ones} of 32768 bits are set");
    }
}
