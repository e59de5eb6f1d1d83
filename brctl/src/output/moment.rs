//! Moments and spans of time as people and programs read them.

use breakwater_core::Timestamp;
use serde_json::Value;

/// The RFC 3339 text of microseconds since the epoch; null for 0, which on the wire means never.
pub(crate) fn rfc3339(micros: i64) -> Value {
    if micros == 0 { Value::Null } else { Value::String(Timestamp::from_micros(micros).to_string()) }
}

/// Microseconds as seconds with fraction.
#[expect(clippy::cast_precision_loss, reason = "seconds for people and programs")]
pub(crate) fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// A span for people: `0.4s`, `12s`, `3m 5s`, `2h 4m`, `5d 2h`.
pub(crate) fn span(micros: i64) -> String {
    let micros = micros.max(0);
    if micros < 10_000_000 {
        return format!("{:.1}s", seconds(micros));
    }
    let all = micros / 1_000_000;
    let (days, hours, minutes, secs) = (all / 86_400, all / 3600 % 24, all / 60 % 60, all % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, _) => format!("{minutes}m {secs}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// How long ago `moment` was: `3.0s ago`, or `in 2m 0s` when it is yet to come.
pub(crate) fn ago(moment: Timestamp, now: Timestamp) -> String {
    let micros = now.micros_since(moment);
    if micros >= 0 { format!("{} ago", span(micros)) } else { format!("in {}", span(-micros)) }
}

/// A moment for tables, to the second: `2026-11-20T12:50:38Z`.
pub(crate) fn to_the_second(moment: Timestamp) -> String {
    let text = moment.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_for_people() {
        let check = |micros: i64, text: &str| assert_eq!(span(micros), text);
        check(0, "0.0s");
        check(412_000, "0.4s");
        check(12_900_000, "12s");
        check(185_000_000, "3m 5s");
        check(7_440_000_000, "2h 4m");
        check(439_200_000_000, "5d 2h");
        check(-5, "0.0s");
    }

    #[test]
    fn ages_tell_past_from_future() {
        let now = Timestamp(100_000_000);
        assert_eq!(ago(Timestamp(97_000_000), now), "3.0s ago");
        assert_eq!(ago(Timestamp(220_000_000), now), "in 2m 0s");
    }

    #[test]
    fn moments_are_rfc_3339_or_null() {
        assert_eq!(rfc3339(0), Value::Null);
        assert_eq!(rfc3339(1_500_000), Value::from("1970-01-01T00:00:01.500000Z"));
        assert_eq!(to_the_second(Timestamp(1_500_000)), "1970-01-01T00:00:01Z");
    }
}
