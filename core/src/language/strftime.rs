//! `strftime_now` of chat templates.

use std::fmt::Write as _;

/// Today by `format`; the directives templates use: `%Y %m %d %b %B %a %A %H %M %S %j %y %e %-d %%`. UTC.
pub(super) fn strftime_now(format: String) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    strftime(&format, now)
}

pub(super) fn strftime(format: &str, unix_seconds: u64) -> String {
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
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day, day_of_year) = civil(days);
    let month_name = MONTHS[(month - 1) as usize];
    let day_name = DAYS[(days % 7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // Writing to a string cannot fail.
        let _ = match chars.next() {
            Some('Y') => write!(out, "{year}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('j') => write!(out, "{day_of_year:03}"),
            Some('B') => out.write_str(month_name),
            Some('b' | 'h') => out.write_str(&month_name[..3]),
            Some('A') => out.write_str(day_name),
            Some('a') => out.write_str(&day_name[..3]),
            Some('H') => write!(out, "{:02}", seconds / 3600),
            Some('M') => write!(out, "{:02}", seconds / 60 % 60),
            Some('S') => write!(out, "{:02}", seconds % 60),
            Some('%') => out.write_char('%'),
            Some('-') => match chars.next() {
                Some('d') => write!(out, "{day}"),
                Some('m') => write!(out, "{month}"),
                Some(other) => write!(out, "%-{other}"),
                None => out.write_str("%-"),
            },
            Some(other) => write!(out, "%{other}"),
            None => out.write_char('%'),
        };
    }
    out
}

/// Year, month 1..=12, day 1..=31 and day of the year 1..=366 of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64, u64) {
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let day_of_year = days + 1;
    let mut month = 1;
    loop {
        let length = match month {
            2 => 28 + u64::from(leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if days < length {
            return (year, month, days + 1, day_of_year);
        }
        days -= length;
        month += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y", 0), "01 Jan 1970");
        assert_eq!(
            strftime("%A %-d %B %Y %H:%M:%S %j %q", 1_709_210_096),
            "Thursday 29 February 2024 12:34:56 060 %q"
        );
        assert_eq!(strftime("%a %e %m %y%", 978_307_199), "Sun 31 12 00%");
    }
}
