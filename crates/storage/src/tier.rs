//! How quickly what a place holds must be readable, and what that may cost: one word for what each provider calls a storage
//! class or access tier.

use std::fmt;
use std::str::FromStr;

/// From dear to store and free to read, to the opposite. Providers' names for them: docs/storage.md.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Read at once, at no charge for reading.
    #[default]
    Hot,
    /// Read at once, at a small charge; kept for a month at least.
    Warm,
    /// Read at once, at a charge; kept for a quarter of a year at least.
    Cold,
    /// Must be thawed for hours before it can be read, where the provider is slow at this tier.
    Archive,
}

impl Tier {
    /// All, the dearest to store first.
    pub const ALL: [Tier; 4] = [Tier::Hot, Tier::Warm, Tier::Cold, Tier::Archive];

    /// The word in documents and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Hot => "hot",
            Tier::Warm => "warm",
            Tier::Cold => "cold",
            Tier::Archive => "archive",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no tier (hint: hot, warm, cold or archive)")]
pub struct UnknownTier(String);

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Tier, UnknownTier> {
        Tier::ALL.into_iter().find(|tier| tier.as_str() == text).ok_or_else(|| UnknownTier(text.to_owned()))
    }
}

/// Whether an object can be read now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Availability {
    /// It can.
    #[default]
    Ready,
    /// It must be thawed first.
    Archived,
    /// It is being thawed.
    Thawing,
}

/// How fast an archived object is to become readable, which is a matter of price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ThawSpeed {
    /// Cheapest, up to two days.
    Bulk,
    /// The provider's usual one, up to half a day.
    #[default]
    Standard,
    /// Fastest where the provider has one: minutes to an hour.
    Fast,
}

/// What is asked of the provider when an archived object is thawed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thaw {
    /// How long it then stays readable, in days.
    pub days: u32,
    /// How fast.
    pub speed: ThawSpeed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_tiers_are_one_to_one() {
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse(), Ok(tier));
        }
        assert!("glacier".parse::<Tier>().unwrap_err().to_string().contains("archive"));
    }
}
