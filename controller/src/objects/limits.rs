//! How much of the way to a region may be used: puts at once, and bytes per second by the hour of the week.

use breakwater_core::ByteCount;
use serde::{Deserialize, Serialize};

/// Limits of one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegionLimits {
    /// Puts at once; the agent's own measure unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploads: Option<u32>,
    /// Rates; of several that apply at a moment the first counts, and where none applies there is no limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bandwidth: Vec<BandwidthRule>,
}

/// A rate and when it applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BandwidthRule {
    /// Bytes per second, up and down each: `50MiB`, `2GiB`, or a number.
    pub rate: String,
    /// The days on which it begins; every day unless said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// From this time of the day on, UTC: `08:00`; from its beginning unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Until this time, exclusive; one that is not later than `from` is of the next day. To the end of the day unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are the days of the week")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// The word in documents and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Day::Mon => "mon",
            Day::Tue => "tue",
            Day::Wed => "wed",
            Day::Thu => "thu",
            Day::Fri => "fri",
            Day::Sat => "sat",
            Day::Sun => "sun",
        }
    }
}

impl RegionLimits {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.uploads == Some(0) {
            return Err("limits.uploads: with none at once nothing is ever written".to_owned());
        }
        self.bandwidth.iter().try_for_each(|rule| rule.resolve().map(drop))
    }
}

impl BandwidthRule {
    /// Bytes per second, and the minutes of the day from which and to which it applies.
    pub fn resolve(&self) -> Result<(u64, u32, u32), String> {
        let about = |trouble: String| format!("limits.bandwidth: {trouble}");
        let rate: ByteCount = self.rate.parse().map_err(|error| about(format!("rate: {error}")))?;
        if rate.0 == 0 {
            return Err(about("rate: with nothing per second nothing is ever written".to_owned()));
        }
        let minute =
            |text: &Option<String>, default| text.as_deref().map_or(Ok(default), minute_of_day).map_err(&about);
        Ok((rate.0, minute(&self.from, 0)?, minute(&self.to, 24 * 60)?))
    }
}

/// The minute of the day that `HH:MM` names; `24:00` is its end.
fn minute_of_day(text: &str) -> Result<u32, String> {
    let parts = text.split_once(':').and_then(|(h, m)| Some((h.parse::<u32>().ok()?, m.parse::<u32>().ok()?)));
    match parts {
        Some((hour, minute)) if minute < 60 && (hour < 24 || (hour, minute) == (24, 0)) => Ok(hour * 60 + minute),
        _ => Err(format!("`{text}` is no time of a day (hint: HH:MM, UTC)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(yaml: &str) -> BandwidthRule {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    #[test]
    fn rates_and_times_are_read() {
        let office = rule("{rate: 50MiB, days: [mon, fri], from: '08:00', to: '18:30'}");
        assert_eq!(office.resolve(), Ok((50 << 20, 480, 1110)));
        assert_eq!(rule("{rate: '1000'}").resolve(), Ok((1000, 0, 1440)));
        for (bad, says) in [
            ("{rate: 0B}", "nothing per second"),
            ("{rate: fast}", "fast"),
            ("{rate: 1MiB, from: '25:00'}", "25:00"),
            ("{rate: 1MiB, to: noon}", "HH:MM"),
        ] {
            let error = rule(bad).resolve().unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
