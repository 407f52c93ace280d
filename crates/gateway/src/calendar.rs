//! Days and months of the calendar, in UTC, for budgets and usage. Knows no time zone and no clock
//! but the system's.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MILLISECONDS: i64 = 86_400_000;

/// A day, counted from 1 January 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

/// Milliseconds since 1970 by the system's clock; negative for a clock set before that.
pub fn now_milliseconds() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

impl Day {
    pub fn today() -> Day {
        Day::of(now_milliseconds())
    }

    pub fn of(milliseconds: i64) -> Day {
        Day(milliseconds.div_euclid(DAY_MILLISECONDS))
    }

    /// When it begins, in milliseconds since 1970.
    pub fn start_milliseconds(self) -> i64 {
        self.0.saturating_mul(DAY_MILLISECONDS)
    }

    /// The first day of its month.
    pub fn month_start(self) -> Day {
        let (_, _, day) = self.date();
        Day(self.0 - i64::from(day) + 1)
    }

    /// The first day of the month after its own.
    pub fn next_month(self) -> Day {
        // No month is longer than 31 days, and none shorter than 28.
        Day(self.month_start().0 + 31).month_start()
    }

    /// Year, month and day. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    /// `civil_from_days`: years begin in March, in eras of 400 years or 146,097 days.
    pub fn date(self) -> (i64, u32, u32) {
        let shifted = self.0.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month as u32, day as u32)
    }

    /// The reverse of [`Day::date`] (`days_from_civil` of the same source); nothing for a date that
    /// no calendar has.
    pub fn from_date(year: i64, month: u32, day: u32) -> Option<Day> {
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(0..=9999).contains(&year) {
            return None;
        }
        let shifted = year - i64::from(month <= 2);
        let era = shifted.div_euclid(400);
        let year_of_era = shifted.rem_euclid(400);
        let month_from_march = i64::from((month + 9) % 12);
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let found = Day(era * 146_097 + day_of_era - 719_468);
        (found.date() == (year, month, day)).then_some(found)
    }

    /// Of `2026-11-23`, or of `2026-11` for the first day of a month.
    pub fn parse(text: &str) -> Option<Day> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next()?;
            let is_number = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse::<u32>().ok()).flatten()
        };
        let (year, month) = (part(4)?, part(2)?);
        let day = if text.len() > 7 { part(2)? } else { 1 };
        let is_whole = parts.next().is_none();
        is_whole.then(|| Day::from_date(i64::from(year), month, day)).flatten()
    }
}

/// `2026-11-23`.
impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(formatter, "{year:04}-{month:02}-{day:02}")
    }
}

/// Milliseconds since 1970 of `2026-11-23T17:04:05Z`, with parts of a second or another offset from UTC too
/// (RFC 3339).
pub fn parse_time(text: &str) -> Option<i64> {
    let (day, rest) = text.split_once(['T', 't', ' ']).filter(|(day, _)| day.len() == 10)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let (whole, part) = time.split_once('.').unwrap_or((time, "0"));
    let two = |text: &str, below: i64| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<i64>().ok()).flatten().filter(|number| *number < below)
    };
    let mut numbers = whole.split(':');
    let (hours, minutes) = (two(numbers.next()?, 24)?, two(numbers.next()?, 60)?);
    // A second that was put in counts as the one after it.
    let seconds = two(numbers.next()?, 61)?;
    let is_part = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if numbers.next().is_some() || !is_part {
        return None;
    }
    let milliseconds: i64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    let offset: i64 = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let offset: i64 = two(hours, 24)? * 60 + two(minutes, 60)?;
            if zone.starts_with('-') { -offset } else { offset }
        }
    };
    let day = Day::parse(day)?.start_milliseconds();
    Some(day + ((hours * 60 + minutes - offset) * 60 + seconds) * 1000 + milliseconds)
}

/// `2026-11-23 17:04:05 UTC`.
pub fn time_text(milliseconds: i64) -> String {
    let day = Day::of(milliseconds);
    let seconds = milliseconds.saturating_sub(day.start_milliseconds()) / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{day} {hours:02}:{minutes:02}:{seconds:02} UTC")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (text, day) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("2024-03-01", 19_783),
            ("2100-02-28", 47_540),
            ("2100-03-01", 47_541),
        ] {
            assert_eq!(Day::parse(text), Some(Day(day)), "{text}");
            assert_eq!(Day(day).to_string(), text);
        }
        assert_eq!(Day::parse("2024-12"), Day::parse("2024-12-01"));
        for wrong in ["2023-02-29", "2024-13-01", "2024-1-1", "24-01-01", "2024-01-01-01", "", "x"]
        {
            assert_eq!(Day::parse(wrong), None, "{wrong}");
        }
        assert_eq!(time_text(1_700_000_000_123), "2023-11-14 22:13:20 UTC");
    }

    #[test]
    fn times_are_read_with_their_zones() {
        for (text, milliseconds) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T22:13:20.1239Z", 1_700_000_000_123),
            ("2023-11-15 00:13:20+02:00", 1_700_000_000_000),
            ("2023-11-14T16:43:20-05:30", 1_700_000_000_000),
        ] {
            assert_eq!(parse_time(text), Some(milliseconds), "{text}");
        }
        for wrong in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T24:00:00Z",
            "2023-11T22:13:20Z",
            "2023-11-14T22:13Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+2",
            "2023-11-14T+2:13:20Z",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn months_follow_each_other() {
        let mut month = Day(0);
        for number in 0..2400 {
            let (year, of_year, day) = month.date();
            assert_eq!((year, of_year as i64, day), (1970 + number / 12, number % 12 + 1, 1));
            month = month.next_month();
        }
    }

    proptest! {
        #[test]
        fn every_day_has_one_date(day in -719_528i64..2_932_896) {
            let (year, month, of_month) = Day(day).date();
            prop_assert_eq!(Day::from_date(year, month, of_month), Some(Day(day)));
            prop_assert_eq!(Day::parse(&Day(day).to_string()), Some(Day(day)));
            prop_assert_eq!(Day(day).month_start().date(), (year, month, 1));
        }
    }
}
