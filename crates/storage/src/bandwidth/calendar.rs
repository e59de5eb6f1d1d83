//! Which rate holds when: rows of days and times, the first that fits counts. Pure: the moment comes in. All times are UTC.

use std::num::NonZeroU64;
use std::str::FromStr;

use breakwater_core::Timestamp;

const MICROS_OF_A_MINUTE: i64 = 60_000_000;
const MINUTES_OF_A_DAY: i64 = 24 * 60;

/// Bytes per second; `None` is without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// To the place.
    pub up: Option<NonZeroU64>,
    /// From the place.
    pub down: Option<NonZeroU64>,
}

/// Rates by days and times. Where no row holds the moment there is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// The first row that holds a moment counts.
    pub rows: Vec<Row>,
}

/// A time of some days, and the rate in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The days on which the time begins.
    pub days: Days,
    /// The minute of the day at which it begins.
    pub from: u32,
    /// The minute of the day before which it ends; of the next day when that is not later than the beginning.
    pub to: u32,
    /// The rate in it.
    pub rate: Rate,
}

impl Calendar {
    /// The same rate at all times.
    pub fn always(rate: Rate) -> Calendar {
        Calendar { rows: vec![Row { days: Days::ALL, from: 0, to: 0, rate }] }
    }

    /// The rate at this moment.
    pub fn rate_at(&self, now: Timestamp) -> Rate {
        let minutes = now.as_micros().div_euclid(MICROS_OF_A_MINUTE);
        let day = Day::of(minutes.div_euclid(MINUTES_OF_A_DAY));
        let minute = u32::try_from(minutes.rem_euclid(MINUTES_OF_A_DAY)).unwrap_or_default();
        self.rows.iter().find(|row| row.holds(day, minute)).map(|row| row.rate).unwrap_or_default()
    }
}

impl Row {
    fn holds(&self, day: Day, minute: u32) -> bool {
        if self.from < self.to {
            return self.days.contain(day) && (self.from..self.to).contains(&minute);
        }
        (self.days.contain(day) && minute >= self.from) || (self.days.contain(day.before()) && minute < self.to)
    }
}

/// A day of the week; 0 is Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(u8);

impl Day {
    /// The day of the week of a day since 1970-01-01, which was a Thursday.
    fn of(number: i64) -> Day {
        Day(u8::try_from((number + 3).rem_euclid(7)).unwrap_or_default())
    }

    fn before(self) -> Day {
        Day((self.0 + 6) % 7)
    }
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u8);

impl Days {
    /// Every day.
    pub const ALL: Days = Days(0x7f);

    fn contain(self, day: Day) -> bool {
        self.0 & (1 << day.0) != 0
    }
}

impl FromIterator<Day> for Days {
    fn from_iter<I: IntoIterator<Item = Day>>(days: I) -> Days {
        Days(days.into_iter().fold(0, |all, day| all | 1 << day.0))
    }
}

/// A text that is no day of the week.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no day of the week (hint: mon, tue, wed, thu, fri, sat or sun)")]
pub struct BadDay(String);

impl FromStr for Day {
    type Err = BadDay;

    fn from_str(text: &str) -> Result<Day, BadDay> {
        let words = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let found = words.iter().zip(0..).find(|(word, _)| **word == text);
        found.map(|(_, number)| Day(number)).ok_or_else(|| BadDay(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(days: &str, from: u32, to: u32, up: u64) -> Row {
        let days = days.split(',').map(|day| day.parse::<Day>().unwrap()).collect();
        Row { days, from: from * 60, to: to * 60, rate: Rate { up: NonZeroU64::new(up), down: None } }
    }

    fn check(calendar: &Calendar, moment: &str, up: Option<u64>) {
        let rate = calendar.rate_at(Timestamp::parse(moment).unwrap());
        assert_eq!(rate.up.map(NonZeroU64::get), up, "{moment}");
    }

    #[test]
    fn the_first_row_that_holds_the_moment_counts() {
        let rows = vec![row("wed", 12, 13, 3), row("mon,tue,wed,thu,fri", 8, 18, 1), row("fri", 22, 6, 2)];
        let calendar = Calendar { rows };
        // 2026-11-23 is a Monday.
        check(&calendar, "2026-11-23T07:59:59Z", None);
        check(&calendar, "2026-11-23T08:00:00Z", Some(1));
        check(&calendar, "2026-11-25T12:30:00Z", Some(3));
        check(&calendar, "2026-11-25T13:00:00Z", Some(1));
        check(&calendar, "2026-11-27T17:59:59Z", Some(1));
        check(&calendar, "2026-11-27T18:00:00Z", None);
        check(&calendar, "2026-11-27T23:00:00Z", Some(2));
        check(&calendar, "2026-11-28T05:59:59Z", Some(2));
        check(&calendar, "2026-11-28T06:00:00Z", None);
        check(&calendar, "2026-11-28T23:00:00Z", None);
    }

    #[test]
    fn a_row_that_ends_when_it_begins_is_a_day_long_and_24_is_the_end_of_one() {
        let calendar = Calendar { rows: vec![row("sat", 10, 10, 1), row("mon", 0, 24, 2)] };
        check(&calendar, "2026-11-28T09:59:00Z", None);
        check(&calendar, "2026-11-28T10:00:00Z", Some(1));
        check(&calendar, "2026-11-29T09:59:00Z", Some(1));
        check(&calendar, "2026-11-29T10:00:00Z", None);
        check(&calendar, "2026-11-30T00:00:00Z", Some(2));
        check(&calendar, "2026-11-30T23:59:59Z", Some(2));
        check(&calendar, "2026-12-01T00:00:00Z", None);
        check(&calendar, "1969-12-29T12:00:00Z", Some(2));
    }

    #[test]
    fn words_of_days() {
        let all: Days =
            ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].iter().map(|day| day.parse::<Day>().unwrap()).collect();
        assert_eq!(all, Days::ALL);
        assert!("monday".parse::<Day>().unwrap_err().to_string().contains("mon, tue"));
    }
}
