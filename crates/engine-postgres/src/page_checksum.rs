//! The checksum of data pages, as PostgreSQL computes it, and what a page's header says.
//!
//! Thirty-two FNV-1a sums run side by side over the page as little-endian words, with one more multiplication than FNV has;
//! they are folded into 16 bits together with the page's number.

const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
const BASE: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
/// Where the checksum stands in a page; it counts as zero in its own computation.
const CHECKSUM_AT: usize = 8;
/// Bytes of a page's header, without which a page says nothing.
const HEADER: usize = 24;

/// The checksum of `page` as number `block` of its relation fork. `page` is a multiple of 128 bytes.
pub(crate) fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASE;
    for (index, row) in page.chunks_exact(SUMS * 4).enumerate() {
        for (lane, (sum, word)) in sums.iter_mut().zip(row.chunks_exact(4)).enumerate() {
            let mut value = u32::from_le_bytes(word.try_into().unwrap_or_default());
            if index == 0 && lane * 4 == CHECKSUM_AT {
                value &= 0xFFFF_0000;
            }
            *sum = mix(*sum, value);
        }
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |result, sum| result ^ sum) ^ block;
    // 1 to 65535, so that zero can mean "none".
    u16::try_from(folded % 65_535 + 1).expect("at most 65535")
}

fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

/// What a page says, judged by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageState {
    /// Never written, or its checksum is right.
    Good,
    /// The checksum is wrong; the page claims this position as its last change.
    Bad {
        /// `pd_lsn` of the page.
        lsn: u64,
    },
}

/// Judges one page as number `block` of its relation fork.
pub(crate) fn judge_page(page: &[u8], block: u32) -> PageState {
    let u16_at = |at: usize| page.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
    let u32_at = |at: usize| page.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    if page.len() < HEADER {
        return PageState::Bad { lsn: 0 };
    }
    let lsn = u64::from(u32_at(0)) << 32 | u64::from(u32_at(4));
    let upper = u16_at(14);
    if upper == 0 {
        // A page without content is all zeros: the file was extended, the page not yet written.
        return if page.iter().all(|byte| *byte == 0) { PageState::Good } else { PageState::Bad { lsn } };
    }
    if u16_at(CHECKSUM_AT) == page_checksum(page, block) { PageState::Good } else { PageState::Bad { lsn } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8, block: u32) -> Vec<u8> {
        let mut page = vec![fill; 8192];
        page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn any_flipped_bit_and_any_other_place_is_found() {
        let good = page(0x5A, 7);
        assert_eq!(judge_page(&good, 7), PageState::Good);
        assert!(matches!(judge_page(&good, 8), PageState::Bad { .. }), "a page from another place");
        for at in [0, 9, 16, 4000, 8191] {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(matches!(judge_page(&bad, 7), PageState::Bad { .. }), "byte {at}");
        }
    }

    #[test]
    fn a_new_page_is_all_zeros() {
        let mut page = vec![0; 8192];
        assert_eq!(judge_page(&page, 0), PageState::Good);
        page[5000] = 1;
        assert!(matches!(judge_page(&page, 0), PageState::Bad { .. }));
    }

    #[test]
    fn the_position_is_read_high_part_first() {
        let mut page = page(1, 0);
        page[..8].copy_from_slice(&[2, 0, 0, 0, 0x48, 0x37, 0x6B, 0x01]);
        page[100] ^= 1;
        assert_eq!(judge_page(&page, 0), PageState::Bad { lsn: 0x2_016B_3748 });
    }
}
