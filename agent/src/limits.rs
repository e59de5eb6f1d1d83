//! How much of the way to a region may be used, as declared and as its place takes it.

use std::num::NonZeroU64;

use breakwater_proto::v1;
use breakwater_storage::Limits;
use breakwater_storage::bandwidth::{BadDay, Calendar, Day, Days, Rate, Row};

/// The limits of a region as declared.
pub(crate) fn limits(declared: Option<&v1::RegionLimits>) -> Result<Limits, BadDay> {
    let mut limits = Limits::default();
    let Some(declared) = declared else { return Ok(limits) };
    if declared.uploads > 0 {
        limits.uploads = usize::try_from(declared.uploads).unwrap_or(usize::MAX);
    }
    limits.bandwidth = Calendar { rows: declared.bandwidth.iter().map(row).collect::<Result<_, _>>()? };
    Ok(limits)
}

fn row(rule: &v1::BandwidthRule) -> Result<Row, BadDay> {
    let named = rule.days.iter().map(|day| day.parse::<Day>()).collect::<Result<Days, _>>()?;
    let days = if rule.days.is_empty() { Days::ALL } else { named };
    let rate = NonZeroU64::new(rule.bytes_per_second);
    Ok(Row { days, from: rule.from_minute, to: rule.to_minute, rate: Rate { up: rate, down: rate } })
}

#[cfg(test)]
mod tests {
    use breakwater_core::Timestamp;

    use super::*;

    #[test]
    fn limits_as_declared() {
        assert_eq!(limits(None).unwrap(), Limits::default());
        let rule = |days: &[&str]| v1::BandwidthRule {
            bytes_per_second: 9,
            days: days.iter().map(|day| (*day).to_owned()).collect(),
            from_minute: 480,
            to_minute: 600,
        };
        let declared = |days| v1::RegionLimits { uploads: 3, bandwidth: vec![rule(days)] };
        let made = limits(Some(&declared(&["sat"]))).unwrap();
        assert_eq!(made.uploads, 3);
        let up_at = |moment| made.bandwidth.rate_at(Timestamp::parse(moment).unwrap()).up.map(u64::from);
        assert_eq!((up_at("2026-11-28T09:00:00Z"), up_at("2026-11-27T09:00:00Z")), (Some(9), None));
        assert_eq!(limits(Some(&declared(&[]))).unwrap().bandwidth.rows[0].days, Days::ALL);
        assert!(limits(Some(&declared(&["someday"]))).is_err());
    }
}
