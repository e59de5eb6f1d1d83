//! Which packs are read when not all are.
//!
//! Invariant: of the runs `1/m` to `m/m` each pack is read by exactly one, whenever and wherever they run: the choice
//! follows from the pack's name alone.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Parts that a repository can be cut into at most.
const PARTS_MAX: u32 = 1_000_000;

/// Some of all packs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Subset {
    /// All of them.
    #[default]
    All,
    /// Part `part` (from 1) of `of`.
    Part {
        /// Which part.
        part: u32,
        /// Of how many.
        of: u32,
    },
    /// About this many of a hundred, others in every run.
    Percent(f64),
}

/// A subset that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("not a part of the data: `{0}`; hint: `2/7` for the second of seven parts, `5%` for a sample, or `all`")]
pub struct BadSubset(String);

impl Subset {
    /// Whether the pack `name` is in it. `salt` makes a sample another one in every run.
    pub(super) fn holds(&self, name: &str, salt: &[u8]) -> bool {
        match *self {
            Subset::All => true,
            Subset::Part { part, of } => number(name, &[]) % u64::from(of.max(1)) == u64::from(part.saturating_sub(1)),
            // The upper half of the number is finer than any percentage that somebody writes.
            Subset::Percent(percent) => ((number(name, salt) >> 32) as f64) < percent / 100.0 * 4_294_967_296.0,
        }
    }
}

/// A number that follows from a name, and is as good as drawn.
fn number(name: &str, salt: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::new().chain_update(salt).chain_update(name.as_bytes()).finalize().into();
    u64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default())
}

impl FromStr for Subset {
    type Err = BadSubset;

    fn from_str(text: &str) -> Result<Self, BadSubset> {
        let bad = || BadSubset(text.to_owned());
        if text == "all" {
            return Ok(Subset::All);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| bad())?;
            let right = percent.is_finite() && percent > 0.0 && percent <= 100.0;
            return if right { Ok(Subset::Percent(percent)) } else { Err(bad()) };
        }
        let (part, of) = text.split_once('/').ok_or_else(bad)?;
        let (part, of): (u32, u32) = (part.parse().map_err(|_| bad())?, of.parse().map_err(|_| bad())?);
        if (1..=of).contains(&part) && of <= PARTS_MAX { Ok(Subset::Part { part, of }) } else { Err(bad()) }
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subset::All => f.write_str("all"),
            Subset::Part { part, of } => write!(f, "{part}/{of}"),
            Subset::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn every_pack_is_in_exactly_one_part(names in prop::collection::vec("[a-z0-9/-]{1,60}", 1..50), of in 1u32..40) {
            for name in names {
                let parts = (1..=of).filter(|part| Subset::Part { part: *part, of }.holds(&name, b"x")).count();
                prop_assert_eq!(parts, 1);
            }
        }
    }

    #[test]
    fn a_sample_is_as_large_as_asked_and_another_one_each_time() {
        let names: Vec<String> = (0..20_000).map(|n| format!("data/x/pack/{n}")).collect();
        let sample = |salt: &[u8]| -> Vec<&String> {
            names.iter().filter(|name| Subset::Percent(5.0).holds(name, salt)).collect()
        };
        let (one, other) = (sample(b"1"), sample(b"2"));
        assert!((800..1200).contains(&one.len()), "{}", one.len());
        assert!(one != other);
        assert!(names.iter().all(|name| Subset::Percent(100.0).holds(name, b"1")));
    }

    #[test]
    fn words_are_understood_or_refused() {
        for text in ["all", "1/1", "3/7", "5%", "0.5%", "100%"] {
            assert_eq!(text.parse::<Subset>().unwrap().to_string(), text);
        }
        for text in ["", "0/3", "4/3", "1/0", "-1/3", "0%", "101%", "nan%", "inf%", "5", "1/2/3", "a/b", "1/1000001"] {
            assert!(text.parse::<Subset>().unwrap_err().to_string().contains("hint:"), "{text}");
        }
    }
}
