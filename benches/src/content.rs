//! Content to read: pages as a database writes them, and bytes that no compressor shortens.

/// Bytes of a page.
pub const PAGE: usize = 8192;

const WORDS: [&str; 64] = [
    "account",
    "active",
    "address",
    "amount",
    "april",
    "archive",
    "balance",
    "berlin",
    "bicycle",
    "billing",
    "blue",
    "branch",
    "cancelled",
    "card",
    "closed",
    "comment",
    "confirmed",
    "copper",
    "credit",
    "customer",
    "debit",
    "default",
    "delivery",
    "discount",
    "express",
    "failed",
    "freight",
    "garden",
    "gold",
    "green",
    "harbour",
    "invoice",
    "january",
    "kitchen",
    "ledger",
    "lisbon",
    "london",
    "margin",
    "monthly",
    "notice",
    "open",
    "order",
    "oslo",
    "paid",
    "paris",
    "pending",
    "premium",
    "priority",
    "product",
    "quarter",
    "red",
    "refund",
    "region",
    "return",
    "second",
    "shipped",
    "silver",
    "standard",
    "status",
    "store",
    "transfer",
    "urgent",
    "vienna",
    "yellow",
];

/// A small generator: the same numbers for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator of the numbers that belong to `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Fills `buffer` with bytes that no compressor shortens.
pub fn fill_random(random: &mut Random, buffer: &mut [u8]) {
    for part in buffer.chunks_mut(8) {
        let bytes = random.draw().to_le_bytes();
        part.copy_from_slice(&bytes[..part.len()]);
    }
}

/// Fills `buffer`, whole pages, with pages shaped like a PostgreSQL heap: a header, line pointers, and rows from the end
/// downwards, each with a tuple header, a serial number, a time, a few words and a random number.
pub fn fill_pages(random: &mut Random, first_row: &mut u64, buffer: &mut [u8]) {
    for page in buffer.chunks_mut(PAGE) {
        page.fill(0);
        let (mut lower, mut upper, mut pointer) = (24, page.len(), 0_u16);
        loop {
            let row = row(random, *first_row, pointer);
            let length = row.len().next_multiple_of(8);
            if upper - lower < length + 4 {
                break;
            }
            upper -= length;
            page[upper..upper + row.len()].copy_from_slice(&row);
            let line = (u32::try_from(row.len()).unwrap_or(0) << 17) | (1 << 15) | u32::try_from(upper).unwrap_or(0);
            page[lower..lower + 4].copy_from_slice(&line.to_le_bytes());
            lower += 4;
            pointer += 1;
            *first_row += 1;
        }
        page[..8].copy_from_slice(&(*first_row * 977).to_le_bytes());
        page[8..10].copy_from_slice(&random.draw().to_le_bytes()[..2]);
        page[12..14].copy_from_slice(&u16::try_from(lower).unwrap_or(0).to_le_bytes());
        page[14..16].copy_from_slice(&u16::try_from(upper).unwrap_or(0).to_le_bytes());
        page[16..20].copy_from_slice(&[0, 32, 4, 32]);
    }
}

fn row(random: &mut Random, number: u64, pointer: u16) -> Vec<u8> {
    let mut row = Vec::with_capacity(160);
    let transaction = u32::try_from(740 + number / 37).unwrap_or(u32::MAX);
    row.extend_from_slice(&transaction.to_le_bytes());
    row.extend_from_slice(&[0; 8]);
    row.extend_from_slice(&u32::try_from(number / 60).unwrap_or(0).to_le_bytes());
    row.extend_from_slice(&(pointer + 1).to_le_bytes());
    row.extend_from_slice(&[6, 0, 2, 9, 24, 0]);
    row.extend_from_slice(&number.to_le_bytes());
    row.extend_from_slice(&(800_000_000_000_000 + number * 13_000 + random.draw() % 9_000).to_le_bytes());
    row.extend_from_slice(&(random.draw() % 1_000_000).to_le_bytes());
    for _ in 0..6 + random.draw() % 5 {
        let word = WORDS[usize::try_from(random.draw() % 64).unwrap_or(0)];
        row.extend_from_slice(word.as_bytes());
        row.push(b' ');
    }
    row.extend_from_slice(&random.draw().to_le_bytes());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_compress_like_a_database_and_noise_does_not() {
        let mut buffer = vec![0; 128 << 10];
        fill_pages(&mut Random::new(1), &mut 1, &mut buffer);
        let ratio = buffer.len() as f64 / zstd::bulk::compress(&buffer, 3).unwrap().len() as f64;
        assert!((2.8..4.5).contains(&ratio), "{ratio}");
        fill_random(&mut Random::new(2), &mut buffer);
        assert!(zstd::bulk::compress(&buffer, 3).unwrap().len() >= buffer.len());
    }
}
