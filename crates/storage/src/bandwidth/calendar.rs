//! Which rate holds when: rows of days and times, the first that fits counts. Pure: the moment comes in, and the zone is a value.

use std::fmt;
use std::str::FromStr;

use breakwater_core::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;

const MINUTES_OF_A_DAY: u16 = 24 * 60;

/// Bytes per second; `None` is without a limit, zero lets nothing pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// To the place.
    pub up: Option<u64>,
    /// From the place.
    pub down: Option<u64>,
}

/// Rates by days and times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// Whose days and times the rows mean.
    pub zone: Zone,
    /// The first row that holds a moment counts.
    pub rows: Vec<Row>,
    /// What counts where no row does.
    pub otherwise: Rate,
}

/// A time of some days, and the rate in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The days on which the time begins.
    pub days: Days,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends; on the next day when that is not later than the beginning.
    pub to: TimeOfDay,
    /// The rate in it.
    pub rate: Rate,
}

impl Calendar {
    /// The rate at this moment.
    pub fn rate_at(&self, now: Timestamp) -> Rate {
        if self.rows.is_empty() {
            return self.otherwise;
        }
        // A clock beyond the year 9999 is broken; it must not stop a backup.
        let Ok(moment) = jiff::Timestamp::from_microsecond(now.as_micros()) else { return self.otherwise };
        let local = self.zone.0.to_datetime(moment);
        let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0);
        let row = self.rows.iter().find(|row| row.holds(local.date().weekday(), minute));
        row.map_or(self.otherwise, |row| row.rate)
    }
}

impl Row {
    fn holds(&self, day: Weekday, minute: u16) -> bool {
        let (from, to) = (self.from.0, self.to.0);
        if from < to {
            return self.days.contain(day) && (from..to).contains(&minute);
        }
        (self.days.contain(day) && minute >= from) || (self.days.contain(day.previous()) && minute < to)
    }
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u8);

impl Days {
    /// Every day.
    pub const ALL: Days = Days(0x7f);

    fn contain(self, day: Weekday) -> bool {
        self.0 & bit(day) != 0
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

/// A time of day, to the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay(u16);

/// Whose days and times are meant.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Zone {
        Zone(TimeZone::UTC)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.iana_name().unwrap_or("local"))
    }
}

/// A text that is no part of a calendar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCalendar {
    /// Not days.
    #[error("`{0}` are no days of the week (hint: `daily`, `mon-fri` or `sat,sun`)")]
    Days(String),
    /// Not a time of day.
    #[error("`{0}` is no time of day (hint: `00:00` to `23:59`)")]
    Time(String),
    /// Not a zone.
    #[error("`{0}` is no time zone that this host knows (hint: `utc`, `local` or a name such as `Europe/Berlin`)")]
    Zone(String),
}

impl FromStr for Days {
    type Err = BadCalendar;

    /// Reads `daily`, or days and ranges of days: `mon-fri`, `sat,sun`, `fri-mon`.
    fn from_str(text: &str) -> Result<Days, BadCalendar> {
        if text == "daily" {
            return Ok(Days::ALL);
        }
        let bad = || BadCalendar::Days(text.to_owned());
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (mut day, last) = (weekday(first).ok_or_else(bad)?, weekday(last).ok_or_else(bad)?);
            days |= bit(day);
            while day != last {
                day = day.next();
                days |= bit(day);
            }
        }
        Ok(Days(days))
    }
}

fn weekday(text: &str) -> Option<Weekday> {
    Some(match text.trim() {
        "mon" => Weekday::Monday,
        "tue" => Weekday::Tuesday,
        "wed" => Weekday::Wednesday,
        "thu" => Weekday::Thursday,
        "fri" => Weekday::Friday,
        "sat" => Weekday::Saturday,
        "sun" => Weekday::Sunday,
        _ => return None,
    })
}

impl FromStr for TimeOfDay {
    type Err = BadCalendar;

    /// Reads `08:30`.
    fn from_str(text: &str) -> Result<TimeOfDay, BadCalendar> {
        let is_number = |digits: &&str| digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = |digits: &str| Some(digits).filter(is_number)?.parse::<u16>().ok();
        let minutes = text.split_once(':').and_then(|(hour, minute)| {
            let (hour, minute) = (number(hour)?, number(minute).filter(|minute| *minute < 60)?);
            Some(hour * 60 + minute).filter(|minutes| *minutes < MINUTES_OF_A_DAY)
        });
        minutes.map(TimeOfDay).ok_or_else(|| BadCalendar::Time(text.to_owned()))
    }
}

impl FromStr for Zone {
    type Err = BadCalendar;

    /// Reads `utc`, `local` (the zone of this host), or the name of a zone that the host knows.
    fn from_str(text: &str) -> Result<Zone, BadCalendar> {
        let bad = || BadCalendar::Zone(text.to_owned());
        Ok(Zone(match text {
            "utc" => TimeZone::UTC,
            "local" => TimeZone::try_system().map_err(|_| bad())?,
            name => TimeZone::get(name).map_err(|_| bad())?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(days: &str, from: &str, to: &str, up: u64) -> Row {
        let rate = Rate { up: Some(up), down: None };
        Row { days: days.parse().unwrap(), from: from.parse().unwrap(), to: to.parse().unwrap(), rate }
    }

    fn up_at(calendar: &Calendar, moment: &str) -> Option<u64> {
        calendar.rate_at(Timestamp::parse(moment).unwrap()).up
    }

    #[test]
    fn the_first_row_that_holds_the_moment_counts() {
        let rows = vec![row("wed", "12:00", "13:00", 3), row("mon-fri", "08:00", "18:00", 1), row("fri", "22:00", "06:00", 2)];
        let calendar = Calendar { rows, ..Calendar::default() };
        // 2026-11-23 is a Monday.
        let check = |moment, up| assert_eq!(up_at(&calendar, moment), up, "{moment}");
        check("2026-11-23T07:59:59Z", None);
        check("2026-11-23T08:00:00Z", Some(1));
        check("2026-11-25T12:30:00Z", Some(3));
        check("2026-11-25T13:00:00Z", Some(1));
        check("2026-11-27T17:59:59Z", Some(1));
        check("2026-11-27T18:00:00Z", None);
        check("2026-11-27T23:00:00Z", Some(2));
        check("2026-11-28T05:59:59Z", Some(2));
        check("2026-11-28T06:00:00Z", None);
        check("2026-11-28T23:00:00Z", None);
    }

    #[test]
    fn rows_mean_the_clock_on_the_wall_also_when_it_is_changed() {
        let zone = Zone(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());
        let calendar = Calendar { zone, rows: vec![row("daily", "08:00", "09:00", 1)], ..Calendar::default() };
        assert_eq!(up_at(&calendar, "2026-10-24T06:30:00Z"), Some(1), "in summer two hours ahead of UTC");
        assert_eq!(up_at(&calendar, "2026-10-25T06:30:00Z"), None, "in winter one");
        assert_eq!(up_at(&calendar, "2026-10-25T07:30:00Z"), Some(1));
    }

    #[test]
    fn a_row_that_ends_when_it_begins_is_a_day_long() {
        let calendar = Calendar { rows: vec![row("sat", "10:00", "10:00", 1)], ..Calendar::default() };
        assert_eq!(up_at(&calendar, "2026-11-28T09:59:00Z"), None);
        assert_eq!(up_at(&calendar, "2026-11-28T10:00:00Z"), Some(1));
        assert_eq!(up_at(&calendar, "2026-11-29T09:59:00Z"), Some(1));
        assert_eq!(up_at(&calendar, "2026-11-29T10:00:00Z"), None);
    }

    #[test]
    fn texts() {
        assert_eq!("fri-mon".parse::<Days>().unwrap(), "fri,sat,sun,mon".parse().unwrap());
        assert_eq!("mon-sun".parse::<Days>().unwrap(), Days::ALL);
        for bad in ["", "monday", "mon-", "mon;tue", "mon,"] {
            assert!(bad.parse::<Days>().unwrap_err().to_string().contains("mon-fri"));
        }
        assert_eq!("23:59".parse::<TimeOfDay>().unwrap(), TimeOfDay(1439));
        for bad in ["24:00", "8:00", "08:60", "0800", "", "-1:00", "+8:00"] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad}");
        }
        assert_eq!("utc".parse::<Zone>().unwrap(), Zone::default());
        assert!("Mars/Olympus".parse::<Zone>().unwrap_err().to_string().contains("Europe/Berlin"));
    }
}
