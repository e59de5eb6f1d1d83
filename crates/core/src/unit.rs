//! Quantities with their unit in the type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment: microseconds since the Unix epoch, UTC. The form of time on disk and on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Seconds since the Unix epoch, with fraction.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people and metrics")]
    pub fn as_seconds_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Microseconds from `earlier` to `self`; negative when `earlier` is later.
    pub const fn micros_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `self` moved by `micros` microseconds.
    pub const fn plus_micros(self, micros: i64) -> Self {
        Timestamp(self.0.saturating_add(micros))
    }

    /// Reads a moment as people and PostgreSQL write it: RFC 3339 (`2026-11-20T12:50:38Z`,
    /// `2026-11-20 12:50:38.5+01:00`); the zone is required.
    pub fn parse(text: &str) -> Result<Self, BadTimestamp> {
        let text = text.trim();
        let mut candidate = text.replacen(' ', "T", 1);
        // `+00` and `+0100` are common; RFC 3339 wants `+01:00`.
        if let Some(at) = candidate.rfind(['+', '-']).filter(|at| *at > 10 && candidate.is_ascii()) {
            let zone = candidate.get(at + 1..).unwrap_or_default().to_owned();
            match zone.len() {
                2 => candidate.push_str(":00"),
                4 => candidate.insert(at + 3, ':'),
                _ => {}
            }
        }
        let moment = OffsetDateTime::parse(&candidate, &Rfc3339)
            .map_err(|source| BadTimestamp { text: text.to_owned(), source })?;
        let micros = moment.unix_timestamp_nanos().div_euclid(1000);
        Ok(Timestamp(i64::try_from(micros).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with microseconds: `2026-11-20T12:50:38.000123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(moment) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000) else {
            return write!(f, "{}us", self.0);
        };
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            moment.microsecond()
        )
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Timestamp::parse(text)
    }
}

/// A text that is not a moment.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a moment with a time zone, like 2026-11-20T12:50:38Z")]
pub struct BadTimestamp {
    text: String,
    source: time::error::Parse,
}

/// A number of bytes. Displays with binary units, serialises as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        ByteCount(n << 10)
    }

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        ByteCount(n << 20)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteCount {
    #[expect(clippy::cast_precision_loss, reason = "three digits for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        match UNITS.get(unit) {
            Some(name) if unit == 0 => write!(f, "{} {name}", self.0),
            Some(name) => write!(f, "{value:.1} {name}"),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for ByteCount {
    type Err = BadByteCount;

    /// Reads `65536`, `64KiB`, `50 MiB`, `1GiB` or `2TiB`.
    fn from_str(text: &str) -> Result<Self, BadByteCount> {
        let bad = || BadByteCount(text.to_owned());
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" | "k" | "K" => 10,
            "MiB" | "m" | "M" => 20,
            "GiB" | "g" | "G" => 30,
            "TiB" | "t" | "T" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(ByteCount).ok_or_else(bad)
    }
}

/// A text that is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size like 64KiB or 1MiB")]
pub struct BadByteCount(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let good = [
            ("4096", 4096),
            ("64KiB", 65536),
            ("1 MiB", 1 << 20),
            ("4GiB", 4 << 30),
            ("8m", 8 << 20),
            ("2TiB", 2 << 40),
        ];
        for (text, bytes) in good {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
        for bad in ["", "KiB", "1.5MiB", "1TB", "-1", "99999999TiB"] {
            assert!(bad.parse::<ByteCount>().unwrap_err().to_string().contains("64KiB"), "{bad}");
        }
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        let check = |text: &str, micros: i64| assert_eq!(Timestamp::parse(text).unwrap().0, micros, "{text}");
        check("1970-01-01T00:00:01Z", 1_000_000);
        check("1970-01-01 00:00:01.5+00", 1_500_000);
        check("1970-01-01 01:00:01+01:00", 1_000_000);
        check("1970-01-01T01:00:01+0100", 1_000_000);
        assert!(Timestamp::parse("1970-01-01 00:00:01").is_err(), "no zone");
        assert!(Timestamp::parse("yesterday").is_err());
        assert!(Timestamp::parse("1970-01-01 00:00:01+0é0").is_err(), "a zone of four bytes, but not of four digits");
    }

    #[test]
    fn moments_round_trip_through_text() {
        let moment = Timestamp(1_795_179_038_000_123);
        assert_eq!(Timestamp::parse(&moment.to_string()).unwrap(), moment);
    }

    #[test]
    fn byte_counts_are_for_people() {
        assert_eq!(ByteCount(12).to_string(), "12 B");
        assert_eq!(ByteCount::mib(64).to_string(), "64.0 MiB");
    }
}
