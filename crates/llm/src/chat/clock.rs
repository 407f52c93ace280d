//! Dates for `strftime_now`, in UTC: the standard library knows no time zones, and a server's would
//! surprise a user.

const SECONDS_PER_DAY: u64 = 86_400;
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Formats a time with the codes of C's `strftime` that templates use. Unknown codes stay as they
/// are.
pub(super) fn format_utc(format: &str, unix_seconds: u64) -> String {
    let days = unix_seconds / SECONDS_PER_DAY;
    let second_of_day = unix_seconds % SECONDS_PER_DAY;
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let (year, month, day, day_of_year) = civil_date(days);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month_name = MONTHS[month - 1];
    let hour_of_half = (hour + 11) % 12 + 1;

    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut code = characters.next();
        // glibc's flag against padding.
        let unpadded = code == Some('-');
        if unpadded {
            code = characters.next();
        }
        let number = |value: u64, width: usize| {
            if unpadded { value.to_string() } else { format!("{value:0width$}") }
        };
        match code {
            Some('Y') => text.push_str(&year.to_string()),
            Some('y') => text.push_str(&number(year % 100, 2)),
            Some('m') => text.push_str(&number(month as u64, 2)),
            Some('d') => text.push_str(&number(day, 2)),
            Some('j') => text.push_str(&number(day_of_year, 3)),
            Some('H') => text.push_str(&number(hour, 2)),
            Some('I') => text.push_str(&number(hour_of_half, 2)),
            Some('M') => text.push_str(&number(minute, 2)),
            Some('S') => text.push_str(&number(second, 2)),
            Some('p') => text.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('A') => text.push_str(weekday),
            Some('a') => text.push_str(&weekday[..3]),
            Some('B') => text.push_str(month_name),
            Some('b' | 'h') => text.push_str(&month_name[..3]),
            Some('F') => text.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => text.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => text.push_str("UTC"),
            Some('z') => text.push_str("+0000"),
            Some('%') => text.push('%'),
            other => {
                text.push('%');
                text.extend(unpadded.then_some('-').into_iter().chain(other));
            }
        }
    }
    text
}

/// Year, month (1 to 12), day of the month and day of the year (from 1) of a day counted from 1
/// January 1970.
fn civil_date(mut days: u64) -> (u64, usize, u64, u64) {
    // Whole cycles of 400 years first, so that the loop below stays short for any input.
    let cycle_days = 146_097;
    let mut year = 1970 + 400 * (days / cycle_days);
    days %= cycle_days;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = days + 1;
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::format_utc;

    #[test]
    fn known_dates() {
        assert_eq!(format_utc("%d %b %Y %H:%M:%S %A %j", 0), "01 Jan 1970 00:00:00 Thursday 001");
        // 29 February of a year divisible by 400, the last second of the day.
        assert_eq!(format_utc("%F %T %a %p %I", 951_868_799), "2000-02-29 23:59:59 Tue PM 11");
        assert_eq!(format_utc("%B %-d, %y %% %q %", 1_795_392_000), "November 23, 26 % %q %");
        assert_eq!(format_utc("%Y", u64::MAX).len(), 12);
    }
}
