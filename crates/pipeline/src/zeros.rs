//! Whether bytes are all zero.

/// Bytes compared at a time; the compiler makes wide loads of it.
const BLOCK: usize = 128;

/// Whether every byte of `bytes` is zero. Looks no further than the first block that is not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(BLOCK);
    blocks.by_ref().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && blocks.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_seen() {
        for length in [0, 1, 127, 128, 129, 4096] {
            assert!(is_zero(&vec![0; length]));
            for at in 0..length {
                let mut bytes = vec![0; length];
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {length}");
            }
        }
    }
}
